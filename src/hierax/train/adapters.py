"""Adapters of a run: PEFT puts small matrices (LoRA) into the layers, and only these and the head are trained."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hierax.checkpoint.adapters import base_digest, name_of_base
from hierax.checkpoint.opened import Checkpoint
from hierax.checkpoint.save_adapter import AdapterFile, save_adapter
from hierax.console import quantity
from hierax.extras import require
from hierax.model.pretrained import Pretrained
from hierax.model.registry import task_of
from hierax.train.settings import LAYERS, Recipe

_BLOCK = re.compile(r"encoder\.blocks\.(\d+)\.(.+)")


@dataclass(frozen=True)
class RunAdapter:
    """The adapter of a run.

    Attributes:
        base: the checkpoint that the run starts from.
        layers: names of the layers that get matrices.
        full: names of the modules that are trained in full: the head, and a norm that the base model does not have.
        rank, alpha, dropout: the settings of the recipe.
    """

    base: Checkpoint
    layers: tuple[str, ...]
    full: tuple[str, ...]
    rank: int
    alpha: float
    dropout: float

    def insert(self, model: Pretrained) -> None:
        """Puts the matrices into the layers of a model, in place. Only they and the full modules are trained then."""
        import peft

        config = peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # pyright: ignore[reportArgumentType]  # PEFT divides it, so it may be any number
            lora_dropout=self.dropout,
            target_modules=list(self.layers),
        )
        peft.inject_adapter_in_model(config, model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".lora_" in name or name.partition(".")[0] in self.full)

    def note(self, model: Pretrained) -> str:
        """A sentence that says how many parameters are trained."""
        trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
        count, total = sum(trained.values()), model.num_parameters()
        full = sum(size for name, size in trained.items() if ".lora_" not in name)
        return (
            f"adapter: LoRA of rank {self.rank} in {quantity(len(self.layers), 'layer')} of {self.base.name}; "
            f"{count:,} of {total:,} parameters are trained ({count / total:.1%}), {full:,} of them in "
            f"{' and '.join(self.full)}"
        )

    def save(self, folder: Path, state: Mapping[str, Tensor], model: Pretrained) -> None:
        """Writes the adapter into a folder that PEFT opens.

        Args:
            state: the state of the model with the matrices in it.
            model: the model without them, whose configuration and preprocessing are written too.
        """
        names = [name for name in state if ".lora_" in name or name.partition(".")[0] in self.full]
        save_adapter(
            folder,
            AdapterFile(
                tensors={name.replace(".default.", "."): state[name].detach().float().cpu() for name in names},
                layers=self.layers,
                full=self.full,
                rank=self.rank,
                alpha=self.alpha,
                dropout=self.dropout,
                base=name_of_base(self.base),
                revision=self.base.source.hub.revision,
                digest=base_digest(self.base, set(self.full)),
            ),
            model,
        )


def check_adapter(recipe: Recipe, source: object) -> None:
    """Checks what can be known before data and weights are read.

    Raises:
        ValueError: there are no weights to adapt.
        MissingPackage: PEFT is not installed.
    """
    if recipe.adapter is None:
        return
    if source is None:
        raise ValueError(f"adapter is {recipe.adapter!r}, but no weights are loaded; expected none")
    require("a run with adapter=lora", "peft")


def plan_adapter(recipe: Recipe, model: Pretrained, base: Checkpoint, *, labeled: bool) -> RunAdapter:
    """The adapter that a recipe describes, for a model that starts from `base`.

    Raises:
        ValueError: the recipe leaves no layer, or the rank is above the width of all layers, or the base model is an
            adapter itself.
    """
    if base.base:
        raise ValueError(
            f"{base.name} is an adapter, and adapter is {recipe.adapter!r}; expected a model to adapt: hierax convert "
            f"{base.name} -o MODEL writes one"
        )
    if not labeled:
        raise ValueError(f"adapter is {recipe.adapter!r}, but nothing is learned from labels; expected none")
    config, frozen = model.config, recipe.freeze
    if frozen == "all" or int(frozen) >= config.stages:
        raise ValueError(
            f"freeze is {frozen!r}, which leaves no layer for the adapter; expected 0 to {config.stages - 1}"
        )
    first, wanted = sum(config.depths[: int(frozen)]), recipe.adapted_layers
    layers: list[str] = []
    widest = 0
    for name, module in model.named_modules():
        match = _BLOCK.fullmatch(name)
        if match and int(match[1]) >= first and isinstance(module, nn.Linear) and match[2] in wanted:
            layers.append(name)
            widest = max(widest, min(module.weight.shape))
    rank = recipe.adapter_rank
    if not layers:
        raise ValueError(
            f"target_modules is {list(wanted)}, of which this model has none; expected {', '.join(LAYERS)}"
        )
    if rank > widest:
        raise ValueError(f"rank is {rank}; expected at most {widest}, the width of the widest layer that is adapted")
    report = model.loading_report
    new_norm = report is not None and "norm" in report.reinitialized
    alpha = 2.0 * rank if recipe.alpha is None else recipe.alpha
    part = task_of(type(model)).part
    full = (part, "norm") if new_norm else (part,)
    return RunAdapter(base, tuple(layers), full, rank, alpha, recipe.adapter_dropout or 0.0)


def meta_copy(model: Pretrained, adapter: RunAdapter | None) -> Pretrained:
    """A model with the same configuration and the same matrices, on the meta device."""
    with torch.device("meta"):
        copy: Any = type(model)(model.config)
        if adapter is not None:
            adapter.insert(copy)
    return copy
