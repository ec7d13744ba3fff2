"""Optimizers: groups of parameters by layer and by weight decay, and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hierax.model.blocks import Block
from hierax.model.pretrained import Pretrained
from hierax.train.muon import Muon
from hierax.train.settings import Recipe


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share learning rate and weight decay.

    Attributes:
        layer: the depth: 0 for the embeddings, i + 1 for block i, then a last one for norm, head, fusion and decoder.
        scale: factor of the learning rate.
        weight_decay: weight decay of the group.
        names: names of the parameters.
    """

    layer: int
    scale: float
    weight_decay: float
    names: tuple[str, ...]


def has_weight_decay(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies to a parameter; it does not for position embeddings, mask tokens and vectors."""
    return parameter.ndim > 1 and "pos_embed" not in name and "mask_token" not in name


def parameter_groups(model: Pretrained, *, layer_decay: float, weight_decay: float) -> list[ParameterGroup]:
    """The trained parameters, each in one group, by layer. Learning rates shrink by the factor `layer_decay` per layer
    towards the embeddings: the head has no factor, the last block one, the embeddings depth + 1.
    """
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    layers = model.layer_groups()
    found: list[ParameterGroup] = []
    for layer, names in enumerate(layers):
        scale = layer_decay ** (len(layers) - 1 - layer)
        for wanted, decay in ((True, weight_decay), (False, 0.0)):
            members = tuple(n for n in names if n in parameters and has_weight_decay(n, parameters[n]) == wanted)
            if members:
                found.append(ParameterGroup(layer, scale, decay, members))
    return found


def build_optimizer(model: Pretrained, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer; each group carries `scale`, which `set_lr` multiplies the learning rate by."""
    parameters = dict(model.named_parameters())
    specs: list[dict[str, Any]] = [
        {"params": [parameters[n] for n in g.names], "weight_decay": g.weight_decay, "scale": g.scale}
        for g in parameter_groups(model, layer_decay=recipe.layer_decay, weight_decay=recipe.weight_decay)
    ]
    if not specs:
        raise ValueError(f"freeze is {recipe.freeze!r}, which leaves nothing to train")
    if recipe.optimizer == "muon":
        return Muon(_split(model, specs), lr=recipe.peak_lr, betas=recipe.betas)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(specs, lr=recipe.peak_lr, momentum=recipe.momentum)
    return torch.optim.AdamW(specs, lr=recipe.peak_lr, betas=recipe.betas, fused=True)


def _split(model: Pretrained, specs: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The groups, those of the matrices of blocks apart from the others."""
    blocks = [part for part in model.modules() if isinstance(part, Block)]
    matrices = {id(p) for block in blocks for p in block.parameters() if p.ndim == 2}
    for spec in specs:
        for wanted in (True, False):
            members = [p for p in spec["params"] if (id(p) in matrices) == wanted]
            if members:
                yield {**spec, "params": members, "matrices": wanted}


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step (from 0): linear from 0 over the warm-up, then cosine to `min_lr` times the peak."""
    total, warm = recipe.epochs * steps_per_epoch, round(recipe.warmup_epochs * steps_per_epoch)
    if step < warm:
        return recipe.peak_lr * (step + 1) / warm
    done = (step - warm) / max(total - warm, 1)
    low = recipe.min_lr
    return recipe.peak_lr * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every group to `lr` times its scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]
