"""The neck of SAM 2's image encoder: maps of one width from the maps of all stages, and their position encoding.

It is a feature pyramid (Lin et al., CVPR 2017) without the convolutions after the sums (arXiv 2408.00714).
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hierax.model.config import HieraConfig
from hierax.model.layers import CONVS


class FeaturePyramid(nn.Module):
    """A 1x1 convolution per stage; the levels of `fpn_top_down_levels` also receive the next coarser level, enlarged.

    Only the levels that `levels` need are built.
    """

    def __init__(self, config: HieraConfig, levels: Sequence[int]) -> None:
        """`levels` are the numbers of the maps to compute; 0 has the stride of stage 1."""
        super().__init__()
        assert config.fpn_hidden_size is not None
        self.levels, self.top_down = tuple(levels), config.fpn_top_down_levels
        self.strides = [
            config.query_stride if stage < config.num_query_pool else None for stage in range(config.stages)
        ]
        conv, width = CONVS[config.axes], config.fpn_hidden_size
        needed = sorted({level for wanted in levels for level in levels_for(config, wanted)})
        self.laterals = nn.ModuleDict({str(level): conv(config.dims[level], width, 1) for level in needed})

    def forward(self, maps: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """The maps `[B, width, *grid]` by level, of the maps `[B, C, *grid]` of the stages, both from 0."""
        levels: dict[int, Tensor] = {}
        for name, lateral in reversed(list(self.laterals.items())):
            level = int(name)
            levels[level] = lateral(maps[level])
            if level in self.top_down and level + 1 in levels:
                levels[level] = levels[level] + self._enlarged(levels[level + 1], level, like=levels[level])
        return {level: levels[level] for level in self.levels}

    def _enlarged(self, coarse: Tensor, level: int, *, like: Tensor) -> Tensor:
        """A map with the stride of the next finer level: every cell is repeated. A last cell may be cut."""
        stride = self.strides[level]
        if stride is not None:
            coarse = F.interpolate(coarse, scale_factor=[float(s) for s in stride], mode="nearest")
        for axis, cells in enumerate(like.shape[2:], 2):
            coarse = coarse.narrow(axis, 0, cells)
        return coarse


def levels_for(config: HieraConfig, level: int) -> tuple[int, ...]:
    """The levels that a level is computed from, itself first."""
    levels = [level]
    while levels[-1] in config.fpn_top_down_levels and levels[-1] + 1 < config.stages:
        levels.append(levels[-1] + 1)
    return tuple(levels)


def sine_position_encoding(
    grid: Sequence[int],
    width: int = 256,
    *,
    temperature: float = 10000.0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The encoding `[1, width, rows, columns]` that SAM 2 adds to a map (Carion et al., ECCV 2020; no parameters).

    The first half of the channels encodes the row, the second half the column. Positions 1, 2, … are divided by their
    number and multiplied by 2π. Even channels are sines and odd channels cosines of the same frequency.

    Args:
        grid: rows and columns of the map.
        width: channels of the map, a multiple of 4.

    Raises:
        ValueError: `grid` is not two positive numbers, or `width` is no multiple of 4.
    """
    if len(grid) != 2 or min(grid) < 1:
        raise ValueError(f"grid is {tuple(grid)}; expected the rows and columns of a map")
    if width < 4 or width % 4:
        raise ValueError(f"width is {width}; expected a multiple of 4")
    half = width // 2
    frequencies = temperature ** (2 * (torch.arange(half, device=device) // 2) / half)
    axes = []
    for cells in grid:
        positions = torch.arange(1, cells + 1, dtype=torch.float32, device=device)
        angles = (positions / (cells + 1e-6) * 2 * math.pi)[:, None] / frequencies
        axes.append(torch.stack((angles[:, 0::2].sin(), angles[:, 1::2].cos()), 2).flatten(1))
    rows = axes[0][:, None].expand(*grid, half)
    columns = axes[1][None].expand(*grid, half)
    return torch.cat((rows, columns), -1).permute(2, 0, 1)[None].to(dtype)
