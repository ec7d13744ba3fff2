"""The encoder: patch embedding, blocks, and the one path from pixels to the tokens of every stage."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from hierax.config import BlockSpec, HieraConfig, plan
from hierax.init import CONVS, LayerNorm, Linear, Scale, init_weights
from hierax.positions import is_traced, position_embedding
from hierax.pretrained import Pretrained
from hierax.tokens import UnitLayout, gather_units, kept_units, pool, published_order, shown_units

_AXIS_NAMES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
_HALF = (torch.bfloat16, torch.float16)
_HALF_SCORES = 1 << 27  # beyond, their memory is the greater evil
_FEW_SCORES = 800_000  # measured: 614,000 (the decoder on one image) is faster unfused, 1,230,000 is not
_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}


def activation(name: str) -> nn.Module:
    """The activation of the MLPs; `gelu` is the exact one (erf)."""
    return nn.GELU(approximate="tanh") if name == "gelu_pytorch_tanh" else _ACTIVATIONS[name]()


class DropPath(nn.Module):
    """Drops a residual branch, per sample of the batch, with probability `rate` in training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """`x`, or zeros for dropped samples; what is left is scaled up so that the mean stays."""
        if self.rate == 0 or not self.training:
            return x
        keep = 1 - self.rate
        return x * (torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) < keep).to(x.dtype).div(keep)


