"""Which regions of an image speak for a label, or hold the model's attention."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from hierax.advice import did_you_mean
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
from hierax.predict.classify import probabilities
from hierax.predict.inputs import check_inputs
from hierax.predict.predictor import Model, Predictor, Size, open_predictor
from hierax.predict.rollout import rollout
from hierax.processing import DEFAULT_MAX_PIXELS

Method = Literal["gradcam", "rollout"]
METHODS: tuple[str, ...] = get_args(Method)
_ON_A_GPU = 8  # images per call: the activations of all blocks are in memory


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
            raise ValueError("label is given, but rollout explains no label; expected no label, or method 'gradcam'")
        return [[_spread(values, predictor.config)] for values in rollout(_encoder(predictor), pixels)]
    config, model = predictor.config, _check_classifier(predictor)
    wanted = [None if names is None else [label_index(config, name) for name in names] for names in labels]
    count = min(top_k, config.num_labels)
    chosen: list[list[int]] = []

    def choose(logits: Tensor) -> list[list[int]]:
        best = logits.topk(count).indices.tolist()
        chosen.extend(top if given is None else given for top, given in zip(best, wanted, strict=True))
        return chosen

    logits, heats = class_activations(model, pixels, choose, stage=config.stages)
    return [
        [_strengthened(heat, index, config, float(row[index])) for heat, index in zip(heat_rows, indices, strict=True)]
        for heat_rows, indices, row in zip(heats, chosen, probabilities(logits, config), strict=True)
    ]


def label_index(config: HieraConfig, label: int | str) -> int:
    """The index of a class, by its index (also as text) or its name.

    Capital letters do not matter. Of a label with several names ("tabby, tabby cat"), one name is enough if no other
    label has it.

    Raises:
        ValueError: there is no such class, or several have this name; the message says what is expected.
    """
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


def _strengthened(heat: Tensor, index: int, config: HieraConfig, probability: float) -> Explanation:
    """The heat of a class, divided by its largest value."""
    most = float(heat.max())
    values = (heat / most if most > 0 else heat).float().cpu().numpy()
    return Explanation(index, config.id2label[index], probability, values, config.stage_stride(config.stages - 1))


def _spread(cells: Tensor, config: HieraConfig) -> Explanation:
    """The parts of the cells, from 0 (the smallest) to 1 (the largest)."""
    span = cells.max() - cells.min()
    values = (cells - cells.min()) / span if float(span) > 0 else torch.zeros_like(cells)
    return Explanation(None, None, None, values.cpu().numpy(), config.stage_stride(0), "rollout")
