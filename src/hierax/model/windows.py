"""How the tokens of a grid are ordered by windows of one size: mask units, or windows of any other size.

A grid that is no multiple of the window splits, per axis, into whole windows and a remainder. So there are at most four
groups of windows in 2-D: the whole ones, those at the right edge, those at the bottom, and one in the corner. Each
group is an ordinary `UnitLayout`, and no token is stored for the missing part of a window.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hierax.model.config import HieraConfig
from hierax.model.plan import BlockSpec, plan
from hierax.model.tokens import UnitLayout, pool, split_axis
from hierax.reprs.text import short_repr


@short_repr()
@dataclass(frozen=True)
class Group:
    """Windows of the same size, which lie side by side.

    Attributes:
        unit: the order of the tokens in each window; its size is smaller than the window at an edge of the grid.
        windows: their number per axis.
        origin: the first token on the grid, per axis.
        missing: tokens that each of them lacks at the edge of the grid.
    """

    unit: UnitLayout
    windows: tuple[int, ...]
    origin: tuple[int, ...]
    missing: int

    @property
    def tokens(self) -> int:
        """Tokens of all windows."""
        return math.prod(self.windows) * self.unit.positions


@dataclass(frozen=True)
class WindowLayout:
    """The order of all tokens of a grid.

    Tokens are `[B, windows, positions, C]` where all windows are whole, else `[B, 1, tokens, C]`, one group after the
    other.

    Attributes:
        grid: tokens per axis.
        window: tokens of a window per axis.
        groups: the whole windows first.
    """

    grid: tuple[int, ...]
    window: tuple[int, ...]
    groups: tuple[Group, ...]

    @classmethod
    def over(cls, grid: Sequence[int], unit: UnitLayout) -> "WindowLayout":
        """The layout of `grid` with windows of `unit.size`; the remainders are poolable as often as `unit` is."""
        cuts = [_cut(tokens, window) for tokens, window in zip(grid, unit.size, strict=True)]
        groups = []
        for parts in itertools.product(*cuts):
            origin, size, windows = zip(*parts, strict=True)
            missing = unit.positions - math.prod(size)
            groups.append(Group(UnitLayout(size, unit.stride, unit.levels), windows, origin, missing))
        return cls(tuple(grid), unit.size, tuple(groups))

    @property
    def whole(self) -> bool:
        """Whether no window lacks tokens."""
        return not any(group.missing for group in self.groups)

    def pooled(self) -> "WindowLayout":
        """The layout of the tokens after one pooling."""
        stride = self.groups[0].unit.stride
        groups = tuple(
            Group(
                UnitLayout(_divided(group.unit.size, stride), stride, group.unit.levels - 1),
                group.windows,
                _divided(group.origin, stride),
                group.missing // math.prod(stride),
            )
            for group in self.groups
        )
        return WindowLayout(_divided(self.grid, stride), _divided(self.window, stride), groups)

    def split(self, tokens: Tensor) -> list[Tensor]:
        """Tokens `[B, …]` of all groups, each `[B, windows, positions, …]`. Views."""
        if self.whole:
            return [tokens]
        parts = tokens[:, 0].split([group.tokens for group in self.groups], dim=1)
        return [split_axis(part, 1, math.prod(g.windows)) for part, g in zip(parts, self.groups, strict=True)]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The inverse of `split`, also after each part was pooled."""
        return parts[0] if self.whole else torch.cat([part.flatten(1, 2) for part in parts], 1)[:, None]

    def unroll(self, rows: Tensor) -> Tensor:
        """`[B, *grid, C]` -> tokens."""
        return self.join([group.unit.unroll(_part(rows, group)) for group in self.groups])

    def reroll(self, tokens: Tensor) -> Tensor:
        """Tokens -> `[B, *grid, C]`."""
        parts = [g.unit.reroll(part, g.windows) for g, part in zip(self.groups, self.split(tokens), strict=True)]
        for axis in range(len(self.grid), 0, -1):
            along = len({group.origin[axis - 1] for group in self.groups})
            parts = [torch.cat(parts[i : i + along], axis) for i in range(0, len(parts), along)] if along > 1 else parts
        return parts[0]


def _cut(tokens: int, window: int) -> list[tuple[int, int, int]]:
    """First token, size and number of the whole windows, and of the remainder, of one axis."""
    inside = tokens // window * window
    return [part for part in ((0, window, inside // window), (inside, tokens - inside, 1)) if part[1] * part[2]]


def _divided(values: Sequence[int], divisors: Sequence[int]) -> tuple[int, ...]:
    return tuple(value // divisor for value, divisor in zip(values, divisors, strict=True))


def _part(rows: Tensor, group: Group) -> Tensor:
    """The tokens of one group on their grid."""
    for axis, (start, size, windows) in enumerate(zip(group.origin, group.unit.size, group.windows, strict=True), 1):
        rows = rows.narrow(axis, start, size * windows)
    return rows


def first_layout(config: HieraConfig, grid: Sequence[int]) -> WindowLayout:
    """The layout of the tokens of stage 1 by mask units, which are whole on every padded grid."""
    if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]  # sizes are tensors there
        grid = [int(tokens) for tokens in grid]
    return WindowLayout.over(grid, UnitLayout.of(config))


def layout_before(spec: BlockSpec, layout: WindowLayout, config: HieraConfig) -> WindowLayout:
    """The layout that a block needs: `layout`, unless the block has windows of another size."""
    if spec.window == layout.window or (spec.window is None and (spec.pool == 1 or layout.groups[0].unit.levels)):
        return layout
    stage = spec.stage - (spec.pool > 1)
    if spec.window is None:  # any windows whose tokens can be pooled
        return WindowLayout.over(layout.grid, UnitLayout.of(config, stage))
    ahead = range(config.num_query_pool - config.pooled(stage), 0, -1)
    fitting = (n for n in ahead if all(w % s**n == 0 for w, s in zip(spec.window, config.query_stride, strict=True)))
    return WindowLayout.over(layout.grid, UnitLayout(spec.window, config.query_stride, next(fitting, 0)))


def layout_after(spec: BlockSpec, layout: WindowLayout) -> WindowLayout:
    """The layout of a block's output."""
    return layout.pooled() if spec.pool > 1 else layout


def layouts(config: HieraConfig, grid: Sequence[int]) -> tuple[WindowLayout, ...]:
    """The layouts of the inputs of the last block of each stage, and of the outputs of the last stage."""
    layout, ends = first_layout(config, grid), []
    specs = plan(config)
    for spec, following in zip(specs, [*specs[1:], None], strict=True):
        layout = layout_before(spec, layout, config)
        if following is None or following.stage != spec.stage:
            ends.append(layout)
        layout = layout_after(spec, layout)
    return (*ends, layout)


def by_windows(function: Callable[..., Tensor], layout: WindowLayout | None, *tokens: Tensor) -> Tensor:
    """`function` of `[B, windows, positions, …]`, for each group of windows; None if all windows are whole."""
    if layout is None:
        return function(*tokens)
    return layout.join([function(*parts) for parts in zip(*map(layout.split, tokens), strict=True)])


def pool_windows(tokens: Tensor, neighbors: int, layout: WindowLayout | None) -> Tensor:
    """`tokens.pool`, which never pools tokens of two windows."""
    return by_windows(lambda part: pool(part, neighbors), layout, tokens)
