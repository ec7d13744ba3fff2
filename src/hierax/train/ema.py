"""The exponential moving average (EMA) of a model's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AveragedWeights:
    """The exponential moving average of a model's parameters, in their precision and sharded like them.

    It starts from the initial weights. After `n` steps the decay is at most (1 + n) / (10 + n), so that the initial
    weights soon count little, in short runs too.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values: dict[str, Tensor] = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Adds the parameters after `step` steps to the average; frozen ones do not change."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.values[name].lerp_(parameter.detach(), 1 - decay)
