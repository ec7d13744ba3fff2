"""From the bytes of an image to what a model takes: any size, within bounds of memory."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hierax.embedding.decode import Decoder, dtype_of
from hierax.model.mae import check_mae_size
from hierax.predict.predictor import Predictor, record_at
from hierax.predict.segment import open_segmenter
from hierax.predict.segmenter import ReadImage, Segmenter
from hierax.processing import HieraImageProcessor, ImageError, Preprocessing
from hierax.processing.decode import read_size
from hierax.processing.errors import TooLargeError
from hierax.processing.frames import FIRST_ONLY
from hierax.processing.resize import geometry
from hierax.serve.errors import refuse

if TYPE_CHECKING:
    from torch import Tensor

    from hierax.embedding.extractor import FeatureExtractor
    from hierax.model.config import HieraConfig
    from hierax.serve.bodies import Upload

Size = int | tuple[int, int]
MOST_PIXELS = 1024 * 1024
"""Pixels of the input of a model that a request may ask for with `size`."""
_LONGEST = 4096  # maximum pixels of a side; the other side of an image becomes as long or longer
_MOST_WHOLE = 1 << 24
"""Pixels of the input of a segmentation model, which sees whole images."""
_KEPT = 64
"""Processors and segmenters that are kept, one for each size that was requested lately."""


class Room:
    """Bounds the pixels that are decoded at the same time: who finds no room waits.

    Args:
        pixels: of all images that are in memory at their own size. A larger image has the room for itself.
    """

    def __init__(self, pixels: int) -> None:
        self.pixels, self.taken = pixels, 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Holds room for an image."""
        count = min(pixels, self.pixels)
        with self._changed:
            self._changed.wait_for(lambda: self.taken + count <= self.pixels)
            self.taken += count
        try:
            yield
        finally:
            with self._changed:
                self.taken -= count
                self._changed.notify_all()


class Reader:
    """Reads uploads as pixels.

    Args:
        room: pixels that are decoded at the same time.
        max_pixels: pixels of one image; None: no limit.

    Attributes:
        fast: decode JPEGs and reduce images three times as fast; photos differ by at most one gray level.
    """

    def __init__(self, *, room: int, max_pixels: int | None) -> None:
        self.room, self.max_pixels, self.fast = Room(room), max_pixels, False
        self._made: dict[tuple[Any, ...], Any] = {}

    def pixels(self, upload: Upload, record: Preprocessing, *, size: Size | None) -> Tensor:
        """Normalized pixels `[1, C, H, W]` in float32, as `HieraImageProcessor` makes them.

        Raises:
            ImageError: the image cannot be read.
            Refusal: the model cannot have this size.
        """
        processor = self._keep((id(record), size), lambda: self._processor(record, size))
        with self._decoding(upload):
            return processor(upload.content).pixel_values

    def levels(self, upload: Upload, extractor: FeatureExtractor, *, size: Size | None) -> Tensor:
        """Gray levels `[1, C, H, W]` in uint8 as `hierax embed` reads them (float32 for other values)."""
        record = extractor.record

        def make() -> Decoder:
            return Decoder(sized(record, size), max_pixels=self.max_pixels)

        decoder = self._keep(("levels", id(record), size), make)
        out = np.zeros((record.num_channels, *decoder.shape), dtype_of(record))
        with self._decoding(upload):
            decoder.write(upload.content, out, name=upload.name)
        return torch.from_numpy(out)[None]

    def whole(self, upload: Upload, predictor: Predictor, *, size: int | None) -> tuple[Segmenter, ReadImage]:
        """The whole image for a segmentation model, at its own size and at the size of the model's input."""
        steps = self._keep(("whole", id(predictor), size), lambda: _segmenter(predictor, size, self.max_pixels))
        with self._decoding(upload, whole=steps.processor.record):
            return steps, steps.read(upload.content, name=upload.name)

    def _processor(self, record: Preprocessing, size: Size | None) -> HieraImageProcessor:
        return HieraImageProcessor(sized(record, size), fast=self.fast, max_pixels=self.max_pixels)

    def _keep(self, key: tuple[Any, ...], make: Any) -> Any:
        found = self._made.get(key)
        if found is None:
            found = make()
            if len(self._made) >= _KEPT:
                self._made.clear()
            self._made[key] = found
        return found

    @contextmanager
    def _decoding(self, upload: Upload, *, whole: Preprocessing | None = None) -> Iterator[None]:
        """Holds room while an image is decoded. Errors name the upload."""
        try:
            width, height = self.measure(upload)
            if whole is not None:
                _check_whole(upload, whole, width=width, height=height)
            with self.room.hold(width * height):
                yield
        except ImageError as error:
            error.source = upload.name
            raise
        finally:
            FIRST_ONLY.take()  # names of animations, of which commands tell at their end; a server has no end

    def measure(self, upload: Upload) -> tuple[int, int]:
        """Width and height of an image, from its header. The number of bytes and 1 if the header cannot be read.

        Raises:
            TooLargeError: it has more than `max_pixels`.
        """
        try:
            width, height = read_size(upload.content, name=upload.name)
        except ImageError:  # a kind of file whose header Pillow does not know, or damaged: reading it says more
            return len(upload.content), 1
        if self.max_pixels is not None and width * height > self.max_pixels:
            problem = f"{width} x {height} pixels; expected at most {self.max_pixels:,} pixels"
            raise TooLargeError(upload.name, problem)
        return width, height


