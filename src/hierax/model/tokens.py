"""The `[B, U, P, C]` layout of tokens: mask unit, position inside the unit, channel.

The tokens of a grid are ordered by mask unit once, after the patch embedding ("unroll"). Positions inside a unit are
ordered so that the *finest* offset among pooled neighbors varies slowest: `P = (y0 x0, y1 x1, …, rest)`, `y0` being the
lowest digit of the token's row in its unit. Later steps then need no other order: pooling reduces the first part of
`P`, attention within units folds `U` into the batch, global attention folds `U` into the tokens, masking gathers over
`U`. "Reroll" restores the order of the grid. The same functions serve 1-D, 2-D and 3-D (paper, section 3 and appendix
A).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hierax.model.config import HieraConfig
from hierax.model.gradients import maximum


@dataclass(frozen=True)
class UnitLayout:
    """The order of the positions inside one mask unit, after some number of poolings.

    Attributes:
        size: tokens of the unit per axis.
        stride: neighbors per axis that one pooling merges.
        levels: number of poolings that the order of positions is made for; `size` is a multiple of `stride ** levels`.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    levels: int

    @classmethod
    def of(cls, config: HieraConfig, stage: int = 0) -> "UnitLayout":
        """The layout of `stage`'s tokens (0 is the first).

        There is one level per change of stage, as far as the unit's size allows. So the order of tokens does not depend
        on how many changes of stage pool. It is the published order, for classification and for MAE models.
        """
        levels = config.num_query_pool
        while levels < config.stages - 1 and all(
            unit % stride ** (levels + 1) == 0
            for unit, stride in zip(config.masked_unit_size, config.query_stride, strict=True)
        ):
            levels += 1
        return cls(config.unit_size(stage), config.query_stride, levels - config.pooled(stage))

    @property
    def positions(self) -> int:
        """Tokens in a unit: `P`."""
        return math.prod(self.size)

    def _digits(self) -> tuple[list[list[int]], list[int], list[int]]:
        """Sizes of the digits of every axis, from coarse to fine, and the order of the digits in positions and in rows.

        An axis of a unit splits into `[rest, stride, …, stride]`. Positions are ordered by level, the finest first;
        inside a level by axis; the rests are last.
        """
        axes = len(self.size)
        split = [[u // s**self.levels, *[s] * self.levels] for u, s in zip(self.size, self.stride, strict=True)]
        width = self.levels + 1
        order = [axis * width + digit for digit in range(self.levels, -1, -1) for axis in range(axes)]
        inverse = sorted(range(len(order)), key=order.__getitem__)
        return split, order, inverse

    def unroll(self, grid: Tensor) -> Tensor:
        """`[B, *grid, C]` -> `[B, U, P, C]`; the grid is a multiple of `size` on every axis. Copies once."""
        batch, *tokens, channels = grid.shape
        split, order, _ = self._digits()
        units = [n // u for n, u in zip(tokens, self.size, strict=True)]
        shape = [n for unit, digits in zip(units, split, strict=True) for n in (unit, *digits)]
        width = self.levels + 2
        unit_dims = [1 + axis * width for axis in range(len(units))]
        digit_dims = [1 + (d // (width - 1)) * width + 1 + d % (width - 1) for d in order]
        ordered = grid.reshape(batch, *shape, channels).permute(0, *unit_dims, *digit_dims, len(shape) + 1)
        return ordered.reshape(batch, math.prod(units), self.positions, channels)

    def reroll_units(self, tokens: Tensor) -> Tensor:
        """`[B, U, P, C]` -> `[B, U, *size, C]`: the positions of each unit, as rows and columns."""
        batch, units, _, channels = tokens.shape
        split, order, inverse = self._digits()
        flat = [n for digits in split for n in digits]
        ordered = tokens.reshape(batch, units, *(flat[d] for d in order), channels)
        rows = ordered.permute(0, 1, *(2 + d for d in inverse), len(flat) + 2)
        return rows.reshape(batch, units, *self.size, channels)

    def unroll_units(self, maps: Tensor) -> Tensor:
        """`[B, U, *size, C]` -> `[B, U, P, C]`: the inverse of `reroll_units`."""
        return self.unroll(maps.flatten(0, 1)).flatten(1, 2).unflatten(0, maps.shape[:2])

    def reroll(self, tokens: Tensor, units: Sequence[int]) -> Tensor:
        """`[B, U, P, C]` -> `[B, *grid, C]`, given the mask units per axis (`U` is their product)."""
        axes = len(units)
        batch, _, _, channels = tokens.shape
        rows = self.reroll_units(tokens).reshape(batch, *units, *self.size, channels)
        woven = [1 + axis + part * axes for axis in range(axes) for part in (0, 1)]
        grid = [n * u for n, u in zip(units, self.size, strict=True)]
        return rows.permute(0, *woven, 2 * axes + 1).reshape(batch, *grid, channels)


def split_axis(x: Tensor, dim: int, outer: int) -> Tensor:
    """`x` with its axis `dim` split in two, the first of them with `outer` entries. A view.

    Not `unflatten`: when traced to ONNX, it fixes the batch to that of the trace.
    """
    return x.view(*x.shape[:dim], outer, -1, *x.shape[dim + 1 :])


def channels_first(rows: Tensor) -> Tensor:
    """`[B, *grid, C]` -> `[B, C, *grid]`, contiguous. Not `movedim`: traced to ONNX, it is not valid."""
    return rows.permute(0, rows.ndim - 1, *range(1, rows.ndim - 1)).contiguous()


def pool(tokens: Tensor, neighbors: int, dim: int = 2) -> Tensor:
    """Maximum over the `neighbors` tokens that are pooled into one: `P` at `dim` becomes `P / neighbors`."""
    if neighbors == 1:
        return tokens
    return maximum(split_axis(tokens, dim, neighbors), dim)


def published_order(tokens: Tensor) -> Tensor:
    """`[B, U, P, C]` -> `[B, P * U, C]`: index `p * U + u`, the order of the published implementations."""
    return tokens.transpose(1, 2).flatten(1, 2)


def unpublished_order(tokens: Tensor, units: int) -> Tensor:
    """`[B, P * U, C]` -> `[B, U, P, C]`, a view: the inverse of `published_order`."""
    return tokens.unflatten(1, (-1, units)).transpose(1, 2)


def gather_units(tokens: Tensor, kept: Tensor) -> Tensor:
    """`[B, U, P, C]` and unit indices `[B, K]` -> `[B, K, P, C]`; a batch of 1 serves every row of `kept`."""
    index = kept[:, :, None, None].expand(-1, -1, *tokens.shape[2:])
    return tokens.expand(kept.shape[0], -1, -1, -1).gather(1, index)


def shown_units(kept: Tensor, units: int) -> Tensor:
    """Booleans `[B, units]`, True for the units whose indices are in `kept` `[B, K]`: the inverse of `kept_units`."""
    hidden = torch.zeros(kept.shape[0], units, dtype=torch.bool, device=kept.device)
    return hidden.scatter(1, kept, torch.ones_like(kept, dtype=torch.bool))  # traces lose the type of True


def kept_units(keep: Tensor, count: int) -> Tensor:
    """Indices `[B, count]` of the True entries of `keep` `[B, U]`, ascending; every row has `count` of them.

    The shape is static, so that it can be traced: a stable sort puts the kept units first and leaves them in order.
    """
    return torch.argsort((~keep).to(torch.uint8), dim=1, stable=True)[:, :count]
