"""Makes a model and its processor from the `model` argument of an engine or an export."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence

import torch

from hierax.checkpoint.load import load
from hierax.checkpoint.opened import Checkpoint
from hierax.model.encoder import Hiera
from hierax.model.pretrained import Pretrained
from hierax.model.registry import task_named
from hierax.model.tasks import HieraBackbone


def model_for(
    model: Pretrained | str | os.PathLike[str] | Checkpoint, task: str | None, out_features: Sequence[str] | None
) -> Pretrained:
    """A copy of the given model in eval mode, or the model that was loaded from a source."""
    if out_features is not None and (isinstance(model, Pretrained) or not (task is None or task_named(task).maps)):
        raise ValueError("out_features is for task='backbone' of a checkpoint that the engine loads")
    if isinstance(model, Pretrained):
        if task is not None:
            raise ValueError(f"task is {task!r}; a model that is already built has its own")
        if isinstance(model, Hiera):
            raise TypeError("model is a bare encoder (Hiera); expected one of the task models, such as HieraModel")
        # a copy: the caller may continue training, but later compilations must match the cache's key
        return copy.deepcopy(model).to("cpu", torch.float32).eval()
    if out_features is not None:
        return HieraBackbone.from_pretrained(model, out_features=out_features)
    return load(model, task=task)
