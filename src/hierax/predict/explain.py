"""Which regions of an image speak for a label, or hold the model's attention."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, get_args

import numpy as np
import torch
from torch import Tensor

from hierax.arguments import check_count
from hierax.checkpoint.bundled import FEMTO
from hierax.checkpoint.load import load
from hierax.checkpoint.opened import Checkpoint, open_checkpoint
from hierax.devices import find_device
from hierax.engine import Engine
from hierax.engine.backends.exported import is_export
from hierax.model.config import HieraConfig
from hierax.model.encoder import Hiera
from hierax.model.pretrained import Pretrained
from hierax.model.registry import TASKS
from hierax.predict.class_activation import class_activations, evaluating
from hierax.predict.classify import label_index, probabilities
from hierax.predict.features import feature_files
from hierax.predict.inputs import check_inputs, image_paths
from hierax.predict.predictor import Model, Predictor, Size, open_predictor
from hierax.predict.rollout import rollout
from hierax.predict.unread import WrittenWhenRead
from hierax.processing import DEFAULT_MAX_PIXELS
from hierax.reprs.markup import html_repr
from hierax.reprs.text import short_repr

if TYPE_CHECKING:
    from hierax.predict.explanation_files import ExplanationFiles

Method = Literal["gradcam", "rollout"]
METHODS: tuple[str, ...] = get_args(Method)
_NO_LABEL = "rollout explains no label; expected None, or method 'gradcam'"
_ON_A_GPU = 8  # images per call: the activations of all blocks are in memory


@short_repr()
@dataclass(frozen=True)
class Explanation:
    """Which regions of an image speak for a label, or hold the model's attention.

    Attributes:
        index, label, probability: the class that is explained; all None for the method "rollout", which has no class.
        values: float32 `[h, w]` (of a clip `[t, h, w]`), 0 to 1: the cells of the image, row by row. 1 is the cell with
            the largest value. For "gradcam", 0 is no evidence for the class, and all are 0 if no cell has any. For
            "rollout", 0 is the cell with the smallest value.
        stride: pixels of the model's input per cell, per axis.
        method: "gradcam" or "rollout".
    """

    index: int | None
    label: str | None
    probability: float | None
    values: np.ndarray = field(compare=False, repr=False)
    stride: tuple[int, ...]
    method: str = "gradcam"

    @html_repr
    def _repr_html_(self) -> str:
        from hierax.predict.cards import explanation

        return explanation(self)

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON: `label`, `index`, `probability`, `shape`, `stride` and `values`."""
        return {
            "label": self.label,
            "index": self.index,
            "probability": self.probability,
            "shape": list(self.values.shape),
            "stride": list(self.stride),
            "values": self.values.tolist(),
        }


