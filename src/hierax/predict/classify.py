"""Classifies images and videos."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hierax.checkpoint.bundled import FEMTO
from hierax.processing import DEFAULT_MAX_PIXELS

if TYPE_CHECKING:
    from torch import Tensor

    from hierax.model.config import HieraConfig
    from hierax.predict.inputs import Model, Predictor, Size
    from hierax.processing import Clip, HieraVideoProcessor, ImageError


@dataclass(frozen=True)
class Prediction:
    """A class, its index, and its probability, from 0 to 1."""

    label: str
    index: int
    probability: float

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        return {"label": self.label, "index": self.index, "probability": self.probability}


@dataclass(frozen=True)
class View:
    """The predictions for one view of a video: the crop `crop` of the clip from `start` to `end` in seconds."""

    start: float | None
    end: float | None
    crop: int
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True)
class Classified:
    """The most probable classes of an image or video, best first, for a video also by view; or an error if it cannot
    be read.
    """

    path: Path
    predictions: tuple[Prediction, ...] = ()
    views: tuple[View, ...] = ()
    error: ImageError | None = None

    def to_dict(self, *, per_view: bool = False) -> dict[str, Any]:
        """Values that JSON can hold: `path`, and `predictions` or `error`; with `per_view` also `views` of videos."""
        if self.error is not None:
            return {"path": str(self.path), "error": self.error.problem}
        found: dict[str, Any] = {"path": str(self.path), "predictions": [p.to_dict() for p in self.predictions]}
        if per_view and self.views:
            found["views"] = [
                {"start": v.start, "end": v.end, "crop": v.crop, "predictions": [p.to_dict() for p in v.predictions]}
                for v in self.views
            ]
        return found


def classify(
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    model: Model = FEMTO,
    top_k: int = 5,
    size: Size | None = None,
    views: tuple[int, int] = (1, 1),
    device: str = "auto",
    precision: str = "auto",
    backend: str = "auto",
    batch_size: int | None = None,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> Iterator[Classified]:
    """Yields the `top_k` most probable classes of each image or video, in the order of the paths.

    The result for an image does not depend on the other images. bf16 and int8 change probabilities by a few
    thousandths; precision="fp32" gives those of the model.

    Args:
        images: paths of images; of videos for a classifier of clips.
        model: a Hub id, folder, file or export, which runs on an engine; or a classifier or engine, which runs as it
            is.
        top_k: how many classes; all where the model has fewer.
        size: pixels of the square that the model sees, or rows and columns, instead of the checkpoint's.
        views: of videos, how many windows in time and how many crops of each; their probabilities are averaged.
        device, precision, backend: see `hierax.Engine`.
        batch_size: images per call of the model; None is 1 on a CPU and 32 elsewhere.
        max_pixels: images of more pixels cannot be read; None is any number.

    Raises:
        ValueError: the model is not a classifier, or takes neither images nor clips; see also `hierax.Engine`.
        OSError: see `hierax.load`.
    """
    from hierax.predict.inputs import image_paths, open_predictor

    paths = image_paths(images)
    opened = open_predictor(
        model,
        size=size,
        device=device,
        precision=precision,
        backend=backend,
        batch_size=batch_size,
        max_pixels=max_pixels,
    )
    return predictions(opened, paths, top_k=top_k, views=views)


def predictions(
    opened: Predictor, paths: list[Path], *, top_k: int = 5, views: tuple[int, int] = (1, 1)
) -> Iterator[Classified]:
    """Like `classify`, with an open model.

    Raises:
        ValueError: the model is not a classifier, or takes neither images nor clips; or top_k is below 1.
    """
    from hierax.model.registry import TASKS
    from hierax.predict.inputs import CLASSIFIER, check_inputs, stream
    from hierax.processing import HieraVideoProcessor

    check_inputs(opened.config, paths)
    if not TASKS[opened.task].labels:
        such = CLASSIFIER if opened.config.is_video else FEMTO
        raise ValueError(f"this model is for {opened.task}; classify needs a classifier, such as {such}")
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
        raise ValueError(f"top_k is {top_k!r}; expected a whole number, at least 1")
    processor = opened.processor()
    if isinstance(processor, HieraVideoProcessor):
        return (_video(path, opened, processor, views=views, top_k=top_k) for path in paths)
    answers = stream(
        paths,
        lambda path: processor(path).pixel_values,
        lambda pixels: probabilities(opened.call(pixels).logits, opened.config).unbind(),
        batch_size=opened.batch_size,
    )
    return (
        Classified(a.path, error=a.error) if a.result is None else _name_classes(a.path, a.result, opened.config, top_k)
        for a in answers
    )


def _name_classes(path: Path, found: Tensor, config: HieraConfig, top_k: int) -> Classified:
    """The most probable classes of a file, or an error if the model's output is not finite."""
    from hierax.predict.inputs import not_finite

    if (error := not_finite(path, [found])) is not None:
        return Classified(path, error=error)
    return Classified(path, _likeliest(found, config, top_k))


def _video(
    path: Path, opened: Predictor, processor: HieraVideoProcessor, *, views: tuple[int, int], top_k: int
) -> Classified:
    import torch

    from hierax.predict.inputs import clip_batches, not_finite
    from hierax.processing import ImageError

    config = opened.config
    try:
        clips: list[Clip] = processor.clips(path, views=views)
    except ImageError as error:
        return Classified(path, error=error)
    with torch.inference_mode():
        logits = torch.cat([opened.call(pixels).logits for pixels in clip_batches(clips)])
    found = probabilities(logits, config)
    if (error := not_finite(path, [found])) is not None:
        return Classified(path, error=error)
    seen = [
        View(clip.start, clip.end, clip.view[1], _likeliest(one, config, top_k))
        for clip, one in zip(clips, found, strict=False)
    ]
    return Classified(path, _likeliest(found.mean(0), config, top_k), tuple(seen))


def probabilities(logits: Tensor, config: HieraConfig) -> Tensor:
    """Probabilities of logits `[..., classes]`, float32 on the CPU: a sigmoid for each class if several may be true."""
    several = config.problem_type == "multi_label_classification"
    logits = logits.float().cpu()
    return logits.sigmoid() if several else logits.softmax(-1)


def _likeliest(probabilities: Tensor, config: HieraConfig, top_k: int) -> tuple[Prediction, ...]:
    values, indices = probabilities.topk(min(top_k, len(probabilities)))
    pairs = zip(values.tolist(), indices.tolist(), strict=True)
    return tuple(Prediction(config.id2label[index], index, value) for value, index in pairs)
