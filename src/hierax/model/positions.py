"""Learned position embeddings, and how they follow the input's size.

There are three kinds: one absolute table; separable tables for space and time; abs-win, which is a coarse global table
interpolated to the grid plus a tiled table of one mask unit (Bolya et al., arXiv 2311.05613). Tables are resized in
float32 and cast back.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hierax.model.config import HieraConfig
from hierax.model.observed import is_observed, is_traced
from hierax.model.tokens import UnitLayout

_CACHED_GRIDS = 8  # grids per model whose embeddings are cached


def _interpolate(table: Tensor, grid: Sequence[int], *, antialias: bool) -> Tensor:
    """Bicubic resize of `[1, *old, C]` to `[1, *grid, C]`, one, two or three axes, in float32 or float64."""
    x = (table if table.dtype == torch.float64 else table.float()).movedim(-1, 1)
    if len(grid) == 1:  # over a single row, the bicubic kernel is the one-dimensional cubic kernel
        x = F.interpolate(x[:, :, None], (1, grid[0]), mode="bicubic", antialias=antialias)[:, :, 0]
    elif len(grid) == 2:
        x = F.interpolate(x, tuple(grid), mode="bicubic", antialias=antialias)
    else:  # the kernel is separable: first the last two axes, then the first axis
        frames = F.interpolate(x[0].transpose(0, 1), tuple(grid[1:]), mode="bicubic", antialias=antialias)
        rows = frames.transpose(0, 1).flatten(2)[None]
        x = F.interpolate(rows, (grid[0], rows.shape[-1]), mode="bicubic", antialias=antialias)
        x = x.unflatten(-1, tuple(grid[1:]))
    return x.movedim(1, -1).contiguous()


def _tile(window: Tensor, grid: Sequence[int]) -> Tensor:
    """`[1, *unit, C]` repeated to `[1, *grid, C]`; the grid is a multiple of the unit."""
    return window.repeat(1, *(g // w for g, w in zip(grid, window.shape[1:-1], strict=True)), 1)


def split_windows(table: Tensor, unit: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The mean of a table `[1, *grid, C]` over its mask units, `[1, *unit, C]`, and the table minus that tiled mean,
    `[1, *grid, C]`; in float32. The grid is a multiple of the unit.
    """
    whole = table.float()
    split = [n for g, u in zip(whole.shape[1:-1], unit, strict=True) for n in (g // u, u)]
    window = whole.reshape(1, *split, whole.shape[-1]).mean(tuple(range(1, 2 * len(unit), 2)))
    return window, whole - _tile(window, whole.shape[1:-1])


def resize_table(table: Tensor, grid: Sequence[int], *, method: str, unit: Sequence[int]) -> Tensor:
    """A learned table `[1, *old, C]` resized to another grid of tokens, `[1, *grid, C]`. Returns the table itself if
    the grid is the same.

    Args:
        method: "bicubic" interpolates the table; "window" tiles the mean over mask units and interpolates only the
            table minus that mean, so that units stay aligned (arXiv 2311.05613).
        unit: tokens per mask unit and axis.
    """
    if tuple(table.shape[1:-1]) == tuple(grid):
        return table
    if method == "bicubic":
        return _interpolate(table, grid, antialias=False).to(table.dtype)
    window, residual = split_windows(table, unit)
    return (_interpolate(residual, grid, antialias=False) + _tile(window, grid)).to(table.dtype)


def _unchanged(parameter: Tensor, then: Tensor) -> bool:
    """Whether a parameter has the values that it had. Only on a CPU: comparing on a GPU would wait for its results."""
    return parameter.device.type != "cpu" or torch.equal(parameter, then)


class PositionEmbedding(nn.Module):
    """Base of the three kinds: `forward(grid)` gives the embedding of a grid of tokens, in the encoder's order.

    In eval mode without gradients, the resized embeddings of a few grids are cached until a parameter changes. PyTorch
    does not count changes through `.data`, as moving averages of weights make them. On a CPU they are noticed, too,
    because parameters are compared. Elsewhere they are noticed at the native size, where nothing is cached; for other
    sizes, write under `torch.no_grad()` instead of through `.data`.
    """

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        self.layout = UnitLayout.of(config)
        self.method = config.position_resize
        self.cached: dict[tuple[Any, ...], tuple[Tensor, ...]] = {}

    def table(self, grid: tuple[int, ...]) -> Tensor:
        """The embedding `[1, *grid, C]`, in the order of the grid."""
        raise NotImplementedError

    def resize_(self, grid: tuple[int, ...]) -> None:
        """Replaces the parameters by those resized to another native grid."""
        raise NotImplementedError

    def forward(self, grid: tuple[int, ...]) -> Tensor:
        """`[1, U, P, C]` for a grid of tokens at stage 1."""
        native = grid == getattr(self, "grid", None)  # a view of the table
        if native or self.training or torch.is_grad_enabled() or is_traced() or is_observed():  # a mode may be fake
            return self.layout.unroll(self.table(grid))
        parameters = tuple(self.parameters())
        if not all(type(p) is nn.Parameter and not p.is_inference() for p in parameters):
            return self.layout.unroll(self.table(grid))  # torch.func: changes cannot be noticed
        key = (grid, self.method, *((p.data_ptr(), p._version, p.dtype, p.device) for p in parameters))
        kept = self.cached.get(key)
        if kept is None or not all(map(_unchanged, parameters, kept[1:])):
            for oldest in list(self.cached)[: 1 - _CACHED_GRIDS]:  # a list, because other threads add and remove grids
                self.cached.pop(oldest, None)
            # a storage that is held cannot be freed, so no other one can get the same address
            then = (p.detach().clone() if p.device.type == "cpu" else p.detach() for p in parameters)
            kept = (self.layout.unroll(self.table(grid)), *then)
            self.cached[key] = kept
        return kept[0]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "cached": {}}


class AbsolutePosition(PositionEmbedding):
    """One learned vector per token of the native grid: `weight` `[1, N, C]`, row-major."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__(config)
        self.grid = config.token_grid(config.image_size)
        self.weight = nn.Parameter(torch.empty(1, torch.Size(self.grid).numel(), config.embed_dim))

    def table(self, grid: tuple[int, ...]) -> Tensor:
        """See the base class."""
        native = self.weight.unflatten(1, self.grid)
        return resize_table(native, grid, method=self.method, unit=self.layout.size)

    def resize_(self, grid: tuple[int, ...]) -> None:
        """See the base class."""
        with torch.no_grad():
            self.weight = nn.Parameter(self.table(grid).flatten(1, -2))
        self.grid = grid


class SeparablePosition(PositionEmbedding):
    """Video: `spatial` `[1, H * W, C]` plus `temporal` `[1, T, C]`, resized apart."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__(config)
        self.grid = config.token_grid(config.image_size)
        self.spatial = nn.Parameter(torch.empty(1, self.grid[1] * self.grid[2], config.embed_dim))
        self.temporal = nn.Parameter(torch.empty(1, self.grid[0], config.embed_dim))

    def _tables(self, grid: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        unit = self.layout.size
        spatial = resize_table(self.spatial.unflatten(1, self.grid[1:]), grid[1:], method=self.method, unit=unit[1:])
        return spatial, resize_table(self.temporal, grid[:1], method="bicubic", unit=unit[:1])

    def table(self, grid: tuple[int, ...]) -> Tensor:
        """See the base class."""
        spatial, temporal = self._tables(grid)
        return spatial[:, None] + temporal[:, :, None, None]

    def resize_(self, grid: tuple[int, ...]) -> None:
        """See the base class."""
        with torch.no_grad():
            spatial, temporal = self._tables(grid)
            self.spatial, self.temporal = nn.Parameter(spatial.flatten(1, 2)), nn.Parameter(temporal)
        self.grid = grid


class WindowPosition(PositionEmbedding):
    """abs-win: `whole` `[1, C, *g]` interpolated to the grid plus `window` `[1, C, *unit]` tiled over it."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__(config)
        assert config.global_position_size is not None
        self.antialias = config.position_antialias
        self.whole = nn.Parameter(torch.empty(1, config.embed_dim, *config.global_position_size))
        self.window = nn.Parameter(torch.empty(1, config.embed_dim, *config.masked_unit_size))

    def table(self, grid: tuple[int, ...]) -> Tensor:
        """See the base class."""
        whole = self.whole.movedim(1, -1)
        if tuple(whole.shape[1:-1]) != grid:
            whole = _interpolate(whole, grid, antialias=self.antialias).to(whole.dtype)
        return whole + _tile(self.window.movedim(1, -1), grid)

    def resize_(self, grid: tuple[int, ...]) -> None:
        """Does nothing: the global table is interpolated to any grid."""


def position_embedding(config: HieraConfig) -> PositionEmbedding:
    """The position embedding that the configuration names."""
    kinds = {"absolute": AbsolutePosition, "separable": SeparablePosition, "abs_win": WindowPosition}
    return kinds[config.position_embedding](config)


class DecoderPosition(nn.Module):
    """Position embedding of the MAE decoder: `weight` `[1, N, C]`, row-major (video: time-major)."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        self.grid = decoder_grid(config, config.image_size)
        self.weight = nn.Parameter(torch.empty(1, torch.Size(self.grid).numel(), config.decoder_hidden_size))

    def forward(self, grid: tuple[int, ...]) -> Tensor:
        """`[1, N, C]` for a grid of the decoder's tokens."""
        return decoder_table(self.weight, self.grid, grid)

    def resize_(self, grid: tuple[int, ...]) -> None:
        """Replaces the parameter by one resized to another native grid."""
        with torch.no_grad():
            self.weight = nn.Parameter(self(grid))
        self.grid = grid


def decoder_table(weight: Tensor, native: tuple[int, ...], grid: tuple[int, ...]) -> Tensor:
    """The decoder's table `[1, N, C]` of the grid `native`, resized to `grid`."""
    if grid == native:
        return weight
    return resize_table(weight.unflatten(1, native), grid, method="bicubic", unit=grid).flatten(1, -2)


def decoder_grid(config: HieraConfig, size: Sequence[int]) -> tuple[int, ...]:
    """Tokens per axis of the MAE decoder for an input of `size` pixels: those of the last stage."""
    unit = UnitLayout.of(config, config.stages - 1).size
    return tuple(n * u for n, u in zip(config.unit_grid(size), unit, strict=True))
