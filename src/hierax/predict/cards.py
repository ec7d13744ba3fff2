"""Results in a notebook: tables with bars, and images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from hierax.console import percent
from hierax.reprs.markup import (
    Cell,
    Markup,
    bar,
    card,
    ending,
    escaped,
    figures,
    file_card,
    image_tag,
    swatch,
    table,
)
from hierax.viz.attention import heat_colors
from hierax.viz.segmentation import overlay
from hierax.viz.thumbnails import file_tag, moving_tag

if TYPE_CHECKING:
    from hierax.predict.classify import Classification, Prediction
    from hierax.predict.explain import Explanation
    from hierax.predict.explanation_files import ExplanationFiles
    from hierax.predict.features import FeatureFiles
    from hierax.predict.reconstruct import Reconstruction
    from hierax.predict.segment import Segmentation
    from hierax.processing import ImageError

_SIDE = 480
"""Maximum width and height of an image, in pixels."""


def problem(path: Path, error: ImageError) -> str:
    """An image that could not be read, and why."""
    return file_card(path, error.problem)


def classification(found: Classification) -> str:
    """The image, and its most probable classes with bars. A video has no image, but the number of its views."""
    if found.error is not None:
        return problem(found.path, found.error)
    best = _probable(found.predictions)
    if found.views:
        return file_card(found.path, best, note=f"mean of {len(found.views)} views")
    return file_card(found.path, _beside(file_tag(found.path, side=200), best))


def _probable(predictions: tuple[Prediction, ...]) -> Markup:
    return table((), [(one.label, bar(one.probability), percent(one.probability)) for one in predictions])


def _beside(*parts: Cell) -> Markup:
    inner = "".join(f"<div>{escaped(part)}</div>" for part in parts)
    return Markup(f"<div style='display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start'>{inner}</div>")


def explanation(found: Explanation) -> str:
    """The heat of the cells; of a clip, of those of its middle."""
    values = found.values[len(found.values) // 2] if found.values.ndim == 3 else found.values
    cells = Image.fromarray(np.rint(heat_colors(np.asarray(values, np.float32))).astype(np.uint8))
    note = f"{values.shape[1]} x {values.shape[0]} cells of {found.stride[-1]} pixels; bright cells speak for the label"
    name = "attention rollout" if found.label is None else found.label
    share = "" if found.probability is None else f", {percent(found.probability)}"
    cells.thumbnail((256, 256), Image.Resampling.NEAREST)
    return card(f"{name}{share}", image_tag(cells, enlarge=224), note=note)


def explanation_files(found: ExplanationFiles) -> str:
    """The image that was written, with the heat over the input."""
    if found.error is not None:
        return problem(found.path, found.error)
    shown = Markup("") if found.image is None else file_tag(found.image, side=900)
    return file_card(found.path, shown, note=_written(found.image))


def feature_files(found: FeatureFiles) -> str:
    """The image that was written, with the maps of the stages."""
    if found.error is not None:
        return problem(found.path, found.error)
    shown = Markup("") if found.image is None else file_tag(found.image, side=1200)
    return file_card(found.path, shown, note=_written(found.arrays))


def _written(path: Path | None) -> str:
    return "" if path is None else f"written to {ending(str(path))}"


def segmentation(found: Segmentation) -> str:
    """The colors of the classes over the image, and a legend with the share of each class."""
    if found.error is not None:
        return problem(found.path, found.error)
    if found.mask is None:
        return file_card(found.path, "no mask")
    rows = [(swatch(area.color), area.label, bar(area.share), percent(area.share)) for area in found.areas]
    size = f"{found.mask.shape[1]} x {found.mask.shape[0]} pixels"
    return file_card(found.path, _beside(_painted(found, found.mask), table((), rows)), note=size)


def _painted(found: Segmentation, mask: np.ndarray) -> Markup:
    from hierax.processing import load_image

    try:
        image = load_image(found.path) if found.read is None else found.read()
        if (image.height, image.width) != mask.shape:
            raise ValueError("the image has another size than its mask")
    except Exception:  # the file may be gone; the classes are shown without it
        image = Image.new("RGB", (mask.shape[1], mask.shape[0]), (128, 128, 128))
    image.thumbnail((_SIDE, _SIDE), reducing_gap=2.0)
    rows, columns = (np.arange(n) * full // n for n, full in zip(image.size[::-1], mask.shape, strict=True))
    return image_tag(overlay(image, mask[rows][:, columns]), side=_SIDE, width=max(image.width, 240))


def reconstruction(found: Reconstruction) -> str:
    """The original, its visible part and the reconstruction, beside each other; of a video as a moving image."""
    if found.error is not None:
        return problem(found.path, found.error)
    if found.animation is None:
        tiles = [(image_tag(tile.picture, width=224), f"{tile.title}: {tile.note}") for tile in found.tiles]
        return file_card(found.path, figures(tiles))
    moving = found.animation
    captions = [f"{title}: {note}" for title, note in moving.captions]
    shown = moving_tag([_joined(list(frame)) for frame in moving.frames], seconds=moving.seconds, side=600)
    return file_card(found.path, shown, "; ".join(captions))


def _joined(images: list[Image.Image]) -> Image.Image:
    width, gap = sum(image.width for image in images), 6
    page = Image.new("RGB", (width + gap * (len(images) - 1), max(image.height for image in images)), (255, 255, 255))
    left = 0
    for image in images:
        page.paste(image, (left, 0))
        left += image.width + gap
    return page
