"""The encoder, which is the only path from pixels to the tokens of every stage."""

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from hierax.model.blocks import Block, PatchEmbed
from hierax.model.config import HieraConfig
from hierax.model.layers import init_weights
from hierax.model.plan import BlockSpec, plan
from hierax.model.positions import position_embedding
from hierax.model.pretrained import Pretrained
from hierax.model.tokens import (
    channels_first,
    gather_units,
    kept_units,
    published_order,
    shown_units,
    unpublished_order,
)
from hierax.model.windows import WindowLayout, first_layout, layout_after, layout_before
from hierax.reprs.text import short_repr

_AXIS_NAMES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}


@short_repr(hidden=("config", "layouts", "states", "maps"))
@dataclass(frozen=True)
class Features:
    """Output of the encoder: tokens `[B, U, P, C]` by stage, and what is needed to make maps of them.

    Attributes:
        tokens: by stage number; 0 is the stem (after the position embedding), 1 the end of stage 1, and so on.
        units: mask units per axis of the padded input.
        size: pixels per axis of the input before padding.
        layouts: by stage number, as `tokens`: the order of the tokens of all units, shown or not.
        kept: indices `[B, K]` of the visible mask units, or None for all (then `U` is `K`).
        attentions: weights `[B, N, windows, queries, keys]` of the last block of each stage, if requested.
        states, maps: results of `published` and `grid` by stage, if the later stages were computed from them.
    """

    config: HieraConfig
    tokens: dict[int, Tensor]
    layouts: dict[int, WindowLayout]
    units: tuple[int, ...]
    size: tuple[int, ...]
    kept: Tensor | None
    attentions: tuple[Tensor, ...] | None = None
    states: dict[int, Tensor] = field(default_factory=dict)
    maps: dict[int, Tensor] = field(default_factory=dict)

    @property
    def last(self) -> Tensor:
        """Tokens `[B, U, P, C]` at the end of the last stage."""
        return self.tokens[self.config.stages]

    def published(self, stage: int) -> Tensor:
        """Tokens `[B, N, C]` of a stage, padded, in the order of the published implementations."""
        if stage in self.states:
            return self.states[stage]
        if self.config.is_windowed:  # SAM 2 leaves the tokens on their grid
            return self.layouts[stage].reroll(self.tokens[stage]).flatten(1, -2)
        return published_order(self.tokens[stage])

    def pass_through(self, stage: int, tokens: Tensor, *, maps: bool) -> Tensor:
        """The same `tokens` `[B, U, P, C]`, computed from the stage's published state and, if `maps`, from its map.

        The later stages then have gradients with respect to both.
        """
        layout, self.tokens[stage] = self.layouts[stage], tokens
        self.states[stage] = published = self.published(stage)
        if self.config.is_windowed:
            tokens = layout.unroll(published.unflatten(1, layout.grid))
        else:
            tokens = unpublished_order(published, tokens.shape[1])
        self.tokens[stage] = tokens
        if maps:
            self.maps[stage] = shown = self.grid(stage)
            if self.kept is not None:
                tokens = layout.groups[0].unit.unroll_units(shown)
            else:
                whole = layout.reroll(tokens)
                missing = [w - s for w, s in zip(whole.shape[1:-1], shown.shape[1:-1], strict=True)]
                if any(missing):  # tokens that see only padding are not part of the map
                    margins = [0, 0, *(n for right in reversed(missing) for n in (0, right))]
                    inside = F.pad(torch.ones_like(shown[:1, ..., :1], dtype=torch.bool), margins)
                    shown = torch.where(inside, F.pad(shown, margins), whole)
                tokens = layout.unroll(shown)
            self.tokens[stage] = tokens
        return tokens

    def grid(self, stage: int) -> Tensor:
        """The map `[B, *ceil(size / stride), C]` of a stage, channels last, of the tokens that touch the input.

        With a mask: `[B, K, *unit, C]`, one small map per visible unit.
        """
        if stage in self.maps:
            return self.maps[stage]
        layout = self.layouts[stage]
        if self.kept is not None:
            return layout.groups[0].unit.reroll_units(self.tokens[stage])
        rows = layout.reroll(self.tokens[stage])
        strides = self.config.stage_stride(max(stage - 1, 0))
        for axis, (pixels, stride) in enumerate(zip(self.size, strides, strict=True), start=1):
            rows = rows.narrow(axis, 0, -(-pixels // stride))
        return rows

    def map(self, stage: int) -> Tensor:
        """The map `[B, C, *ceil(size / stride)]` of a stage, channels first."""
        return channels_first(self.grid(stage))

    def mean(self) -> Tensor:
        """Mean `[B, C]` over the last stage's tokens that touch the input."""
        strides = self.config.stage_stride(self.config.stages - 1)
        layout = self.layouts[self.config.stages]
        touching = tuple(-(-s // n) for s, n in zip(self.size, strides, strict=True))
        if touching == layout.grid:
            return self.last.flatten(1, 2).mean(1)
        if self.kept is None:
            return self.grid(self.config.stages).flatten(1, -2).mean(1)
        weight = self.last.new_ones(1, *touching, 1)
        margins = [n for t, p in zip(reversed(touching), reversed(layout.grid), strict=True) for n in (0, p - t)]
        weight = gather_units(layout.unroll(F.pad(weight, [0, 0, *margins])), self.kept)
        return (self.last * weight).sum((1, 2)) / weight.sum((1, 2))


@dataclass(frozen=True)
class BlockAttention:
    """The attention weights of one block.

    Attributes:
        spec: the block.
        weights: the mean over heads, `[B, windows, queries, keys]`, of which each row sums to 1. The tokens of a window
            are in the published order.
        before, after: the order of the block's input and output tokens.
    """

    spec: BlockSpec
    weights: Tensor
    before: WindowLayout
    after: WindowLayout

    @property
    def windowed(self) -> bool:
        """Whether attention stays within windows."""
        return self.spec.window is not None


class Hiera(Pretrained):
    """The encoder alone, from pixels to the tokens of every stage, built from `config` (paper, section 3).

    Any input size is accepted. Zeros are added on the right and below up to the next multiple of the mask unit (in a
    video, the last frame is repeated).
    """

    def __init__(self, config: HieraConfig, *, initialize: bool = True, stages: int | None = None) -> None:
        """`stages` is the number of stages to build, from the first; 0 builds only the stem."""
        super().__init__(config)
        self.stages = config.stages if stages is None else stages
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = position_embedding(config)
        self.blocks = nn.ModuleList(Block(spec, config) for spec in plan(config) if spec.stage < self.stages)
        if initialize:  # as part of a larger model, it is initialized with that model
            self.init_weights()

    def init_weights(self) -> None:
        """Replaces all weights with random weights; does nothing on the meta device."""
        if self.device.type != "meta":
            init_weights(self, self.config, mae=False)

    def forward(
        self,
        pixel_values: Tensor,
        keep: Tensor | None = None,
        kept: Tensor | None = None,
        stages: Collection[int] = (),
        states: Collection[int] = (),
        maps: Collection[int] = (),
        output_attentions: bool = False,
    ) -> Features:
        """Encodes `pixel_values` `[B, channels, *size]`.

        Args:
            keep: booleans `[B, units]`, True for the mask units to see; every image keeps the same number.
            kept: the same as ascending indices `[B, K]`, which are not checked.
            stages: numbers of the stages whose tokens are returned, besides the last stage; 0 is the stem.
            states: numbers of the stages whose tokens are computed again from `Features.published`, so that gradients
                with respect to it exist.
            maps: those of `states` for which the same holds for `Features.grid`.
            output_attentions: compute the last block of each stage from its attention weights, and return the weights.

        Raises:
            ValueError: a wrong rank or number of channels, or an empty axis; a mask of a wrong shape or with unequal
                counts; a mask for a model with windows; attention weights of windows that lack tokens.
        """
        units, size = self.unit_grid(pixel_values), tuple(pixel_values.shape[2:])
        pixels = pixel_values.to(self.dtype)
        if keep is not None:
            kept = self.checked_keep(keep, pixels.shape[0], units)
        if kept is not None:
            require_units(self.config)
        x, layout = self._embed(pixels, units, size, kept), first_layout(self.config, self.config.token_grid(size))
        features = Features(self.config, {}, {}, units, size, kept)
        attentions: list[Tensor] = []
        ends = {sum(self.config.depths[:stage]): stage for stage in range(self.config.stages + 1)}
        for index, block in enumerate([None, *self.blocks]):
            stage, weighs = ends.get(index), bool(index in ends and output_attentions)
            if block is not None:
                recomputed = self.gradient_checkpointing and self.training and index % self.recomputed_every == 0
                x, layout = self._run(block, x, layout, weighs, recomputed=recomputed)
                if weighs:
                    x, weights = x
                    attentions.append(weights)
            if stage is None:
                continue
            features.layouts[stage] = layout
            if stage in states:
                x = features.pass_through(stage, x, maps=stage in maps)
            elif stage in stages or index == len(self.blocks):
                features.tokens[stage] = x
        return dataclasses.replace(features, attentions=tuple(attentions) if output_attentions else None)

    def _run(
        self, block: Any, x: Tensor, layout: WindowLayout, output_attentions: bool, *, recomputed: bool
    ) -> tuple[Any, WindowLayout]:
        """The output of a block for tokens `x`, and their layout; where other windows begin, `x` is put in their order.

        If `recomputed`, the block is computed again in the backward pass.
        """
        needed = layout_before(block.spec, layout, self.config)
        if needed is not layout:
            x = needed.unroll(layout.reroll(x))
        options: dict[str, Any] = {"output_attentions": True} if output_attentions else {}
        if not needed.whole:  # the blocks of an engine take one of these arguments
            if output_attentions:
                grid, window = ("x".join(map(str, sizes)) for sizes in (needed.grid, needed.window))
                raise ValueError(
                    f"attention weights need whole windows; the grid of {grid} tokens is no multiple of the "
                    f"windows of {window}"
                )
            options["cut"] = needed
        out = checkpoint(block, x, use_reentrant=False, **options) if recomputed else block(x, **options)
        return out, layout_after(block.spec, needed)

    def unit_grid(self, pixel_values: Tensor) -> tuple[int, ...]:
        """Mask units per axis of `pixel_values`.

        Raises:
            ValueError: a wrong rank or number of channels, an empty axis, or pixels that are not floating point.
        """
        if not isinstance(pixel_values, Tensor):
            raise TypeError(f"pixel_values is a {type(pixel_values).__name__}; expected a tensor")
        config = self.config
        names = ("time", *_AXIS_NAMES[3][1:]) if config.is_video else _AXIS_NAMES[config.axes]
        shape = pixel_values.shape
        if len(shape) != config.axes + 2 or shape[1] != config.num_channels or 0 in shape:
            expected = ", ".join(("batch", str(config.num_channels), *names))
            raise ValueError(f"pixel_values has shape {list(shape)}; expected [{expected}]")
        if not pixel_values.is_floating_point():
            raise ValueError(f"pixel_values has dtype {pixel_values.dtype}; expected normalized floating-point pixels")
        return config.unit_grid(shape[2:])

    def checked_keep(self, keep: Tensor, batch: int, units: Sequence[int]) -> Tensor:
        """Ascending indices `[B, K]` of the units that `keep` `[B, U]` shows.

        While PyTorch traces, `K` cannot depend on the values. It is then the number of units that the configuration's
        `mask_ratio` keeps, and the graph asserts it.

        Raises:
            ValueError: a wrong shape or dtype, unequal counts, or no unit kept.
        """
        if not isinstance(keep, Tensor):
            raise TypeError(f"keep is a {type(keep).__name__}; expected a tensor of booleans")
        count = math.prod(units)
        if tuple(keep.shape) != (batch, count) or keep.dtype != torch.bool:
            raise ValueError(
                f"keep has shape {list(keep.shape)} and dtype {keep.dtype}; expected booleans of shape "
                f"[{batch}, {count}]: one per mask unit of {'x'.join(map(str, self.config.unit_pixels))} pixels"
            )
        if torch.compiler.is_compiling():
            shown = visible_units(self.config, count)
            torch._assert_async(  # pyright: ignore[reportPrivateImportUsage]
                (keep.sum(1) == shown).all(), f"keep must show {shown} mask units in every image"
            )
            return kept_units(keep, shown)
        counts = keep.sum(1).tolist()
        for image, shown in enumerate(counts):
            if shown != counts[0]:
                raise ValueError(
                    f"keep shows {counts[0]} mask units in image 0 and {shown} in image {image}; "
                    "every image must keep the same number"
                )
        if counts[0] == 0:
            raise ValueError(f"keep hides all {count} mask units; at least one must be kept")
        return kept_units(keep, counts[0])

    def _embed(self, pixels: Tensor, units: tuple[int, ...], size: tuple[int, ...], kept: Tensor | None) -> Tensor:
        """Tokens `[B, U or K, P, C]` with their position embedding."""
        pixels = self._pad(pixels, units, size)
        if kept is not None:  # the convolution overlaps units, and must not see masked pixels
            shown = shown_units(kept, math.prod(units)).unflatten(1, units)
            for axis, (count, pixel) in enumerate(zip(units, self.config.unit_pixels, strict=True)):
                pixels = pixels.unflatten(2 + 2 * axis, (count, pixel))
                shown = shown.unsqueeze(2 + 2 * axis)
            pixels = pixels.masked_fill(~shown[:, None], 0.0)
            for axis in range(len(units)):
                pixels = pixels.flatten(2 + axis, 3 + axis)
        grid = self.config.token_grid(size)
        x, position = self.pos_embed.layout.unroll(self.patch_embed(pixels)), self.pos_embed(grid)
        if kept is not None:
            x, position = gather_units(x, kept), gather_units(position, kept)
        return x + position

    def _pad(self, pixels: Tensor, units: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
        """The pixels, padded to the next multiple of the mask unit."""
        missing = [u * n - s for u, n, s in zip(units, self.config.unit_pixels, size, strict=True)]
        if self.config.is_video and missing[0]:
            pixels = torch.cat([pixels, pixels[:, :, -1:].expand(-1, -1, missing[0], -1, -1)], dim=2)
            missing[0] = 0
        if any(missing):
            pixels = F.pad(pixels, [n for right in reversed(missing) for n in (0, right)])
        return pixels


def block_attentions(encoder: Hiera, pixel_values: Tensor) -> Iterator[BlockAttention]:
    """The attention weights of every block, for `pixel_values` `[B, channels, *size]`.

    Raises:
        ValueError: as a call of the encoder with `output_attentions`.
    """
    config, units, size = encoder.config, encoder.unit_grid(pixel_values), tuple(pixel_values.shape[2:])
    layout = first_layout(config, config.token_grid(size))
    x = encoder._embed(pixel_values.to(encoder.dtype), units, size, None)
    for block in cast("Iterable[Block]", encoder.blocks):
        before = layout_before(block.spec, layout, config)
        (x, weights), layout = encoder._run(block, x, layout, True, recomputed=False)
        yield BlockAttention(block.spec, weights.float().mean(1), before, layout)


def require_units(config: HieraConfig) -> None:
    """Raises a `ValueError` for a model whose windows are not mask units: it takes no mask."""
    if config.is_windowed:
        raise ValueError(
            f"a mask hides mask units, but this model has windows of {config.window_sizes} tokens by stage; expected a "
            "model without window_sizes"
        )


def visible_units(config: HieraConfig, units: int, mask_ratio: float | None = None) -> int:
    """The number of visible ones of `units` mask units at `mask_ratio` (computed in Python floats, as published).

    Raises:
        ValueError: the ratio (by default the configuration's) is not from 0 to below 1, or keeps no unit, or hides no
            unit.
    """
    ratio = config.mask_ratio if mask_ratio is None else mask_ratio
    try:
        fits = 0 <= ratio < 1
    except TypeError:
        fits = False
    if not fits:
        raise ValueError(f"mask_ratio is {ratio!r}; expected a number from 0 to below 1")
    shown = int(units * (1 - ratio))
    if not 0 < shown < units:
        word = "all" if shown else "none"
        raise ValueError(
            f"mask_ratio is {ratio}, which keeps {word} of {units} mask units; at least one must be kept and one hidden"
        )
    return shown
