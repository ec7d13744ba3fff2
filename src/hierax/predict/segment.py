"""Segments images: a class for every pixel of the upright image, at the image's own size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hierax.model.registry import TASKS
from hierax.predict.features import output_names
from hierax.predict.inputs import check_inputs, check_outputs, image_paths, read_ahead
from hierax.predict.predictor import Model, Predictor, open_predictor
from hierax.predict.segmentation_files import SegmentationFiles, files_in, write_files
from hierax.predict.segmenter import ClassArea, Segmenter, read_shown
from hierax.predict.sliding import OVERLAP
from hierax.processing import DEFAULT_MAX_PIXELS, ImageError, load_image
from hierax.processing.frames import FIRST_ONLY
from hierax.reprs.markup import html_repr
from hierax.reprs.text import short_repr
from hierax.viz.segmentation import overlay

_AHEAD = 2  # images that are read while another one is computed; they are in memory at their own size


@short_repr(changed=True)
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

    @html_repr
    def _repr_html_(self) -> str:
        from hierax.predict.cards import segmentation

        return segmentation(self)

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
        check_outputs([*files], [self.path], overwrite=overwrite)
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
    steps = Segmenter(predictor, window=window, overlap=overlap, on_window=on_window)
    return _segmentations(predictor, steps, paths)


def _segmentations(
    predictor: Predictor, steps: Segmenter, paths: Sequence[Path]
) -> Iterator[tuple[Segmentation, Image.Image | None]]:
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
            again = partial(read_shown, path, predictor.preprocessing, max_pixels=predictor.max_pixels)
            yield Segmentation(path, mask, steps.areas(mask), steps.labels, name, read=again), read.image
