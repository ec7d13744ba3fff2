"""The steps from the bytes or the path of an image to the class of each of its pixels, with an open model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hierax.model.class_map import ClassMap
from hierax.model.config import HieraConfig
from hierax.predict.inputs import not_finite
from hierax.predict.predictor import Predictor
from hierax.predict.sliding import OVERLAP, Axis, Box, axis, default_window, merged_rows
from hierax.processing import HieraImageProcessor, Preprocessing
from hierax.reprs.text import short_repr
from hierax.viz.segmentation import palette

_COUNTED = 1 << 22  # pixels that are counted at the same time


@short_repr()
@dataclass(frozen=True)
class ClassArea:
    """A class in an image: its label, its index, its pixels, their share of the image from 0 to 1, and its color in
    overlays and masks (red, green, blue).
    """

    label: str
    index: int
    pixels: int
    share: float
    color: tuple[int, int, int]

    def to_dict(self) -> dict[str, Any]:
        """The values as a dict that can be written as JSON."""
        return {
            "label": self.label,
            "index": self.index,
            "pixels": self.pixels,
            "share": self.share,
            "color": list(self.color),
        }


@dataclass(frozen=True)
class ReadImage:
    """An image that was read: upright, in RGB; and its `levels` `[h, w, channels]` at the size of the model's input."""

    image: Image.Image
    levels: np.ndarray


