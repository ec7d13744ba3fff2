"""From what an engine or an export is asked to run to a model, and to the pixels that it takes."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence

import torch

from hierax.config import HieraConfig
from hierax.pretrained import Pretrained
from hierax.processing import IMAGENET, Preprocessing


def default_record(config: HieraConfig) -> Preprocessing:
    """How images become inputs of a model that says nothing of it: as published, at its own size."""
    if config.axes != 2 or config.num_channels != 3:
        return IMAGENET
    height, width = config.image_size
    crop = {"height": height, "width": width}
    return IMAGENET.replace(size={"shortest_edge": max(height, width) * 256 // 224}, crop_size=crop)


def opened_model(
    model: Pretrained | str | os.PathLike[str], task: str | None, out_features: Sequence[str] | None
) -> Pretrained:
    """The model itself in eval mode, or one that was loaded."""
    from hierax.checkpoint.files import source_name
    from hierax.checkpoint.load import load
    from hierax.encoder import Hiera
    from hierax.models import HieraBackbone

    if out_features is not None and (task not in (None, "backbone") or isinstance(model, Pretrained)):
        raise ValueError("out_features is for task='backbone' of a checkpoint that the engine loads")
    if isinstance(model, Pretrained):
        if task is not None:
            raise ValueError(f"task is {task!r}; a model that is already built has its own")
        if isinstance(model, Hiera):
            raise TypeError("model is a bare encoder (Hiera); expected one of the task models, such as HieraModel")
        # a copy: the caller may train on, and what is compiled later must be what the cache's key says
        return copy.deepcopy(model).to("cpu", torch.float32).eval()
    if out_features is not None:
        return HieraBackbone.from_pretrained(source_name(model), out_features=out_features)
    return load(source_name(model), task=task)
