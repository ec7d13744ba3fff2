"""Writes explanations of images and clips, as arrays and as images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hierax.atomic import atomic_write
from hierax.predict.classify import label_index
from hierax.predict.explain import Explanation, label_explanations
from hierax.predict.inputs import check_inputs, not_finite, read_pixels, stream
from hierax.predict.predictor import Predictor
from hierax.processing import HieraVideoProcessor, ImageError, Preprocessing
from hierax.reprs.markup import html_repr
from hierax.reprs.text import short_repr

if TYPE_CHECKING:
    from PIL import Image

    from hierax.viz.sheets import Tile

_NOTES = {
    "gradcam": "Bright cells speak for the label (class activation). Every label has its own scale.",
    "rollout": "Bright cells have most of the model's attention (attention rollout).",
}


@short_repr(changed=True)
@dataclass(frozen=True)
class ExplanationFiles:
    """The explanations of an image or video, one per label, and the files that were written; or the error."""

    path: Path
    explanations: tuple[Explanation, ...] = ()
    arrays: Path | None = None
    image: Path | None = None
    error: ImageError | None = None

    @html_repr
    def _repr_html_(self) -> str:
        from hierax.predict.cards import explanation_files

        return explanation_files(self)

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON: `path`, and `labels`, `arrays` and `image`, or `error`. For "rollout", `labels` is empty."""
        if self.error is not None:
            return {"path": str(self.path), "error": self.error.problem}
        labels = [
            {"label": one.label, "index": one.index, "probability": one.probability}
            for one in self.explanations
            if one.index is not None
        ]
        return {"path": str(self.path), "labels": labels, "arrays": str(self.arrays), "image": str(self.image)}


def write_explanations(
    predictor: Predictor,
    paths: Sequence[Path],
    files: Sequence[tuple[Path, Path]],
    *,
    labels: Sequence[int | str] | None = None,
    top_k: int = 1,
    method: str = "gradcam",
) -> Iterator[ExplanationFiles]:
    """Like `explain`, with a model of `open_explainer`. `files` has the paths of the arrays and of the image for each
    input.

    Raises:
        ValueError: a label is unknown; or the files are not of the kind that the model takes.
    """
    check_inputs(predictor.config, paths)
    wanted = None if labels is None else [label_index(predictor.config, label) for label in labels]
    return _written(predictor, paths, files, labels=wanted, top_k=top_k, method=method)


def _written(
    predictor: Predictor,
    paths: Sequence[Path],
    files: Sequence[tuple[Path, Path]],
    *,
    labels: list[int] | None,
    top_k: int,
    method: str,
) -> Iterator[ExplanationFiles]:
    from hierax.viz.fonts import drawable_names

    processor = predictor.processor()
    video = isinstance(processor, HieraVideoProcessor)
    answers = stream(
        paths,
        partial(read_pixels, processor),
        lambda pixels: label_explanations(predictor, pixels, [labels] * len(pixels), top_k=top_k, method=method),
        batch_size=1 if video else predictor.batch_size,
    )
    headings = drawable_names([path.name for path in paths], kind="video" if video else "image")
    for heading, answer, (arrays, image) in zip(headings, answers, files, strict=True):
        if answer.result is None or answer.pixels is None:
            yield ExplanationFiles(answer.path, error=answer.error)
            continue
        if (wrong := not_finite(answer.path, [torch.from_numpy(one.values) for one in answer.result])) is not None:
            yield ExplanationFiles(answer.path, error=wrong)
            continue
        _save_arrays(answer.result, arrays)
        if isinstance(processor, HieraVideoProcessor):
            seconds = float(processor.sampling.span)
            _save_clip(answer.result, answer.pixels[0], predictor.preprocessing, seconds, image, heading)
        else:
            _save_image(answer.result, answer.pixels[0], predictor.preprocessing, image, heading)
        yield ExplanationFiles(answer.path, tuple(answer.result), arrays, image)


def _save_arrays(found: Sequence[Explanation], path: Path) -> None:
    """The values of all labels as one array, with their labels."""
    named = [one for one in found if one.index is not None]
    with atomic_write(path, sync=False) as part:
        np.savez(
            part,
            values=np.stack([one.values for one in found]),
            labels=np.array([one.label for one in named], np.str_),
            indices=np.array([one.index for one in named], np.int64),
            probabilities=np.array([one.probability for one in named], np.float32),
            stride=np.array(found[0].stride, np.int64),
        )


def _save_image(found: Sequence[Explanation], pixels: Tensor, record: Preprocessing, path: Path, heading: str) -> None:
    from hierax.viz.sheets import sheet

    note = f"{pixels.shape[2]} x {pixels.shape[1]} pixels, as the model sees them. {_NOTES[found[0].method]}"
    with atomic_write(path, sync=False) as part:
        sheet([explanation_tiles(found, pixels, record=record)], heading=heading, note=note).save(part, format="PNG")


def explanation_tiles(found: Sequence[Explanation], pixels: Tensor, *, record: Preprocessing) -> list[Tile]:
    """The tiles of an image `[C, H, W]`: the image, then the heat of each of its explanations over it."""
    from hierax.viz.maps import to_image
    from hierax.viz.sheets import Tile

    picture = to_image(pixels, record=record)
    heats = [Tile(_heat(picture, one.values, one.stride), *_caption(one)) for one in found]
    return [Tile(picture, "image", "what the model sees"), *heats]


def _heat(picture: Image.Image, values: np.ndarray, stride: Sequence[int]) -> Image.Image:
    """The heat over an image, in the size of a sheet, with its bar of colors."""
    from hierax.viz.heat import heat_overlay, with_heat_bar
    from hierax.viz.sheets import fitted

    return with_heat_bar(fitted(heat_overlay(picture, values, stride=stride)), low="0", high="1, most")


def _caption(one: Explanation) -> tuple[str, str]:
    """Title and note of an explanation."""
    cells = " x ".join(str(n) for n in reversed(one.values.shape[-2:]))
    if one.label is None or one.probability is None:
        return "attention rollout", f"{cells} cells"
    return one.label, f"probability {one.probability:.1%}, {cells} cells"


def _save_clip(
    found: Sequence[Explanation], pixels: Tensor, record: Preprocessing, seconds: float, path: Path, heading: str
) -> None:
    """An animation of a clip `[C, T, H, W]` with a column for each explanation."""
    from hierax.viz.animation import Animation, write_animation
    from hierax.viz.maps import to_image

    times = len(found[0].values)
    every = -(-pixels.shape[1] // times)
    images = [to_image(pixels[:, number * every], record=record) for number in range(times)]
    columns = [[_heat(image, one.values[t], one.stride[1:]) for t, image in enumerate(images)] for one in found]
    shape = f"{pixels.shape[1]} frames of {pixels.shape[3]} x {pixels.shape[2]} pixels"
    captions = [("the model's input", shape), *map(_caption, found)]
    moving = Animation(list(zip(images, *columns, strict=True)), captions, seconds / times)
    write_animation([moving], path, heading=heading, note=_NOTES[found[0].method])
