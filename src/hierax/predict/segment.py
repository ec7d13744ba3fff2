"""Segments images: a class for every pixel of the upright image, at the image's own size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hierax.model.class_map import ClassMap
from hierax.model.config import HieraConfig
from hierax.model.registry import TASKS
from hierax.predict.features import output_names
from hierax.predict.inputs import check_inputs, image_paths, not_finite, read_ahead
from hierax.predict.predictor import Model, Predictor, open_predictor
from hierax.predict.segmentation_files import SegmentationFiles, check_new, files_in, write_files
from hierax.predict.sliding import OVERLAP, Box, axis, default_window, merged_rows
from hierax.processing import DEFAULT_MAX_PIXELS, HieraImageProcessor, ImageError, Preprocessing, load_image
from hierax.processing.frames import FIRST_ONLY
from hierax.viz.segmentation import overlay, palette

_AHEAD = 2  # images that are read while another one is computed; they are in memory at their own size
_COUNTED = 1 << 22  # pixels that are counted at the same time


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
class Segmentation:
    """The class of every pixel of an image, or the error if it cannot be read.

    Attributes:
        path: the image.
        mask: the index of the class of each pixel, `[height, width]` of the upright image (its EXIF orientation is
            applied); uint8, or uint16 for more than 256 classes. None if there is an `error`.
        areas: the classes that occur, largest area first.
        labels: the names of all classes of the model, by index.
        name: a name for files, unique among the images of a call.
        error: why the image cannot be read, or None.
        read: returns the upright image in RGB; None reads `path`.
    """

    path: Path
    mask: np.ndarray | None = field(default=None, compare=False, repr=False)
    areas: tuple[ClassArea, ...] = ()
    labels: tuple[str, ...] = field(default=(), repr=False)
    name: str = ""
    error: ImageError | None = None
    read: Callable[[], Image.Image] | None = field(default=None, compare=False, repr=False)

    def overlay(self, *, opacity: float = 0.5) -> Image.Image:
        """The colors of the classes over the upright image, which is read again, in its own size.

        Raises:
            ValueError: there is an `error`, or the opacity is not between 0 and 1.
            ImageError: the image cannot be read any more, or has another size.
        """
        mask, image = self._found(), load_image(self.path) if self.read is None else self.read()
        if (image.height, image.width) != mask.shape:
            raise ImageError(str(self.path), "the image has another size than its mask; was it replaced?")
        return overlay(image, mask, opacity=opacity)

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> SegmentationFiles:
        """Writes `NAME.png` (the mask), `NAME-overlay.jpg` and `NAME.json` (the areas) into a folder, created if
        missing, and returns their paths.

        Raises:
            ValueError: there is an `error`; or a file exists and `overwrite` is False.
            OSError: a file cannot be written.
        """
        self._found()
        files = files_in(folder, self.name or self.path.stem)
        check_new([files], [self.path], overwrite=overwrite)
        return self.write(files)

    def write(self, files: SegmentationFiles, image: Image.Image | None = None) -> SegmentationFiles:
        """Writes these files, replacing existing ones. `image` is the upright image if it is in memory."""
        mask = self._found()
        drawn = self.overlay() if image is None else overlay(image, mask)
        legend = [(f"{area.label} {area.share:.1%}", area.color) for area in self.areas]
        write_files(files, mask, drawn, legend, self.to_dict())
        return files

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON: `path`, and `width`, `height` and `areas`, or `error`."""
        if self.error is not None or self.mask is None:
            return {"path": str(self.path), "error": "" if self.error is None else self.error.problem}
        height, width = self.mask.shape
        areas = [area.to_dict() for area in self.areas]
        return {"path": str(self.path), "width": width, "height": height, "areas": areas}

    def _found(self) -> np.ndarray:
        if self.mask is None:
            raise ValueError(f"{self.path} has no mask, because of its error: {self.error}")
        return self.mask