def attend(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
    """Attention of `[B, N, queries, D]` over keys and values `[B, N, keys, D]`: `scaled_dot_product_attention`.

    `scale` multiplies the scores; None is `1 / sqrt(D)`.

    On a CPU, two products with a softmax between are faster in two cases (docs/log.md). In float32 its fused kernel
    hardly uses a second thread, which shows where scores are few. In half precision the kernel's backward pass takes
    2.5 times as long. Never while tracing: exports hold the one operator.
    """
    scores = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
    most = 0
    if q.device.type == "cpu" and not is_traced():
        learning = q.dtype in _HALF and torch.is_grad_enabled() and q.requires_grad
        most = _FEW_SCORES if q.dtype == torch.float32 else _HALF_SCORES if learning else 0
    if scores <= most:
        scaled = q if scale == 1 else q * (q.shape[-1] ** -0.5 if scale is None else scale)
        return (scaled @ k.transpose(-2, -1)).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


class Attention(nn.Module):
    """Multi-head attention over `[B, U, P, C]`, within mask units or over all tokens, with pooled queries.

    Keys, queries and values are views of one product, and always 4-D, so that fused attention kernels apply.
    """

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.heads, self.pool, self.unit_attention = spec.heads, spec.pool, spec.unit_attention
        self.qkv = Linear(spec.dim, 3 * spec.dim_out)
        self.proj = Linear(spec.dim_out, spec.dim_out)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries `[B, U, P / pool, N, D]`, keys and values `[B, U, P, N, D]`."""
        q, k, v = self.qkv(x).view(*x.shape[:-1], 3, self.heads, -1).unbind(3)
        return pool(q, self.pool), k, v

    def forward(self, x: Tensor) -> Tensor:
        """`[B, U, P, C]` -> `[B, U, P / pool, C_out]`."""
        units = x.shape[1]
        # unit attention: every unit is a row of the batch; global attention: all units' tokens are one row
        fold = 0 if self.unit_attention else 1
        q, k, v = (part.flatten(fold, fold + 1).transpose(1, 2) for part in self._project(x))
        y = attend(q, k, v).transpose(1, 2).flatten(2)
        return self.proj(y.unflatten(fold, (-1, units) if self.unit_attention else (units, -1)))

    def weights(self, x: Tensor) -> Tensor:
        """The attention weights `[B, N, windows, queries, keys]`, tokens of a window in the published order."""
        q, k, _ = self._project(x)
        if self.unit_attention:
            q, k = (part.permute(0, 3, 1, 2, 4) for part in (q, k))
        else:
            q, k = (published_order(part.flatten(3)).unflatten(-1, part.shape[3:]) for part in (q, k))
            q, k = (part.transpose(1, 2)[:, :, None] for part in (q, k))
        return (q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5).softmax(-1)


class Mlp(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, dim: int, hidden: int, act: str) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.act = activation(act)
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., C]` -> `[..., C]`."""
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """One transformer block; the first of a stage widens the tokens and may pool them (paper, section 3)."""

    def __init__(self, spec: BlockSpec, config: HieraConfig) -> None:
        super().__init__()
        self.spec = spec
        widens = spec.dim != spec.dim_out
        self.norm1 = LayerNorm(spec.dim, eps=config.layer_norm_eps)
        self.attn = Attention(spec)
        self.norm2 = LayerNorm(spec.dim_out, eps=config.layer_norm_eps)
        self.mlp = Mlp(spec.dim_out, int(spec.dim_out * config.mlp_ratio), config.hidden_act)
        self.proj = Linear(spec.dim, spec.dim_out) if widens and not config.pooled_shortcut else None
        self.pooled_shortcut = widens and config.pooled_shortcut
        scaled = config.layer_scale_init is not None
        self.ls1, self.ls2 = (Scale(spec.dim_out) if scaled else None for _ in range(2))
        self.drop_path = DropPath(spec.drop_path)

    def _branch(self, y: Tensor, scale: Scale | None) -> Tensor:
        """A residual branch, scaled and dropped where the model does that."""
        y = y if scale is None else scale(y)
        return self.drop_path(y) if self.training and self.spec.drop_path else y

    def _shortcut(self, x: Tensor, normed: Tensor) -> Tensor:
        if self.proj is not None:
            return pool(self.proj(normed), self.spec.pool)
        if self.pooled_shortcut:  # abs-win small: two poolings of the input stand side by side, so the width doubles
            grouped = x.unflatten(2, (self.spec.pool, -1))
            return torch.cat([grouped.amax(2), grouped.mean(2)], dim=-1)
        return pool(x, self.spec.pool)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, U, P, C]` -> `[B, U, P / pool, C_out]`."""
        normed = self.norm1(x)
        x = self._shortcut(x, normed) + self._branch(self.attn(normed), self.ls1)
        return x + self._branch(self.mlp(self.norm2(x)), self.ls2)


class PatchEmbed(nn.Module):
    """Overlapping convolution from pixels to tokens on their grid, channels last."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        conv = CONVS[config.axes]
        self.proj = conv(
            config.num_channels, config.embed_dim, config.patch_size, config.patch_stride, config.patch_padding
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """`[B, channels, *size]` -> `[B, *grid, C]`."""
        return self.proj(pixels).movedim(1, -1)


@dataclass(frozen=True)
class Features:
    """What the encoder returns: tokens `[B, U, P, C]` by stage, and what is needed to put them on their grids.

    Attributes:
        tokens: by stage number; 0 is the stem (after the position embedding), 1 the end of stage 1, and so on.
        units: mask units per axis of the padded input.
        size: pixels per axis of the input before padding.
        kept: indices `[B, K]` of the mask units that were seen, or None for all (then `U` is `K`).
        attentions: weights `[B, N, windows, queries, keys]` of the last block of each stage, where asked for.
    """

    config: HieraConfig
    tokens: dict[int, Tensor]
    units: tuple[int, ...]
    size: tuple[int, ...]
    kept: Tensor | None
    attentions: tuple[Tensor, ...] | None

    @property
    def last(self) -> Tensor:
        """Tokens `[B, U, P, C]` at the end of the last stage."""
        return self.tokens[self.config.stages]

    def published(self, stage: int) -> Tensor:
        """Tokens `[B, N, C]` of a stage, padded, in the order of the published implementations."""
        return published_order(self.tokens[stage])

    def grid(self, stage: int) -> Tensor:
        """The map `[B, *ceil(size / stride), C]` of a stage, channels last: only tokens that touch the input.

        Under a mask: `[B, K, *unit, C]`, one small map per unit that was seen.
        """
        layout = UnitLayout.of(self.config, max(stage - 1, 0))
        if self.kept is not None:
            return layout.reroll_units(self.tokens[stage])
        rows = layout.reroll(self.tokens[stage], self.units)
        strides = self.config.stage_stride(max(stage - 1, 0))
        for axis, (pixels, stride) in enumerate(zip(self.size, strides, strict=True), start=1):
            rows = rows.narrow(axis, 0, -(-pixels // stride))
        return rows

    def map(self, stage: int) -> Tensor:
        """The map `[B, C, *ceil(size / stride)]` of a stage, channels first."""
        return self.grid(stage).movedim(-1, 1).contiguous()

    def mean(self) -> Tensor:
        """Mean `[B, C]` over the last stage's tokens that touch the input."""
        strides = self.config.stage_stride(self.config.stages - 1)
        layout = UnitLayout.of(self.config, self.config.stages - 1)
        padded = [u * n for u, n in zip(self.units, layout.size, strict=True)]
        touching = [-(-s // n) for s, n in zip(self.size, strides, strict=True)]
        if touching == padded:
            return self.last.flatten(1, 2).mean(1)
        if self.kept is None:
            return self.grid(self.config.stages).flatten(1, -2).mean(1)
        weight = self.last.new_ones(1, *touching, 1)
        margins = [n for t, p in zip(reversed(touching), reversed(padded), strict=True) for n in (0, p - t)]
        weight = gather_units(layout.unroll(F.pad(weight, [0, 0, *margins])), self.kept)
        return (self.last * weight).sum((1, 2)) / weight.sum((1, 2))


class Hiera(Pretrained):
    """The encoder alone: pixels in, tokens of every stage out (paper, section 3; `config` says all).

    Any input size is taken: up to the next multiple of the mask unit, zeros are added right and below (in video, the
    last frame is repeated).
    """

    def __init__(self, config: HieraConfig, *, initialise: bool = True) -> None:
        super().__init__(config)
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = position_embedding(config)
        self.blocks = nn.ModuleList(Block(spec, config) for spec in plan(config))
        if initialise:  # a part of a larger model is initialised with that
            self.init_weights()

    def init_weights(self) -> None:
        """Draws all weights anew; nothing happens on the meta device."""
        if self.device.type != "meta":
            init_weights(self, self.config, mae=False)

    def forward(
        self,
        pixel_values: Tensor,
        keep: Tensor | None = None,
        *,
        kept: Tensor | None = None,
        stages: Collection[int] = (),
        output_attentions: bool = False,
    ) -> Features:
        """Encodes `pixel_values` `[B, channels, *size]`.

        Args:
            keep: booleans `[B, units]`, True for the mask units to see; every image keeps the same number.
            kept: the same as ascending indices `[B, K]`, trusted.
            stages: numbers of the stages whose tokens are wanted beside the last one's; 0 is the stem.
            output_attentions: also compute the attention weights of the last block of each stage.

        Raises:
            ValueError: wrong rank, channels or an empty axis; a mask of another shape or with unequal counts.
        """
        units, size = self.unit_grid(pixel_values), tuple(pixel_values.shape[2:])
        pixels = pixel_values.to(self.dtype)
        if keep is not None:
            kept = self.checked_keep(keep, pixels.shape[0], units)
        x = self._embed(pixels, units, size, kept)
        tokens = {0: x} if 0 in stages else {}
        attentions: list[Tensor] = []
        ends = {sum(self.config.depths[: i + 1]) - 1: i + 1 for i in range(self.config.stages)}
        for index, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            stage = ends.get(index)
            if stage and output_attentions:
                attentions.append(block.attn.weights(block.norm1(x)))
            recompute = self.gradient_checkpointing and self.training
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
            if stage and (stage in stages or stage == self.config.stages):
                tokens[stage] = x
        return Features(self.config, tokens, units, size, kept, tuple(attentions) if output_attentions else None)

    def unit_grid(self, pixel_values: Tensor) -> tuple[int, ...]:
        """Mask units per axis of `pixel_values`.

        Raises:
            ValueError: another rank, another number of channels, an empty axis, or pixels that are not floating point.
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
            raise ValueError(f"pixel_values has dtype {pixel_values.dtype}; expected normalised floating-point pixels")
        return config.unit_grid(shape[2:])

    def checked_keep(self, keep: Tensor, batch: int, units: Sequence[int]) -> Tensor:
        """Ascending indices `[B, K]` of the units that `keep` `[B, U]` shows.

        While tracing, `K` cannot depend on the values: it is then the number that the configuration's `mask_ratio`
        keeps, and the graph asserts it.

        Raises:
            ValueError: another shape or dtype, unequal counts, or no unit kept.
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
        pixels = self._padded(pixels, units, size)
        if kept is not None:  # the convolution overlaps units: what is masked must not be seen through it
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

    def _padded(self, pixels: Tensor, units: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
        """The pixels up to the next multiple of the mask unit."""
        missing = [u * n - s for u, n, s in zip(units, self.config.unit_pixels, size, strict=True)]
        if self.config.is_video and missing[0]:
            pixels = torch.cat([pixels, pixels[:, :, -1:].expand(-1, -1, missing[0], -1, -1)], dim=2)
            missing[0] = 0
        if any(missing):
            pixels = F.pad(pixels, [n for right in reversed(missing) for n in (0, right)])
        return pixels


def visible_units(config: HieraConfig, units: int) -> int:
    """How many of `units` mask units the configuration's `mask_ratio` leaves visible (in Python floats, as published).

    Raises:
        ValueError: the ratio keeps none, or hides none.
    """
    shown = int(units * (1 - config.mask_ratio))
    if not 0 < shown < units:
        word = "all" if shown else "none"
        raise ValueError(f"mask_ratio is {config.mask_ratio}, which keeps {word} of {units} mask units; "
                         "at least one must be kept and one hidden")  # fmt: skip
    return shown
