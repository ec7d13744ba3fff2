"""The exponential average of a model's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Average:
    """An exponential average of a model's parameters, in their own precision and shared out as they are.

    It starts from the first weights; that these do not linger in short runs, the decay after `n` steps is at most
    (1 + n) / (10 + n).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values: dict[str, Tensor] = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Takes the parameters in after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.values[name].lerp_(parameter.detach(), 1 - decay)
