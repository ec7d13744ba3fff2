"""What the tests of masked autoencoders share: models that hide a known number of mask units, and masks."""

from typing import Any

import torch
from torch import Tensor

from hierax.model.config import HieraConfig
from hierax.model.tasks import HieraForPreTraining
from small import CONFIGS, randomize, units_of

KINDS = sorted(CONFIGS)
VISIBLE = {"image": 2, "abs_win": 2, "video": 6, "line": 6, "volume": 2}  # mask units kept of 4, 4, 16, 16, 4


def mae_config(kind: str, **changes: Any) -> HieraConfig:
    ratio = 1 - (VISIBLE[kind] + 0.5) / units_of(CONFIGS[kind]())
    return CONFIGS[kind](**{"num_query_pool": 2, "mask_ratio": ratio, **changes})


def mae(kind: str = "image", std: float = 0.2, **changes: Any) -> Any:
    model = HieraForPreTraining(mae_config(kind, **changes))
    randomize(model, std)
    return model.eval()


def random_mask(config: HieraConfig, batch: int = 2, shown: int = 2, size: Any = None) -> Tensor:
    units = units_of(config, size)
    return torch.stack([torch.randperm(units) < shown for _ in range(batch)])


def over_pixels(keep: Tensor, config: HieraConfig, size: tuple[int, ...]) -> Tensor:
    """`[B, units]` -> booleans `[B, 1, *size]`."""
    shown = keep.unflatten(1, config.unit_grid(size))
    for axis, n in enumerate(config.unit_pixels):
        shown = shown.repeat_interleave(n, dim=1 + axis)
    return shown[:, None]
