"""Turns sources into uint8 pixels in separate processes: reads, hashes, decodes, resizes and crops them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hierax.collection.listing import Listing
from hierax.collection.source import Source, as_bytes, content_hash
from hierax.collection.store import Block, path_text
from hierax.embedding.processes import Pool
from hierax.processing import DEFAULT_MAX_PIXELS, HieraImageProcessor, ImageError, Preprocessing
from hierax.processing.errors import RefusedError
from hierax.processing.frames import FIRST_ONLY
from hierax.processing.resize import resize_crop_fast

if TYPE_CHECKING:
    from hierax.embedding.clips import ClipDecoder


@dataclass(frozen=True)
class Item:
    """A source that was read.

    Attributes:
        source: what it is.
        hash: of its bytes, 32 hexadecimal digits; "" where it could not be read at all.
        width, height: of the image, upright, in pixels.
        error: why it cannot be used, or None.
        start, end: of a window of a video, in seconds.
    """

    source: Source
    hash: str
    width: int = 0
    height: int = 0
    error: str | None = None
    start: float | None = None
    end: float | None = None


@dataclass
class Pixels:
    """One batch of a block. Pixels of unreadable sources are zeros, so that a batch is always the same.

    Attributes:
        block, first: which sources they are: those of the block from `first` on.
        items: of each source.
        first_only: sources of which only the first frame or page was read, see `FirstOnly.take`.
        pixels: uint8 `[B, C, H, W]`, of videos `[B, C, T, H, W]`; float32 for models of other values.
    """

    block: Block
    first: int
    items: list[Item]
    pixels: Tensor
    first_only: dict[str, list[str]] = field(default_factory=dict)

    def pin_memory(self) -> Pixels:
        """The same in page-locked memory; called by PyTorch's loader."""
        return replace(self, pixels=self.pixels.pin_memory())


class Decoder:
    """Reads sources as `record` says. A plain object that can be sent to other processes."""

    def __init__(self, record: Preprocessing, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> None:
        self.record, self.shape = record, record.fixed_size
        self.processor = HieraImageProcessor(record, fast=True, max_pixels=max_pixels)

    def __call__(self, source: Source, out: np.ndarray) -> Item:
        """Writes the pixels of one source into `out`, `[C, H, W]` of zeros as `dtype_of` says."""
        digest = ""
        try:
            content = as_bytes(source.read(max_pixels=self.processor.max_pixels))
            digest = content_hash(content)
            picture, plan = next(self.processor.decoded(content, names=[path_text(source.path)]))
            part = resize_crop_fast(picture, plan, resample=self.record.resample)
            if part.dtype != np.uint8 and self.record.do_rescale:  # an array of floats, 0 to 1
                part = np.rint(part.clip(0, 1) * 255)
        except Exception as error:  # readers of sources, such as network clients, raise errors of every kind
            return failed_item(source, digest, error)
        (top, bottom), (left, right) = plan.rows, plan.columns
        out[:, top - plan.top : bottom - plan.top, left - plan.left : right - plan.left] = np.moveaxis(part, -1, 0)
        width, height = picture.size if isinstance(picture, Image.Image) else picture.shape[1::-1]
        return Item(source, digest, width, height)


def dtype_of(record: Preprocessing) -> type[np.uint8] | type[np.float32]:
    """The dtype of a model's pixels: uint8 for gray levels, float32 for values as files have them."""
    return np.uint8 if record.do_rescale else np.float32


def failed_item(source: Source, digest: str, error: Exception) -> Item:
    """The item for an unreadable source. After a lack of memory or a refused read it has no hash, so that an update
    tries it again.
    """
    return Item(source, "" if isinstance(error, (MemoryError, RefusedError)) else digest, error=reason_of(error))


def reason_of(error: BaseException) -> str:
    """Why a source cannot be read, in one line; with the type of the error if its text may not tell it."""
    if isinstance(error, ImageError):
        problem = error.problem
    else:
        reason = getattr(error, "strerror", None)
        problem = reason if isinstance(reason, str) and reason else str(error)
    text = " ".join(problem.split())
    if not text or isinstance(error, (ImageError, ValueError, OSError)):
        return text or ("not enough memory" if isinstance(error, MemoryError) else type(error).__name__)
    return f"{type(error).__name__}: {text}"


@dataclass(frozen=True)
class Request:
    """A request to decode one batch: sources of `block` from `first` on."""

    block: Block
    first: int
    sources: list[Source]


def decoder_of(record: Preprocessing, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Decoder | ClipDecoder:
    """The reader for images or windows of videos, as the record says."""
    if record.num_frames is None:
        return Decoder(record, max_pixels=max_pixels)
    from hierax.embedding.clips import ClipDecoder

    return ClipDecoder(record)


class _Requests(Sequence[Request]):
    """The requests for all batches of these blocks in order, made when they are indexed."""

    def __init__(self, blocks: Sequence[Block], listings: Sequence[Listing], batch: int, block: int) -> None:
        self._listings, self._batch, self._block = listings, batch, block
        self._places = [
            (one, first)
            for one in blocks
            for first in range(0, min(block, len(listings[one.listing]) - one.number * block), batch)
        ]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Request:  # type: ignore[override]
        block, first = self._places[index]
        listing, start = self._listings[block.listing], block.number * self._block
        stop = min(start + first + self._batch, start + self._block, len(listing))
        return Request(block, first, [listing[i] for i in range(start + first, stop)])


class _Batch:
    """The function that a worker process calls with each request."""

    def __init__(self, decoder: Decoder | ClipDecoder) -> None:
        self.decoder = decoder

    def __call__(self, request: Request) -> Pixels:
        size = (len(request.sources), self.decoder.record.num_channels, *self.decoder.shape)
        pixels = np.zeros(size, dtype_of(self.decoder.record))
        items = [self.decoder(source, out) for source, out in zip(request.sources, pixels, strict=True)]
        return Pixels(request.block, request.first, items, torch.from_numpy(pixels), FIRST_ONLY.take())


def batches_of(
    blocks: Sequence[Block],
    decoder: Decoder | ClipDecoder,
    listings: Sequence[Listing],
    *,
    batch: int,
    block: int,
    workers: int,
    pin: bool = False,
) -> Generator[Pixels]:
    """Yields all batches of these blocks in order, decoded in advance by `workers` processes (0: in this one). At
    most four finished batches wait for each worker.

    Raises:
        ProcessDied: a process was killed.
        MemoryError: there is not enough memory for a batch.
    """
    requests, work, ready = (
        _Requests(blocks, listings, batch, block),
        _Batch(decoder),
        Pixels.pin_memory if pin else None,
    )
    if workers:
        yield from Pool(work, min(workers, len(requests)), ready=ready).map(requests)
        return
    for request in requests:
        found = work(request)
        yield found if ready is None else ready(found)
