"""Classifies images and videos."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hierax.arguments import check_count
from hierax.checkpoint.bundled import FEMTO
from hierax.processing import DEFAULT_MAX_PIXELS
from hierax.reprs.markup import html_repr
from hierax.reprs.text import short_repr

if TYPE_CHECKING:
    from torch import Tensor

    from hierax.model.config import HieraConfig
    from hierax.predict.predictor import Model, Predictor, Size
    from hierax.processing import Clip, HieraVideoProcessor, ImageError


@short_repr()
@dataclass(frozen=True)
class Prediction:
    """A class: its label, its index, and its probability from 0 to 1."""

    label: str
    index: int
    probability: float

    def to_dict(self) -> dict[str, Any]:
        """The values as a dict that can be written as JSON."""
        return {"label": self.label, "index": self.index, "probability": self.probability}


@short_repr()
@dataclass(frozen=True)
class View:
    """The predictions for one view of a video: crop number `crop` of the clip from `start` to `end`, in seconds."""

    start: float | None
    end: float | None
    crop: int
    predictions: tuple[Prediction, ...]


@short_repr(changed=True)
@dataclass(frozen=True)
class Classification:
    """The most probable classes of an image or video, best first; of a video also for each view. Or the error if it
    cannot be read.
    """

    path: Path
    predictions: tuple[Prediction, ...] = ()
    views: tuple[View, ...] = ()
    error: ImageError | None = None

    @html_repr
    def _repr_html_(self) -> str:
        from hierax.predict.cards import classification

        return classification(self)

    def to_dict(self, *, per_view: bool = False) -> dict[str, Any]:
        """A dict for JSON: `path`, and `predictions` or `error`. With `per_view` also `views`, if it is a video."""
        if self.error is not None:
            return {"path": str(self.path), "error": self.error.problem}
        values: dict[str, Any] = {"path": str(self.path), "predictions": [p.to_dict() for p in self.predictions]}
        if per_view and self.views:
            values["views"] = [
                {"start": v.start, "end": v.end, "crop": v.crop, "predictions": [p.to_dict() for p in v.predictions]}
                for v in self.views
            ]
        return values


def classification_from(path: Path, values: Mapping[str, Any]) -> Classification:
    """The result of which `to_dict(per_view=True)` made this dict."""
    views = [
        View(view["start"], view["end"], view["crop"], _from_dicts(view["predictions"]))
        for view in values.get("views", ())
    ]
    return Classification(path, _from_dicts(values["predictions"]), tuple(views))


def _from_dicts(predictions: Iterable[Mapping[str, Any]]) -> tuple[Prediction, ...]:
    return tuple(Prediction(**values) for values in predictions)


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
) -> Iterator[Classification]:
    """Yields the `top_k` most probable classes of each image or video, in the order of the paths.

    The result for an image does not depend on the content of the other images. bf16 and int8 change probabilities by
    a few thousandths. precision="fp32" gives the exact probabilities of the model.

    Args:
        images: paths of images, or of videos for a video classifier.
        model: a Hub id, folder, file or export, which runs on an engine; or a classifier or engine, which is used as it
            is.
        top_k: number of classes; all classes if the model has fewer.
        size: side of the square input in pixels, or rows and columns; default: the size of the checkpoint.
        views: for videos: number of clips, and of crops of each clip. Their probabilities are averaged.
        device, precision, backend: see `hierax.Engine`. On a CPU, backend="auto" is PyTorch for few images: for these,
            opening a faster backend would take longer.
        batch_size: images per call of the model; None: 1 on a CPU, otherwise 32.
        max_pixels: larger images are an error; None: no limit.

    Raises:
        ValueError: the model is not a classifier, or takes neither images nor clips; see also `hierax.Engine`.
        OSError: see `hierax.load`.
    """
    from hierax.predict.inputs import image_paths
    from hierax.predict.predictor import open_predictor
    from hierax.processing.views import check_views

    clips, crops = check_views(views)
    paths = image_paths(images)
    predictor = open_predictor(
        model,
        size=size,
        device=device,
        precision=precision,
        backend=backend,
        batch_size=batch_size,
        max_pixels=max_pixels,
        inputs=len(paths) * clips * crops,
    )
    return predictions(predictor, paths, top_k=top_k, views=views)


def predictions(
    predictor: Predictor, paths: list[Path], *, top_k: int = 5, views: tuple[int, int] = (1, 1)
) -> Iterator[Classification]:
    """Like `classify`, with a model that is already open.

    Raises:
        ValueError: the model is not a classifier, or takes neither images nor clips, or top_k is below 1.
    """
    from hierax.model.registry import TASKS
    from hierax.predict.inputs import CLASSIFIER, check_inputs, stream
    from hierax.processing import HieraVideoProcessor

    check_inputs(predictor.config, paths)
    task = TASKS[predictor.task]
    if not task.labels or task.dense:
        example = CLASSIFIER if predictor.config.is_video else FEMTO
        also = "; segment takes this model" if task.dense else ""
        raise ValueError(f"this model is for {task.name}; classify needs a classifier, such as {example}{also}")
    top_k = check_count("top_k", top_k)
    processor = predictor.processor()
    if isinstance(processor, HieraVideoProcessor):
        return (_video(path, predictor, processor, views=views, top_k=top_k) for path in paths)
    answers = stream(
        paths,
        lambda path: processor(path).pixel_values,
        lambda pixels: probabilities(predictor.call(pixels).logits, predictor.config).unbind(),
        batch_size=predictor.batch_size,
    )
    return (
        Classification(a.path, error=a.error)
        if a.result is None
        else classification_of(a.path, a.result, predictor.config, top_k=top_k)
        for a in answers
    )


def classification_of(path: Path, scores: Tensor, config: HieraConfig, *, top_k: int) -> Classification:
    """The `top_k` most probable classes of a file with the probabilities `scores` `[classes]`, or an error if they are
    not finite.
    """
    from hierax.predict.inputs import not_finite

    if (error := not_finite(path, [scores])) is not None:
        return Classification(path, error=error)
    return Classification(path, _top_classes(scores, config, top_k))


def _video(
    path: Path, predictor: Predictor, processor: HieraVideoProcessor, *, views: tuple[int, int], top_k: int
) -> Classification:
    import torch

    from hierax.predict.inputs import clip_batches, not_finite
    from hierax.processing import ImageError

    config = predictor.config
    try:
        clips: list[Clip] = processor.clips(path, views=views)
    except ImageError as error:
        return Classification(path, error=error)
    with torch.inference_mode():
        logits = torch.cat([predictor.call(pixels).logits for pixels in clip_batches(clips)])
    scores = probabilities(logits, config)
    if (error := not_finite(path, [scores])) is not None:
        return Classification(path, error=error)
    by_view = [
        View(clip.start, clip.end, clip.view[1], _top_classes(one, config, top_k))
        for clip, one in zip(clips, scores, strict=False)
    ]
    return Classification(path, _top_classes(scores.mean(0), config, top_k), tuple(by_view))


def probabilities(logits: Tensor, config: HieraConfig) -> Tensor:
    """Probabilities of logits `[..., classes]`, in float32 on the CPU.

    They are a softmax; in a multi-label model they are the sigmoid of each class.
    """
    multi_label = config.problem_type == "multi_label_classification"
    logits = logits.float().cpu()
    return logits.sigmoid() if multi_label else logits.softmax(-1)


def _top_classes(probabilities: Tensor, config: HieraConfig, top_k: int) -> tuple[Prediction, ...]:
    values, indices = probabilities.topk(min(top_k, len(probabilities)))
    pairs = zip(values.tolist(), indices.tolist(), strict=True)
    return tuple(Prediction(config.id2label[index], index, value) for value, index in pairs)


def label_index(config: HieraConfig, label: int | str) -> int:
    """The index of a class, by its index (also as text) or its name.

    Capital letters do not matter. Of a label with several names ("tabby, tabby cat"), one name is enough if no other
    label has it.

    Raises:
        ValueError: there is no such class, or several have this name; the message says what is expected.
    """
    from hierax.advice import did_you_mean

    count = config.num_labels
    names = [config.id2label[index] for index in range(count)]
    folded = [name.casefold().strip() for name in names]
    wanted = str(label).casefold().strip()
    if isinstance(label, str) and wanted in folded:
        return folded.index(wanted)
    parts = [[part.strip() for part in name.split(",")] for name in folded]
    found = [index for index, split in enumerate(parts) if wanted in split]
    if isinstance(label, str) and len(found) == 1:
        return found[0]
    if isinstance(label, str) and len(found) > 1:
        raise ValueError(f"label is {label!r}, which classes {', '.join(map(str, found))} have; expected an index")
    if not isinstance(label, bool) and wanted.isdecimal() and int(wanted) < count:
        return int(wanted)
    advice = did_you_mean(wanted, [part for split in parts for part in split]) if isinstance(label, str) else ""
    raise ValueError(
        f"label is {label!r}; expected one of the {count} labels, or an index from 0 to {count - 1}{advice}"
    )
