"""Sources to pixels, in processes beside the one that computes: read, hashed, decoded, resized, cropped, in uint8."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from hierax.embedding.sources import Listing, Source
from hierax.embedding.store import Block
from hierax.processing import HieraImageProcessor, ImageError, Preprocessing
from hierax.processing.resize import resize_crop_fast


@dataclass(frozen=True)
class Item:
    """A source that was read.

    Attributes:
        source: what it is.
        hash: of its bytes, 32 hexadecimal digits; "" where it could not be read at all.
        width, height: of the picture, upright, in pixels.
        error: why it is none, or None.
    """

    source: Source
    hash: str
    width: int = 0
    height: int = 0
    error: str | None = None


@dataclass
class Pixels:
    """One batch of a block. Sources that could not be read leave holes of zeros, so that a batch is always the same.

    Attributes:
        block, first: which sources they are: those of the block from `first` on.
        items: of each source.
        pixels: uint8 `[B, C, H, W]`.
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
        self.size = (record.crop_size["height"], record.crop_size["width"])
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
            problem = error.problem if isinstance(error, ImageError) else _reason(error)
            return Item(source, digest, error=" ".join(problem.split()) or type(error).__name__)
        (top, bottom), (left, right) = plan.rows, plan.columns
        out[:, top - plan.top : bottom - plan.top, left - plan.left : right - plan.left] = np.moveaxis(part, -1, 0)
        width, height = picture.size if isinstance(picture, Image.Image) else picture.shape[1::-1]
        return Item(source, digest, width, height)


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


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


class _Batches:
    """A dataset for PyTorch's loader, whose indices are batches: block, first source, listing."""

    def __init__(self, decoder: Decoder, listings: Sequence[Listing], batch: int, block: int) -> None:
        self.decoder, self.listings, self.batch, self.block = decoder, listings, batch, block

    def __getitem__(self, index: tuple[Block, int]) -> Pixels:
        block, first = index
        listing, start = self.listings[block.listing], block.number * self.block
        stop = min(start + self.block, start + first + self.batch, len(listing))
        sources = [listing[i] for i in range(start + first, stop)]
        pixels = np.zeros((len(sources), self.decoder.record.num_channels, *self.decoder.size), np.uint8)
        items = [self.decoder(source, out) for source, out in zip(sources, pixels, strict=True)]
        return Pixels(block, first, items, torch.from_numpy(pixels))


def batches_of(
    blocks: Sequence[Block], decoder: Decoder, listings: Sequence[Listing], *, batch: int, block: int, workers: int,
    pin: bool = False,
) -> Iterator[Pixels]:  # fmt: skip
    """All batches of these blocks in their order, decoded ahead by `workers` processes (0: here).

    At most four batches a worker wait to be taken.
    """
    indices = [
        (one, first)
        for one in blocks
        for first in range(0, min(block, len(listings[one.listing]) - one.number * block), batch)
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="This DataLoader will create"
        )  # more processes than cores: one's choice
        return iter(_loader(indices, decoder, listings, batch, block, workers, pin=pin))


def _loader(
    indices: Sequence[tuple[Block, int]], decoder: Decoder, listings: Sequence[Listing], batch: int, block: int,
    workers: int, *, pin: bool,
) -> Any:  # fmt: skip
    return DataLoader(
        _Batches(decoder, listings, batch, block),  # type: ignore[arg-type]
        batch_size=None,
        sampler=indices,  # type: ignore[arg-type]
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),
        worker_init_fn=_ignore_interrupts,
    )


def _ignore_interrupts(_: int) -> None:
    """Ctrl-C goes to all processes of a terminal; the first one decides."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