def segment(
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    model: Model,
    size: int | None = None,
    full_size: bool = False,
    window: int | None = None,
    overlap: float = OVERLAP,
    device: str = "auto",
    precision: str = "auto",
    backend: str = "auto",
    batch_size: int | None = None,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> Iterator[Segmentation]:
    """Yields the class of every pixel of each image, in the order of the paths.

    Args:
        images: paths of images.
        model: a Hub id, folder, file or export, which runs on an engine; or a segmentation model or engine, which is
            used as it is.
        size: shorter side of the model's input in pixels; default: as the checkpoint's preprocessing says. The whole
            image is used; the mask has the image's own size.
        full_size: do not resize the image before the model.
        window: inputs with a longer side than this are cut into windows of this side, which overlap. It is rounded up
            to a multiple of the mask unit (32 pixels). Default: twice the model's native size. The windows of an export
            have the size for which it was made.
        overlap: the share of a window that the next window sees too, at least, from 0 to below 1.
        device, precision, backend: see `hierax.Engine`. On a CPU, backend="auto" is PyTorch for few images: for these,
            opening a faster backend would take longer.
        batch_size: windows of one image per call of the model; None: 1 on a CPU, otherwise 32.
        max_pixels: larger images are an error; None: no limit.

    Raises:
        ValueError: the model is not for segmentation, or a size is wrong; see also `hierax.Engine`.
        OSError: see `hierax.load`.
    """
    paths = image_paths(images)
    predictor = open_segmenter(
        model,
        size=size,
        full_size=full_size,
        device=device,
        precision=precision,
        backend=backend,
        batch_size=batch_size,
        max_pixels=max_pixels,
        inputs=len(paths),
    )
    found = segmentations(predictor, paths, window=window, overlap=overlap)
    return (one for one, _ in found)


def open_segmenter(model: Model, *, size: int | None = None, full_size: bool = False, **engine: Any) -> Predictor:
    """Opens a segmentation model, with a preprocessing that uses the whole image. `engine`: see `open_predictor`.

    Raises:
        ValueError: it is not a segmentation model, or `size` and `full_size` are both given, or the size is wrong.
    """
    if full_size and size is not None:
        raise ValueError(f"size is {size!r} and full_size is True; expected one of them")
    predictor = open_predictor(model, size=size, whole=size is not None, **engine)
    check_inputs(predictor.config)
    if predictor.task not in TASKS or not TASKS[predictor.task].dense:
        raise ValueError(
            f"this model is for {predictor.task}; segment needs a segmentation model, such as the run of "
            "hierax finetune DATA --task segment"
        )
    record = predictor.preprocessing
    if full_size:
        record = record.replace(do_resize=False, do_center_crop=False)
    elif record.do_center_crop:
        record = record.whole()
    return replace(predictor, preprocessing=record)


def segmentations(
    predictor: Predictor,
    paths: Sequence[Path],
    *,
    window: int | None = None,
    overlap: float = OVERLAP,
    on_window: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[Segmentation, Image.Image | None]]:
    """Like `segment`, with an open model of `open_segmenter`. Each result comes with the upright image in RGB.

    `on_window` is called after each window with the number of windows of the image that are done, and of all.

    Raises:
        ValueError: the window or the overlap is wrong.
    """
    check_inputs(predictor.config, paths)
    steps = _Steps(predictor, window=window, overlap=overlap, on_window=on_window)
    return _segmentations(steps, paths)


def _segmentations(steps: _Steps, paths: Sequence[Path]) -> Iterator[tuple[Segmentation, Image.Image | None]]:
    names = output_names(paths)
    with FIRST_ONLY.report_at_end():
        for name, (path, read) in zip(names, read_ahead(paths, steps.read, ahead=_AHEAD), strict=True):
            if isinstance(read, ImageError):
                yield Segmentation(path, name=name, error=read), None
                continue
            try:
                mask = steps.classes(path, read)
            except ImageError as error:
                yield Segmentation(path, name=name, error=error), None
                continue
            yield steps.result(path, name, mask), read.image


@dataclass(frozen=True)
class _Input:
    """An image that was read: upright, in RGB; and its `levels` `[h, w, channels]` at the size of the model's input."""

    image: Image.Image
    levels: np.ndarray


class _Steps:
    """From a file to its mask: the steps, with an open model."""

    def __init__(
        self,
        predictor: Predictor,
        *,
        window: int | None,
        overlap: float,
        on_window: Callable[[int, int], None] | None,
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

    def read(self, path: Path) -> _Input:
        """The image and its levels."""
        picture, plan = next(self.processor.decoded(path))
        levels = self.processor.levels(picture, plan)
        return _Input(_shown(picture, self.processor.record), levels)

    @torch.inference_mode()
    def classes(self, path: Path, read: _Input) -> np.ndarray:
        """The class of every pixel of the image.

        The bands of windows lie along the shorter side of the image, because the logits of one band are in memory.

        Raises:
            ImageError: the output of the model is not finite.
        """
        stride = self.predictor.config.patch_stride
        pixels, size = read.levels.shape[:2], (read.image.height, read.image.width)
        axes = [
            axis(length, stride=step, window=side, overlap=self.overlap, fixed=self.fixed)
            for length, step, side in zip(pixels, stride, self.window, strict=True)
        ]
        turn = -1 if pixels[1] > pixels[0] else 1
        rows, columns = axes[::turn]

        def logits_of(boxes: Sequence[Box]) -> Iterator[Tensor]:
            windows = [box if turn == 1 else (box[1], box[0]) for box in boxes]
            for number, logits in enumerate(self._logits(read.levels, windows), 1):
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

    def result(self, path: Path, name: str, mask: np.ndarray) -> Segmentation:
        """The areas of a mask, with the mask."""
        step = max(1, _COUNTED // mask.shape[1])
        counts = np.zeros(len(self.labels), np.int64)
        for start in range(0, len(mask), step):
            counts += np.bincount(mask[start : start + step].ravel(), minlength=len(counts))
        order = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
        areas = tuple(
            ClassArea(self.labels[i], i, int(counts[i]), int(counts[i]) / mask.size, _rgb(self.colors[i]))
            for i in order
        )
        read = partial(read_shown, path, self.predictor.preprocessing, max_pixels=self.predictor.max_pixels)
        return Segmentation(path, mask, areas, self.labels, name, read=read)


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
