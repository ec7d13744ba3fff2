"""Models of every task on every kind of input, for the tests of what they share."""

from typing import Any

import torch
from torch import Tensor

from hierax.model.encoder import Hiera
from hierax.model.tasks import (
    HieraBackbone,
    HieraForImageClassification,
    HieraForPreTraining,
    HieraForVideoClassification,
    HieraModel,
)
from small import CONFIGS, randomize

KINDS = sorted(CONFIGS)
EVERY = ("stem", "stage1", "stage2", "stage3", "stage4")


def make(kind: str, task: str, std: float | None = 0.2, **changes: Any) -> Any:
    """A model of a task on a kind of input, in eval mode; `std` None leaves the weights as they are initialized."""
    pools = {"num_query_pool": 2, "mask_ratio": 0.5} if task == "mae" else {}
    config = CONFIGS[kind](**{**pools, **changes})
    model: Any
    if task == "backbone":
        model = HieraBackbone(config, out_features=EVERY, norms=True)
    elif task == "classification":
        model = (HieraForVideoClassification if kind == "video" else HieraForImageClassification)(config)
    else:
        model = {"encoder": Hiera, "features": HieraModel, "mae": HieraForPreTraining}[task](config)
    if std is not None:
        randomize(model, std)
    return model.eval()


def total(task: str, out: Any) -> Tensor:
    """A scalar that depends on everything the task gives."""
    if task == "classification":
        return out.logits.square().sum()
    if task == "features":
        return out.pooler_output.square().sum()
    return out.loss if task == "mae" else sum((m.square().mean() for m in out.feature_maps), torch.zeros(()))


TASKS = ("features", "backbone", "classification", "mae")
PAIRS = [(kind, task) for kind in KINDS for task in TASKS]