def sized(record: Preprocessing, size: Size | None) -> Preprocessing:
    """A record at another size.

    Raises:
        Refusal: the size is out of bounds, or the model cannot have it.
    """
    if size is None:
        return record
    check_size(size)
    try:
        return record_at(record, size=size)
    except ValueError as error:
        raise refuse("bad_argument", str(error), field="size") from None


def check_size(size: Size) -> None:
    """Raises a refusal if an input of this size would have too many pixels."""
    sides = (size, size) if isinstance(size, int) else size
    if math.prod(sides) > MOST_PIXELS or max(sides) > _LONGEST:
        raise refuse(
            "bad_argument",
            f"size is {sides[0]}x{sides[1]}; expected at most {MOST_PIXELS:,} pixels, such as 1024, and at most "
            f"{_LONGEST:,} for a side",
            field="size",
        )


def sides_of(size: Size | None) -> tuple[int, int] | None:
    """Rows and columns of a size."""
    return (size, size) if isinstance(size, int) else size


def check_units(size: Size | None, config: HieraConfig) -> None:
    """Raises a refusal if a masked autoencoder cannot have this size."""
    if size is not None:
        check_size(size)
        try:
            check_mae_size((size, size) if isinstance(size, int) else size, config)
        except ValueError as error:
            raise refuse("bad_argument", str(error).replace("pixel_values is", "size is", 1), field="size") from None


def _segmenter(predictor: Predictor, size: int | None, max_pixels: int | None) -> Segmenter:
    if size is None:
        return Segmenter(predictor)
    check_size(size)
    try:
        return Segmenter(open_segmenter(predictor.engine or predictor.model, size=size, max_pixels=max_pixels))  # type: ignore[arg-type]
    except ValueError as error:
        raise refuse("bad_argument", str(error), field="size") from None


def _check_whole(upload: Upload, record: Preprocessing, *, width: int, height: int) -> None:
    """Raises `TooLargeError` if the input of the model would have too many pixels: the image is a long strip."""
    plan = geometry(record, height=height, width=width)
    if plan.resized_height * plan.resized_width > _MOST_WHOLE:
        problem = f"the model's input would have {plan.resized_width} x {plan.resized_height} pixels"
        raise TooLargeError(upload.name, f"{problem}; expected at most {_MOST_WHOLE:,} pixels")
