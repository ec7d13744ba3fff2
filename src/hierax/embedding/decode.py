"""Sources to pixels, in processes beside the one that computes: read, hashed, decoded, resized, cropped, in uint8."""

from __future__ import annotations

import contextlib
import hashlib
import io
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from hierax.embedding.sources import Listing, Source
from hierax.embedding.store import Block
from hierax.processing import HieraImageProcessor, ImageError, Preprocessing
from hierax.processing.resize import resize_crop_fast

if TYPE_CHECKING:
    from hierax.embedding.clips import ClipDecoder

_MAIN = threading.Lock()


@dataclass(frozen=True)
class Item:
    """A source that was read.

    Attributes:
        source: what it is.
        hash: of its bytes, 32 hexadecimal digits; "" where it could not be read at all.
        width, height: of the picture, upright, in pixels.
        error: why it is none, or None.
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
    """One batch of a block. Sources that could not be read leave holes of zeros, so that a batch is always the same.

    Attributes:
        block, first: which sources they are: those of the block from `first` on.
        items: of each source.
        pixels: uint8 `[B, C, H, W]`, of videos `[B, C, T, H, W]`.
    """

    block: Block
    first: int
    items: list[Item]
    pixels: Tensor

    def pin_memory(self) -> Pixels:
        """The same in page-locked memory; called by PyTorch's loader."""
        return Pixels(self.block, self.first, self.items, self.pixels.pin_memory())


def content_hash(content: bytes) -> str:
    """Of a file's bytes: BLAKE2b of 128 bits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


class Decoder:
    """Reads sources as `record` says. A plain object that can be sent to other processes."""

    def __init__(self, record: Preprocessing) -> None:
        if not record.do_center_crop:
            raise ValueError("the record does not crop, so that pictures differ in size; expected do_center_crop")
        self.record = record
        self.shape = (record.crop_size["height"], record.crop_size["width"])
        self.processor = HieraImageProcessor(record, fast=True)

    def __call__(self, source: Source, out: np.ndarray) -> Item:
        """Writes the pixels of one source into `out`, uint8 `[C, H, W]` of zeros."""
        digest = ""
        try:
            content = as_bytes(source.read())
            digest = content_hash(content)
            picture, plan = next(self.processor.decoded(content))
            part = resize_crop_fast(picture, plan, resample=self.record.resample)
        except (OSError, ValueError, MemoryError) as error:  # an ImageError is a ValueError
            return Item(source, digest, error=reason_of(error))
        (top, bottom), (left, right) = plan.rows, plan.columns
        out[:, top - plan.top : bottom - plan.top, left - plan.left : right - plan.left] = np.moveaxis(part, -1, 0)
        width, height = picture.size if isinstance(picture, Image.Image) else picture.shape[1::-1]
        return Item(source, digest, width, height)


def reason_of(error: BaseException) -> str:
    """Why a source cannot be read, in one line."""
    problem = error.problem if isinstance(error, ImageError) else getattr(error, "strerror", None) or str(error)
    return " ".join(problem.split()) or type(error).__name__


def as_bytes(content: Any) -> bytes:
    """A file's bytes; a picture of a table without them is given some."""
    if isinstance(content, (bytes, bytearray, memoryview)):
        return bytes(content)
    if isinstance(content, Image.Image):
        buffer = io.BytesIO()
        content.save(buffer, "PNG")
        return buffer.getvalue()
    if isinstance(content, (str, os.PathLike)):
        with open(content, "rb") as file:
            return file.read()
    raise ValueError(f"{type(content).__name__} is no picture")


@dataclass(frozen=True)
class Request:
    """One batch that is to be decoded: sources of `block` from `first` on."""

    block: Block
    first: int
    sources: list[Source]


def decoder_of(record: Preprocessing) -> Decoder | ClipDecoder:
    """What reads pictures, or windows of videos, as the record says."""
    if record.num_frames is None:
        return Decoder(record)
    from hierax.embedding.clips import ClipDecoder

    return ClipDecoder(record)


class _Requests:
    """All batches of these blocks in their order, made as they are asked for."""

    def __init__(self, blocks: Sequence[Block], listings: Sequence[Listing], batch: int, block: int) -> None:
        self.blocks, self.listings, self.batch, self.block = blocks, listings, batch, block

    def __iter__(self) -> Iterator[Request]:
        for block in self.blocks:
            listing, start = self.listings[block.listing], block.number * self.block
            stop = min(start + self.block, len(listing))
            for first in range(start, stop, self.batch):
                sources = [listing[i] for i in range(first, min(first + self.batch, stop))]
                yield Request(block, first - start, sources)


class _Batches:
    """A dataset for PyTorch's loader, whose indices are requests."""

    def __init__(self, decoder: Decoder | ClipDecoder) -> None:
        self.decoder = decoder

    def __getitem__(self, request: Request) -> Pixels:
        size = (len(request.sources), self.decoder.record.num_channels, *self.decoder.shape)
        pixels = np.zeros(size, np.uint8)
        items = [self.decoder(source, out) for source, out in zip(request.sources, pixels, strict=True)]
        return Pixels(request.block, request.first, items, torch.from_numpy(pixels))


def batches_of(
    blocks: Sequence[Block], decoder: Decoder | ClipDecoder, listings: Sequence[Listing], *, batch: int, block: int,
    workers: int, pin: bool = False,
) -> Iterator[Pixels]:  # fmt: skip
    """All batches of these blocks in their order, decoded ahead by `workers` processes (0: here).

    At most four batches a worker wait to be taken.
    """
    loader = DataLoader(
        _Batches(decoder),  # type: ignore[arg-type]
        batch_size=None,
        sampler=_Requests(blocks, listings, batch, block),  # type: ignore[arg-type]
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),
        worker_init_fn=_begin,
        multiprocessing_context=_context() if workers else None,
    )
    with warnings.catch_warnings(), _without_main():
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # more than cores: one's choice
        return iter(loader)


def prepare_processes() -> None:
    """Has the process start from which those that decode are made: it imports while this one loads a model."""
    context = _context()
    if context.get_start_method() == "forkserver":
        from multiprocessing import forkserver

        context.set_forkserver_preload([__name__])
        forkserver.ensure_running()


def _context() -> Any:
    """How processes are made: never as copies of this one, whose engine has threads that may hold locks."""
    return multiprocessing.get_context(
        "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    )


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """New processes would run the caller's program, all of it where it has no `if __name__ == "__main__"`."""
    with _MAIN:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _begin(_: int) -> None:
    """In a process that decodes: Ctrl-C goes to all processes of a terminal, of which the first decides; none of them
    outlives it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def follow() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