def explain(
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    model: Model = FEMTO,
    labels: int | str | Iterable[int | str] | None = None,
    top_k: int = 1,
    method: Method = "gradcam",
    size: Size | None = None,
    whole: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    batch_size: int | None = None,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> Iterator[ExplanationFiles]:
    """Writes which regions speak for a label, as `NAME.npz` and `NAME.png` (for a video `NAME.gif`), into the folder
    `output`, and yields the explanations and the paths.

    Each file is written when its result is read: `list(hierax.explain(…))` writes all files. The model runs in PyTorch
    and fp32, because an engine has no gradients.

    Args:
        images: paths of images, or of videos for a video classifier.
        output: the folder, created if missing.
        model: a Hub id, folder or file of a checkpoint; or a model, which is used as it is.
        labels: the classes to explain in every image, by index or name; see `label_index`. None: the most probable.
        top_k: without `labels`, how many of the most probable classes to explain; all if the model has fewer.
        method: "gradcam" is gradient-weighted class activation, of a classifier. "rollout" is attention rollout, of any
            model; it says where the attention goes, and explains no label.
        size: side of the square input in pixels, or rows and columns; default: the size of the checkpoint.
        whole: use the whole image instead of its center; `size` is then its shorter side.
        overwrite: replace existing files.
        device: "auto" is CUDA or MPS if available, else the CPU; ignored for a model.
        batch_size: images per call of the model; None: 1 on a CPU, otherwise 8, because all activations are in memory.
        max_pixels: larger images are an error; None: no limit.

    Raises:
        ValueError: the method or a label is unknown; or the model is no classifier; or it is an engine or an export; or
            a file already exists (checked before anything is written); see also `hierax.load`.
        OSError: a file cannot be written; see also `hierax.load`.
    """
    from hierax.predict.explanation_files import write_explanations

    paths = image_paths(images)
    wanted = asked_labels(labels, top_k=top_k, method=method)
    predictor = open_explainer(
        model, method=method, size=size, whole=whole, device=device, batch_size=batch_size, max_pixels=max_pixels
    )
    files = feature_files(paths, output, overwrite=overwrite, clips=predictor.config.is_video)
    results = write_explanations(predictor, paths, files, labels=wanted, top_k=top_k, method=method)
    return WrittenWhenRead(results, "explain")


def asked_labels(labels: int | str | Iterable[int | str] | None, *, top_k: int, method: str) -> list[int | str] | None:
    """The labels as a list; None if there are none.

    Raises:
        ValueError: the method is unknown, or rollout is given a label; or no label is in the list, or top_k is below 1.
    """
    _check_method(method)
    check_count("top_k", top_k)
    if labels is None:
        return None
    if method == "rollout":
        raise ValueError(f"labels is {labels!r}, but {_NO_LABEL}")
    if isinstance(labels, str):
        return [labels]
    if isinstance(labels, SupportsIndex):
        return [operator.index(labels)]
    if not isinstance(labels, Iterable):
        raise ValueError(f"labels is {labels!r}; expected names or numbers of classes")
    wanted = list(labels)
    if not wanted:
        raise ValueError("labels is empty; expected labels, or None for the most probable one")
    return wanted


def open_explainer(
    model: Model,
    *,
    method: str = "gradcam",
    size: Size | None = None,
    whole: bool = False,
    device: str = "auto",
    batch_size: int | None = None,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> Predictor:
    """Opens a model for `explanations`, in PyTorch and fp32. A model is used as it is, and keeps its mode.

    Args:
        model: a Hub id, folder or file of a checkpoint; or a model.
        method: "gradcam", which needs a classifier, or "rollout".
        size: side of the square input in pixels, or rows and columns; default: the size of the checkpoint.
        whole: use the whole image instead of its center; `size` is then its shorter side.
        device: "auto" is CUDA or MPS if available, else the CPU; ignored for a model.
        batch_size: images per call; None: 1 on a CPU, otherwise 8, because all activations are in memory.
        max_pixels: larger images are an error; None: no limit.

    Raises:
        ValueError: the method is unknown; or the model is no classifier; or it is an engine or an export, which have no
            gradients; see also `hierax.load`.
        OSError: see `hierax.load`.
    """
    _check_method(method)
    if isinstance(model, Engine) or is_export(model):
        what = "an engine" if isinstance(model, Engine) else f"{model}, an export,"
        raise ValueError(f"{what} has neither gradients nor attention weights; expected a checkpoint or a model")
    if isinstance(model, (str, os.PathLike, Checkpoint)):
        with torch.inference_mode(False):  # weights of inference mode could have no gradients behind them
            model = load(open_checkpoint(model), device=find_device(device)).requires_grad_(False)
    with evaluating(model):  # open_predictor leaves it in eval mode
        predictor = open_predictor(model, size=size, whole=whole, max_pixels=max_pixels)
    check_inputs(predictor.config)
    if method == "gradcam":
        _check_classifier(predictor)
    batch = batch_size or (1 if model.device.type == "cpu" else _ON_A_GPU)
    return replace(predictor, batch_size=batch)


def explanations(
    predictor: Predictor,
    pixels: Tensor,
    labels: Sequence[int | str | None] | None = None,
    *,
    method: str = "gradcam",
) -> list[Explanation]:
    """One explanation for each image or clip of `pixels` `[B, C, *size]`, any size.

    It can be called from several threads at once, also in inference mode.

    Args:
        predictor: a model of `open_explainer`.
        pixels: preprocessed pixels, floating point.
        labels: the class of each image, by index or name; see `label_index`. None is the most probable class.
        method: "gradcam" or "rollout".

    Raises:
        ValueError: the method or a label is unknown, or there are not as many labels as images; or "rollout" is given a
            label, or the model is no classifier; or the shape is wrong.
    """
    given = [None] * len(pixels) if labels is None else list(labels)
    if len(given) != len(pixels):
        raise ValueError(f"labels has {len(given)} entries for {len(pixels)} images; expected one per image")
    asked = [None if label is None else [label] for label in given]
    found = [of_image[0] for of_image in label_explanations(predictor, pixels, asked, method=method)]
    if not all(np.isfinite(one.values).all() for one in found):
        raise ValueError("the output of the model is not finite (is the model damaged, or are the pixels?)")
    return found


def label_explanations(
    predictor: Predictor,
    pixels: Tensor,
    labels: Sequence[Sequence[int | str] | None],
    *,
    top_k: int = 1,
    method: str = "gradcam",
) -> list[list[Explanation]]:
    """Like `explanations`, with several labels per image, the same number for each: None are the `top_k` most probable
    classes. One forward pass serves all labels of an image.
    """
    _check_method(method)
    if method == "rollout":
        if any(label is not None for label in labels):
            raise ValueError(f"labels is {list(labels)}, but {_NO_LABEL}")
        return [[_spread(values, predictor.config)] for values in rollout(_encoder(predictor), pixels)]
    config, model = predictor.config, _check_classifier(predictor)
    wanted = [None if names is None else [label_index(config, name) for name in names] for names in labels]
    count = min(top_k, config.num_labels)
    chosen: list[list[int]] = []

    def choose(logits: Tensor) -> list[list[int]]:
        best = logits.topk(count).indices.tolist()
        chosen.extend(top if given is None else given for top, given in zip(best, wanted, strict=True))
        return chosen

    logits, heats = class_activations(model, pixels, choose, stage=_stage(config))
    return [
        [_strengthened(heat, index, config, float(row[index])) for heat, index in zip(heat_rows, indices, strict=True)]
        for heat_rows, indices, row in zip(heats, chosen, probabilities(logits, config), strict=True)
    ]


def _check_method(method: object) -> None:
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; expected {' or '.join(METHODS)}")


def _check_classifier(predictor: Predictor) -> Pretrained:
    """The model, which is a classifier in PyTorch."""
    task = TASKS.get(predictor.task)
    if task is None or not task.labels or task.dense or predictor.model is None:
        raise ValueError(
            f"this model is for {predictor.task}; gradcam needs a classifier, such as {FEMTO} (rollout needs none)"
        )
    return predictor.model


def _encoder(predictor: Predictor) -> Hiera:
    model = predictor.model
    if model is None:
        raise ValueError("the model runs on an engine, which has no attention weights; expected one of open_explainer")
    encoder = model if isinstance(model, Hiera) else model.get_submodule("encoder")
    assert isinstance(encoder, Hiera)
    return encoder


def _stage(config: HieraConfig) -> int:
    """The stage whose map is used: the one before the last, which was the best in the measurement (docs/explain.md)."""
    return max(config.stages - 1, 1)


def _strengthened(heat: Tensor, index: int, config: HieraConfig, probability: float) -> Explanation:
    """The heat of a class, divided by its largest value."""
    most = float(heat.max())
    values = (heat / most if most > 0 else heat).float().cpu().numpy()
    return Explanation(index, config.id2label[index], probability, values, config.stage_stride(_stage(config) - 1))


def _spread(cells: Tensor, config: HieraConfig) -> Explanation:
    """The parts of the cells, from 0 (the smallest) to 1 (the largest)."""
    span = cells.max() - cells.min()
    values = (cells - cells.min()) / span if float(span) > 0 else torch.zeros_like(cells)
    return Explanation(None, None, None, values.cpu().numpy(), config.stage_stride(0), "rollout")
