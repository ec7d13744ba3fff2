"""The demonstration: one sheet with the results of the bundled models for photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hierax.checkpoint.bundled import FEMTO, FEMTO_MAE, bundled_metrics
from hierax.console import percent
from hierax.notices import printable

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from hierax.demo.answers import Answer
    from hierax.demo.filling import Filled
    from hierax.demo.images import Photo
    from hierax.demo.sheet import Row
    from hierax.model.encoder import Features
    from hierax.model.tasks import HieraForImageClassification, HieraForPreTraining

_NEAREST = 4
_GALLERY = 96  # pixels of the gallery's images: their own size
_STAGES = (2, 3)  # the stages with the maps that are shown
_FINER = 3  # the size at which the maps are computed, divided by the model's own size: small maps look like noise
_WIDE = 40  # columns of a terminal for the name of an image; after longer names the labels are not aligned


def demo(
    images: Sequence[Photo] | None = None, *, seed: int = 0, tell: Callable[[str], None] = lambda _: None
) -> Image.Image:
    """A sheet of photos: labels, feature maps, masked reconstruction, and nearest neighbors in the bundled gallery.

    Args:
        images: the photos with their names; None for the bundled photos.
        seed: seed of the random masks; each photo gets another mask.
        tell: a function that is called with each line of text: the model, then each photo with its labels.
    """
    from hierax.demo.answers import answers_for, side
    from hierax.demo.filling import fill
    from hierax.demo.images import gallery, photos
    from hierax.demo.inputs import pooled
    from hierax.demo.sheet import TILE, demo_sheet
    from hierax.model.tasks import HieraForImageClassification, HieraForPreTraining

    shown, others = photos() if images is None else list(images), gallery()
    classifier = HieraForImageClassification.from_pretrained(FEMTO)
    counted = f"{len(shown)} {'image' if len(shown) == 1 else 'images'}" if images else f"{len(shown)} bundled photos"
    tell(_heading(classifier, counted))
    pictures, gallery_pictures = ([photo.picture for photo in some] for some in (shown, others))
    vectors, calibrated = pooled(classifier, pictures, side(classifier)), bundled_metrics(FEMTO)
    answers = answers_for(
        classifier,
        vectors,
        temperature=calibrated.get("sure_temperature", 1),
        threshold=calibrated.get("sure", 0),
    )
    _tell_answers([photo.name for photo in shown], answers, tell)
    mae = HieraForPreTraining.from_pretrained(FEMTO_MAE)
    filled, visible = fill(mae, pictures, seed=seed, side=TILE)
    near = [[others[i] for i in row] for row in _nearest(vectors, pooled(classifier, gallery_pictures, _GALLERY))]
    return demo_sheet(
        _rows(shown, _maps(classifier, pictures), answers, filled, near),
        heading=f"What {FEMTO} makes of " + ("your images" if images else "photos that it was not trained on"),
        notes=_notes(classifier, mae),
        columns=_columns(classifier, visible=visible, gallery=len(others)),
    )


def _rows(
    shown: Sequence[Photo],
    maps: Sequence[Sequence[Image.Image]],
    answers: Sequence[Answer],
    filled: Sequence[Filled],
    near: Sequence[Sequence[Photo]],
) -> list[Row]:
    from hierax.demo.sheet import Row
    from hierax.viz.fonts import drawable_names

    names = drawable_names([photo.name for photo in shown])
    return [
        Row(
            name,
            (*drawn, made.masked, made.made),
            answer.labels,
            [photo.picture for photo in others],
            sure=answer.sure,
            note=f"error {made.error:.0f}; one flat color: {made.flat:.0f}",
        )
        for name, drawn, answer, made, others in zip(names, maps, answers, filled, near, strict=True)
    ]


def _tell_answers(names: Sequence[str], answers: Sequence[Answer], tell: Callable[[str], None]) -> None:
    """A line for each photo: its name and its labels."""
    from rich.cells import cell_len

    plain = [printable(name) for name in names]
    width = min(_WIDE, max(map(cell_len, plain)))
    for name, answer in zip(plain, answers, strict=True):
        tell(f"  {name}{' ' * (width - cell_len(name))}   {answer}")


def _heading(model: HieraForImageClassification, counted: str) -> str:
    """A line with the version, the model, the precision, the device and the number of photos."""
    from hierax import __version__

    precision = str(model.dtype).removeprefix("torch.").replace("float", "fp")
    return (
        f"hierax {__version__} · {FEMTO} ({model.license or 'no license stated'}, "
        f"{model.num_parameters() / 1e6:.1f} M parameters, {precision} on {model.device.type.upper()} via PyTorch) · "
        f"{counted}"
    )


def _notes(classifier: HieraForImageClassification, mae: HieraForPreTraining) -> list[str]:
    models = {FEMTO: classifier, FEMTO_MAE: mae}
    sizes = [f"{name} ({model.num_parameters() / 1e6:.1f} M parameters)" for name, model in models.items()]
    license = f" under {classifier.license}" if classifier.license else ""
    metrics = bundled_metrics(FEMTO)
    lines = [f"{' and '.join(sizes)} are part of hierax{license}."]
    known = f"{FEMTO} knows {classifier.config.num_labels} categories"
    if {"sure", "sure_precision", "sure_coverage"} <= metrics.keys():
        lines.append(
            f"{known}. It says “not sure” if no label reaches {percent(metrics['sure'])}. It answers for "
            f"{metrics['sure_coverage']:.0f} % of its test images, and {metrics['sure_precision']:.0f} % of these "
            "answers are right."
        )
    else:
        lines.append(f"{known} and gives each photo one of them.")
    return lines


def _columns(model: HieraForImageClassification, *, visible: str, gallery: int) -> list[tuple[str, str]]:
    """Titles and notes of the columns."""
    from hierax.demo.answers import side

    config, size = model.config, [_FINER * length for length in model.config.image_size]
    grids = [[side // stride for side, stride in zip(size, config.stage_stride(s - 1), strict=True)] for s in _STAGES]
    return [
        ("photo", ""),
        ("labels", f"of the photo at {side(model)} px"),
        *(
            (f"features, stage {stage}", f"{' x '.join(map(str, reversed(grid)))}; colors: PCA")
            for stage, grid in zip(_STAGES, grids, strict=True)
        ),
        ("masked", visible),
        ("reconstructed", "error in gray levels"),
        ("nearest neighbors", f"of {gallery} images"),
    ]


def _nearest(vectors: Tensor, others: Tensor) -> list[list[int]]:
    """The numbers of the `others` with the highest cosine similarity to each vector."""
    from torch.nn.functional import normalize

    return (normalize(vectors) @ normalize(others).T).topk(_NEAREST).indices.tolist()


def _maps(model: HieraForImageClassification, pictures: Sequence[Image.Image]) -> list[list[Image.Image]]:
    """Each photo and its feature maps."""
    import torch

    from hierax.demo.inputs import pixels_of, preprocessing_at
    from hierax.viz.maps import to_image

    size = _FINER * model.config.image_size[0]
    record, rows = preprocessing_at(model, size), []
    for picture in pictures:
        pixels = pixels_of([picture], model, size)
        with torch.inference_mode():
            found = model.encoder(pixels, stages=_STAGES)
        rows.append([to_image(pixels[0], record=record), *(_map(found, stage) for stage in _STAGES)])
    return rows


def _map(found: Features, stage: int) -> Image.Image:
    """The map of a stage, one pixel per cell, its first three principal components as colors."""
    from hierax.viz.maps import pca_image

    values = found.map(stage)[0]
    return pca_image(values, stride=(1, 1), size=values.shape[1:])