class Segmenter:
    """From an image to its mask, with an open model of `open_segmenter`; for the arguments see `segmentations`.

    Raises:
        ValueError: the window or the overlap is wrong.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        window: int | None = None,
        overlap: float = OVERLAP,
        on_window: Callable[[int, int], None] | None = None,
    ) -> None:
        self.predictor, self.on_window = predictor, on_window
        processor = predictor.processor()
        assert isinstance(processor, HieraImageProcessor)
        self.processor = processor
        self.fixed = predictor.engine is not None and predictor.engine.exported is not None
        self.window = _exported_window(window, predictor) if self.fixed else _window(window, predictor.config)
        if isinstance(overlap, bool) or not isinstance(overlap, Real) or not 0 <= overlap < 1:
            raise ValueError(f"overlap is {overlap!r}; expected a number from 0 to below 1")
        self.overlap = float(overlap)
        self.labels = tuple(predictor.config.id2label.values())
        self.colors = palette(len(self.labels))

    def read(self, source: Path | bytes, *, name: str | None = None) -> ReadImage:
        """The image of a file or of its bytes, and its levels. `name` is its name in errors, if it is not the path.

        Raises:
            ImageError: it cannot be read.
        """
        picture, plan = next(self.processor.decoded(source, names=None if name is None else [name]))
        levels = self.processor.levels(picture, plan)
        return ReadImage(_shown(picture, self.processor.record), levels)

    def _axes(self, read: ReadImage) -> list[Axis]:
        """The windows along the rows and the columns of an image."""
        stride = self.predictor.config.patch_stride
        return [
            axis(length, stride=step, window=side, overlap=self.overlap, fixed=self.fixed)
            for length, step, side in zip(read.levels.shape[:2], stride, self.window, strict=True)
        ]

    def one_window(self, read: ReadImage) -> Tensor | None:
        """The pixels `[1, C, h, w]` of an image that is one window; None for a larger one."""
        axes = self._axes(read)
        if any(len(one.starts) > 1 for one in axes):
            return None
        height, width = (slice(0, one.side) for one in axes)
        return torch.from_numpy(self._part(read.levels, (height, width)))[None]

    @torch.inference_mode()
    def classes(self, path: Path, read: ReadImage, *, logits: Tensor | None = None) -> np.ndarray:
        """The class of every pixel of the image, `[height, width]`; `path` is its name in errors.

        The bands of windows lie along the shorter side of the image, because the logits of one band are in memory.

        Args:
            logits: of an image that is one window, its coarse logits `[classes, cells, cells]` if they are known.

        Raises:
            ImageError: the output of the model is not finite.
        """
        stride, axes, known = self.predictor.config.patch_stride, self._axes(read), logits
        pixels, size = read.levels.shape[:2], (read.image.height, read.image.width)
        turn = -1 if pixels[1] > pixels[0] else 1
        rows, columns = axes[::turn]

        def logits_of(boxes: Sequence[Box]) -> Iterator[Tensor]:
            windows = [box if turn == 1 else (box[1], box[0]) for box in boxes]
            given = self._logits(read.levels, windows) if known is None else iter([known])
            for number, logits in enumerate(given, 1):
                if (error := not_finite(path, [logits])) is not None:
                    raise error
                if self.on_window is not None:
                    self.on_window(number, len(windows))
                yield logits if turn == 1 else logits.transpose(1, 2)

        found = ClassMap(
            (rows.cells, columns.cells),
            stride=tuple(stride)[::turn],
            pixels=pixels[::turn],
            size=size[::turn],
            num_labels=len(self.labels),
        )
        for _, logits in merged_rows(rows, columns, logits_of):
            found.add(logits)
        classes = found.classes.numpy()
        classes = classes if classes.dtype == np.uint8 else classes.astype(np.uint16)
        return np.ascontiguousarray(classes if turn == 1 else classes.T)

    def _logits(self, levels: np.ndarray, boxes: Sequence[tuple[slice, slice]]) -> Iterator[Tensor]:
        """The coarse logits `[classes, cells, cells]` of windows of an image."""
        for start in range(0, len(boxes), self.predictor.batch_size):
            parts = [self._part(levels, box) for box in boxes[start : start + self.predictor.batch_size]]
            yield from self.predictor.coarse_logits(torch.from_numpy(np.stack(parts))).float().unbind()

    def _part(self, levels: np.ndarray, box: tuple[slice, slice]) -> np.ndarray:
        """The pixels `[C, h, w]` of a window; beyond the edge 0, the mean color, as in training and in the model."""
        part = self.processor.normalized(levels[box])
        over = [(0, cut.stop - cut.start - given) for cut, given in zip(box, part.shape[1:], strict=True)]
        return np.pad(part, [(0, 0), *over]) if any(more for _, more in over) else part

    def areas(self, mask: np.ndarray) -> tuple[ClassArea, ...]:
        """The classes that occur in a mask, largest area first."""
        step = max(1, _COUNTED // mask.shape[1])
        counts = np.zeros(len(self.labels), np.int64)
        for start in range(0, len(mask), step):
            counts += np.bincount(mask[start : start + step].ravel(), minlength=len(counts))
        order = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
        return tuple(
            ClassArea(self.labels[i], i, int(counts[i]), int(counts[i]) / mask.size, _rgb(self.colors[i]))
            for i in order
        )


def _rgb(color: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in color)
    return red, green, blue


def _window(window: int | None, config: HieraConfig) -> tuple[int, ...]:
    """Height and width of the windows in pixels: multiples of the mask unit.

    Raises:
        ValueError: the window is not a whole number above 0.
    """
    if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
        raise ValueError(f"window is {window!r}; expected pixels, a whole number above 0")
    if window is None:
        return default_window(config.image_size, config.unit_pixels)
    return tuple(-(-window // unit) * unit for unit in config.unit_pixels)


def _exported_window(window: int | None, predictor: Predictor) -> tuple[int, ...]:
    """The size for which an export was made, which is that of all windows.

    Raises:
        ValueError: another window is requested.
    """
    size = predictor.config.image_size
    if window is not None and any(window != side for side in size):
        shown = "x".join(map(str, size))
        raise ValueError(f"window is {window!r}; this model was exported for {shown} pixels, which are its windows")
    return size


def read_shown(path: Path, record: Preprocessing, *, max_pixels: int | None) -> Image.Image:
    """The upright image of a file in RGB, as overlays show it.

    Raises:
        ImageError: it cannot be read.
    """
    picture, _ = next(HieraImageProcessor(record, max_pixels=max_pixels).decoded(path))
    return _shown(picture, record)


def _shown(picture: Image.Image | np.ndarray, record: Preprocessing) -> Image.Image:
    """An upright image as RGB. Of several channels, the first three are red, green and blue."""
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    colors = picture[..., :3] if picture.shape[2] >= 3 else picture[..., :1].repeat(3, axis=2)
    if colors.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(colors))
    low, high = (0.0, 1.0) if record.do_rescale else (float(colors.min()), float(colors.max()))
    levels = (colors - low) / max(high - low, 1e-12) * 255
    return Image.fromarray(np.rint(levels.clip(0, 255)).astype(np.uint8))
