"""The demonstration: one sheet with the results of the bundled models for photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hierax.checkpoint.bundled import FEMTO, FEMTO_MAE
from hierax.console import percent
from hierax.notices import printable

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from hierax.demo.images import Photo
    from hierax.model.encoder import Features
    from hierax.model.tasks import HieraForImageClassification, HieraForPreTraining
    from hierax.processing import Preprocessing


_TOP, _NEAREST = 3, 4


_STAGES = (2, 3)  # the stages with the maps that are shown


_WIDE = 40  # columns of a terminal for the name of an image; after longer names the labels are not aligned


_LARGER = 1.4  # the size at which photos are classified, divided by the model's own size


def demo(
    images: Sequence[Photo] | None = None, *, seed: int = 0, tell: Callable[[str], None] = lambda _: None
) -> Image.Image:
    """A sheet of photos: labels, feature maps, masked reconstruction, and nearest neighbors in the bundled gallery.

    Args:
        images: paths; None for the bundled photos.
        seed: seed of the random masks; each photo gets another mask.
        tell: a function that is called with each line of text: the model, then each photo with its labels.
    """
    from rich.cells import cell_len

    from hierax.demo.images import gallery, photos
    from hierax.demo.sheet import Row, demo_sheet
    from hierax.model.tasks import HieraForImageClassification, HieraForPreTraining
    from hierax.viz.fonts import drawable_names

    shown, others = photos() if images is None else list(images), gallery()
    classifier = HieraForImageClassification.from_pretrained(FEMTO)
    counted = f"{len(shown)} {'image' if len(shown) == 1 else 'images'}" if images else f"{len(shown)} bundled photos"
    tell(_heading(classifier, counted))
    answers = _answers(classifier, shown)
    names = [printable(photo.name) for photo in shown]
    width = min(_WIDE, max(map(cell_len, names)))
    for name, found in zip(names, answers, strict=True):
        tell(
            f"  {name}{' ' * (width - cell_len(name))}   {'   '.join(f'{label} {share}' for label, _, share in found)}"
        )
    mae = HieraForPreTraining.from_pretrained(FEMTO_MAE)
    masked, seen = _masked(mae, shown, seed=seed)
    pairs = zip(_maps(classifier, shown), masked, strict=True)
    size = classifier.config.image_size[0]
    nearest = _nearest(*(_pooled(classifier, some, size) for some in (shown, others)))
    drawn = drawable_names([photo.name for photo in shown])
    rows = [
        Row(name, (*maps, *made), found, [(others[i].picture, others[i].label) for i in near])
        for name, (maps, made), found, near in zip(drawn, pairs, answers, nearest, strict=True)
    ]
    return demo_sheet(
        rows,
        heading=f"What {FEMTO} makes of " + ("your images" if images else "photos that it was not trained on"),
        notes=_notes(classifier, mae),
        columns=_columns(classifier, mae, seen=seen, gallery=len(others)),
    )


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
    return [
        f"{' and '.join(sizes)} are part of hierax{license}.",
        f"{FEMTO} knows {classifier.config.num_labels} categories and gives each photo one of them. It is small: "
        "it is right for about half of the photos.",
    ]


def _columns(
    model: HieraForImageClassification, mae: HieraForPreTraining, *, seen: str, gallery: int
) -> list[tuple[str, str]]:
    """Titles and notes of the columns."""
    guessed = (
        "brightness estimated from neighbors" if mae.config.normalize_pixel_loss else "its reconstruction by the MAE"
    )
    config, size = model.config, [2 * side for side in model.config.image_size]
    grids = [[side // stride for side, stride in zip(size, config.stage_stride(s - 1), strict=True)] for s in _STAGES]
    return [
        ("photo", f"the {_TOP} most likely, at {_larger(model)} px"),
        *(
            (f"features, stage {stage}", f"{' x '.join(map(str, reversed(grid)))} cells; colors: PCA")
            for stage, grid in zip(_STAGES, grids, strict=True)
        ),
        ("masked", seen),
        ("reconstructed", guessed),
        ("nearest neighbors", f"of {gallery} images, by features"),
    ]


def _preprocessing_for(model: HieraForImageClassification | HieraForPreTraining, size: int) -> Preprocessing:
    from hierax.processing.defaults import preprocessing_for

    return preprocessing_for(model.config, model.preprocessing).at(size)


def _pixels(pictures: Sequence[Photo], model: HieraForImageClassification | HieraForPreTraining, size: int) -> Tensor:
    """The model's input `[B, 3, size, size]` for these photos: square crops."""
    from hierax.processing import HieraImageProcessor

    return HieraImageProcessor(_preprocessing_for(model, size))([photo.picture for photo in pictures]).pixel_values


