"""The exponential average of a model's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Average:
    """An exponential average of a model's parameters, in their precision and divided among ranks like them.

    It starts from the first weights. The decay after `n` steps is at most (1 + n) / (10 + n), so that the first weights
    lose their influence in short runs, too.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values: dict[str, Tensor] = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Adds the parameters after `step` steps to the average."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.values[name].lerp_(parameter.detach(), 1 - decay)
