"""Checks the arguments of engines and exports, and makes a model from their `model`."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Sequence

import torch

from hierax.checkpoint.load import load
from hierax.checkpoint.opened import Checkpoint
from hierax.engine.cache import ArtifactCache, cache_in
from hierax.model.config import HieraConfig
from hierax.model.encoder import Hiera
from hierax.model.layers import is_seen
from hierax.model.pretrained import Pretrained
from hierax.model.registry import task_named, task_of
from hierax.model.tasks import HieraBackbone
from hierax.processing import HieraImageProcessor

_log = logging.getLogger("hierax.engine")


def check_counts(**counts: object) -> None:
    """Raises `ValueError` for a value that is no whole number above 0."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; expected a whole number above 0")


def check_inputs(processor: object, calibration: object, precision: str, *, exported: bool) -> None:
    """Checks that an engine can use its `processor` and its `calibration`, if they are given.

    Raises:
        TypeError: the processor is not one of images.
        ValueError: nothing is calibrated: the precision is not int8, or the model was calibrated when it was exported.
    """
    if processor is not None and not isinstance(processor, HieraImageProcessor):
        raise TypeError(f"processor is a {type(processor).__name__}; expected a HieraImageProcessor")
    if calibration is not None and (exported or precision != "int8"):
        reason = "this model is an export" if exported else f"precision is {precision!r}"
        raise ValueError(f"calibration is for precision='int8' of a checkpoint; {reason}")


def axes_of(config: HieraConfig, size: int | Sequence[int] | None) -> tuple[int, ...]:
    """Pixels per axis: of the native size if `size` is None; a whole number applies to all axes except time.

    Raises:
        ValueError: another number of axes.
    """
    if size is None:
        return config.image_size
    if isinstance(size, int):
        return (*config.image_size[:1], size, size) if config.is_video else (size,) * config.axes
    if len(size) != config.axes:
        raise ValueError(f"size is {tuple(size)}; expected {config.axes} sizes in pixels, or one")
    return tuple(size)


def cache_for(model: Pretrained, folder: str | os.PathLike[str] | bool | None) -> ArtifactCache | None:
    """The cache of the compiled programs of `model` in a folder, as `cache_in`. None too for a model whose weights and
    configuration do not say all that it computes, because the keys of the cache are made of these.
    """
    cache = cache_in(folder)
    if cache is None or _is_as_built(model):
        return cache
    _log.info(
        "compiled programs are not cached: the model has hooks, or other modules than its configuration describes"
    )
    return None


def _is_as_built(model: Pretrained) -> bool:
    """Whether a model has the modules that its configuration describes, and no hooks."""
    built = task_of(type(model)).outline(model.config, model.state_dict())
    kinds, expected = ([(name, type(part)) for name, part in one.named_modules()] for one in (model, built))
    return kinds == expected and not is_seen(*model.modules())


def model_for(
    model: Pretrained | str | os.PathLike[str] | Checkpoint, task: str | None, out_features: Sequence[str] | None
) -> Pretrained:
    """A copy of the given model in eval mode, or the model that was loaded from a source."""
    if out_features is not None and (isinstance(model, Pretrained) or not (task is None or task_named(task).maps)):
        raise ValueError("out_features is for task='backbone' of a checkpoint that is loaded here")
    if isinstance(model, Pretrained):
        if task is not None:
            raise ValueError(f"task is {task!r}; a model that is already built has its own")
        if isinstance(model, Hiera):
            raise TypeError("model is a bare encoder (Hiera); expected one of the task models, such as HieraModel")
        if any(tensor.is_meta for tensor in model.state_dict().values()):
            raise ValueError("model is on the meta device, which holds no weights; expected a model with weights")
        # a copy: the caller may continue training, but later compilations must match the cache's key
        return copy.deepcopy(model).to("cpu", torch.float32).eval()
    if out_features is not None:
        return HieraBackbone.from_pretrained(model, out_features=out_features)
    return load(model, task=task)