def _pooled(model: HieraForImageClassification, pictures: Sequence[Photo], size: int) -> Tensor:
    """Pooled features `[B, C]`."""
    import torch

    with torch.inference_mode():
        return torch.cat([model.pooled(part) for part in _pixels(pictures, model, size).split(32)])


def _answers(model: HieraForImageClassification, pictures: Sequence[Photo]) -> list[list[tuple[str, float, str]]]:
    """The most probable labels of each photo, with their probabilities."""
    import torch

    with torch.inference_mode():
        shares = model.head(_pooled(model, pictures, _larger(model))).softmax(-1)
    values, indices = shares.topk(min(_TOP, model.config.num_labels))
    names = {index: label.replace("-", " ") for index, label in model.config.id2label.items()}  # as for the gallery
    return [
        [(names[index], value, percent(value)) for value, index in zip(*pair, strict=True)]
        for pair in zip(values.tolist(), indices.tolist(), strict=True)
    ]


def _larger(model: HieraForImageClassification) -> int:
    """The side in pixels at which the model classifies photos; it is right more often than at its own size."""
    return round(_LARGER * model.config.image_size[0] / 32) * 32


def _nearest(vectors: Tensor, others: Tensor) -> list[list[int]]:
    """The numbers of the `others` with the highest cosine similarity to each vector."""
    from torch.nn.functional import normalize

    return (normalize(vectors) @ normalize(others).T).topk(_NEAREST).indices.tolist()


def _maps(model: HieraForImageClassification, pictures: Sequence[Photo]) -> list[list[Image.Image]]:
    """Each photo and its feature maps, at twice the model's own size, because these maps are finer."""
    import torch

    from hierax.viz.maps import to_image

    size = 2 * model.config.image_size[0]
    record, rows = _preprocessing_for(model, size), []
    for pixels in _pixels(pictures, model, size).split(1):
        with torch.inference_mode():
            found = model.encoder(pixels, stages=_STAGES)
        rows.append([to_image(pixels[0], record=record), *(_map(found, stage) for stage in _STAGES)])
    return rows


def _map(found: Features, stage: int) -> Image.Image:
    """The map of a stage, one pixel per cell, its first three principal components as colors."""
    from hierax.viz.maps import pca_image

    values = found.map(stage)[0]
    return pca_image(values, stride=(1, 1), size=values.shape[1:])


def _masked(model: HieraForPreTraining, pictures: Sequence[Photo], *, seed: int) -> tuple[list[list[Image.Image]], str]:
    """The masked photo and its reconstruction, for each photo; and a note with the number of visible units."""
    import torch
    from PIL import Image

    from hierax.demo.sheet import TILE
    from hierax.predict.reconstruct import draw_keep
    from hierax.viz.maps import to_image
    from hierax.viz.reconstruction import draw_units, reconstruct_pixels

    config, size = model.config, model.config.image_size
    pixels = _pixels(pictures, model, size[0])
    keep = torch.cat([draw_keep(config, size, mask_ratio=None, seed=seed + i) for i in range(len(pictures))])
    with torch.inference_mode():
        out = model(pixels, keep=keep)
        made = reconstruct_pixels(pixels, out.logits, out.bool_masked_pos, config=config)
    unit, rows = [TILE * pixel // side for pixel, side in zip(config.unit_pixels, size, strict=True)], []
    record = model.preprocessing
    assert record is not None
    for before, after, shown in zip(pixels, made, keep, strict=True):
        large = to_image(before, record=record).resize((TILE, TILE), Image.Resampling.LANCZOS)
        rows.append([draw_units(large, unit=unit, keep=shown.numpy()), to_image(after, record=record)])
    return rows, f"{int(keep[0].sum())} of {keep.shape[1]} mask units are visible"
