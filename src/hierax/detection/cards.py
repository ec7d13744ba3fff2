"""Detections and their evaluation in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hierax.console import percent, quantity
from hierax.reprs.markup import Cell, Markup, bar, card, file_card, image_tag, swatch, table
from hierax.viz.thumbnails import file_tag

if TYPE_CHECKING:
    from hierax.detection.evaluate import DetectionEvaluation
    from hierax.detection.predict import Detection

_SIDE = 480


def detection(found: Detection) -> str:
    """The image with the objects drawn on it, and a table of the objects."""
    from hierax.detection.drawing import color_of

    if found.error is not None:
        return file_card(found.path, found.error.problem)
    rows = [
        (swatch(color_of(one.label)), found.classes[one.label], bar(one.score, width=80), percent(one.score))
        for one in found.objects
    ]
    note = f"{found.width} x {found.height} pixels, {quantity(len(rows), 'object')}"
    return file_card(found.path, _drawn(found), table((), rows) if rows else "", note=note)


def _drawn(found: Detection) -> Markup:
    from hierax.detection.drawing import draw_objects
    from hierax.processing import load_image

    if found.overlay is not None:
        return file_tag(found.overlay, side=_SIDE)
    try:
        image = load_image(found.path)
        return image_tag(draw_objects(image, found.objects, found.classes), side=_SIDE)
    except Exception:  # the image may be gone, and libraries raise all kinds of errors
        return Markup("")


def detection_evaluation(found: DetectionEvaluation) -> str:
    """COCO's numbers, and the average precision of each class, the lowest first."""
    numbers: list[tuple[Cell, ...]] = [
        (name, "" if value is None else bar(value), _number(value)) for name, value in found.numbers.items()
    ]
    keys = list(found.per_class[0]) if found.per_class else []
    rows = [[_number(row[key]) for key in keys] for row in found.per_class]
    what = "masks" if found.masks else "boxes"
    title = f"DetectionEvaluation of {quantity(found.images, 'image')}"
    return card(
        title,
        table((), numbers),
        table(keys, rows) if rows else "",
        note=f"{what} were compared{f'; {found.note}' if found.note else ''}",
    )


def _number(value: Cell) -> Cell:
    return f"{value:.3f}" if isinstance(value, float) else value
