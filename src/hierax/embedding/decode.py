"""Reads sources in separate processes: their bytes are hashed, decoded, resized and cropped to uint8 pixels."""

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
        source: the source.
        hash: hash of its bytes, 32 hexadecimal digits; "" if the bytes could not be read.
        width, height: size of the upright image, in pixels.
        error: the reason why it cannot be used, or None.
        start, end: start and end of a segment of a video, in seconds.
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
    """One batch of a block. The pixels of an unreadable source are zeros, so that the shape of a batch does not change.

    Attributes:
        block, first: the block, and the position of the first source of the batch in it.
        items: one item for each source.
        pixels: uint8 `[B, C, H, W]`, for videos `[B, C, T, H, W]`; float32 for models that do not take gray levels.
        first_only: sources of which only the first frame or page was read; see `FirstOnly.take`.
    """

    block: Block
    first: int
    items: list[Item]
    pixels: Tensor
    first_only: dict[str, list[str]] = field(default_factory=dict)

    def pin_memory(self) -> Pixels:
        """A copy in page-locked memory."""
        return replace(self, pixels=self.pixels.pin_memory())


class Decoder:
    """Reads images as pixels, according to `record`. It can be sent to other processes."""

    def __init__(self, record: Preprocessing, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> None:
        self.record, self.shape = record, record.fixed_size
        self.processor = HieraImageProcessor(record, fast=True, max_pixels=max_pixels)

    def __call__(self, source: Source, out: np.ndarray) -> Item:
        """Writes the pixels of one source into `out`, `[C, H, W]` of zeros with the dtype that `dtype_of` returns."""
        digest = ""
        try:
            content = as_bytes(source.read(max_pixels=self.processor.max_pixels))
            digest = content_hash(content)
            width, height = self.write(content, out, name=path_text(source.path))
        except Exception as error:  # readers, such as network clients, raise all kinds of errors
            return failed_item(source, digest, error)
        return Item(source, digest, width, height)

    def write(self, content: bytes, out: np.ndarray, *, name: str) -> tuple[int, int]:
        """Writes the pixels of the bytes of a file into `out`, as a call does; returns width and height of the upright
        image.

        Raises:
            ImageError: it cannot be read; `name` is its name in the error.
        """
        image, plan = next(self.processor.decoded(content, names=[name]))
        part = resize_crop_fast(image, plan, resample=self.record.resample)
        if part.dtype != np.uint8 and self.record.do_rescale:  # an array of floats from 0 to 1
            part = np.rint(part.clip(0, 1) * 255)
        (top, bottom), (left, right) = plan.rows, plan.columns
        out[:, top - plan.top : bottom - plan.top, left - plan.left : right - plan.left] = np.moveaxis(part, -1, 0)
        return image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])


def dtype_of(record: Preprocessing) -> type[np.uint8] | type[np.float32]:
    """The dtype of the pixels: uint8 for gray levels, float32 if the values of files are not rescaled."""
    return np.uint8 if record.do_rescale else np.float32


def failed_item(source: Source, digest: str, error: Exception) -> Item:
    """The item for an unreadable source.

    If memory was insufficient or the read was refused, it has no hash, so that an update tries the source again.
    """
    no_memory = any(isinstance(one, MemoryError) for one in (error, error.__cause__, error.__context__))
    return Item(source, "" if no_memory or isinstance(error, RefusedError) else digest, error=reason_of(error))


def reason_of(error: BaseException) -> str:
    """The reason why a source cannot be read, in one line. The type of the error is added if the text may
    be unclear.
    """
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
    """A request to decode one batch: the sources of `block` that start at position `first`."""

    block: Block
    first: int
    sources: list[Source]


def decoder_of(record: Preprocessing, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Decoder | ClipDecoder:
    """The decoder for images or for segments of videos, according to the record."""
    if record.num_frames is None:
        return Decoder(record, max_pixels=max_pixels)
    from hierax.embedding.clips import ClipDecoder

    return ClipDecoder(record)


class _Requests(Sequence[Request]):
    """The requests for all batches of these blocks, in order. A request is created when it is indexed."""

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
    """Yields all batches of these blocks in order, decoded in advance by `workers` processes (0: in this process).

    Each worker prepares at most four batches in advance.

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
        pixels = work(request)
        yield pixels if ready is None else ready(pixels)
