"""The blocks that the encoder and the decoder are made of: attention, MLP, patch embedding."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hierax.model.config import HieraConfig
from hierax.model.gradients import attention, learns
from hierax.model.layers import CONVS, LayerNorm, Linear, Scale, activated
from hierax.model.observed import is_forward_mode, is_traced
from hierax.model.plan import BlockSpec
from hierax.model.tokens import pool, published_order, split_axis, unpublished_order
from hierax.model.windows import WindowLayout, by_windows, pool_windows

_HALF = (torch.bfloat16, torch.float16)
_MAX_EXPLICIT_SCORES_HALF = 1 << 27  # above it, the matrix of scores costs more memory than its speed is worth
# measured: unfused is faster at 614,000 (the decoder on one image), not at 1,230,000
_MAX_EXPLICIT_SCORES_FP32 = 800_000
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
        """`x` with zeros for dropped samples; the other samples are scaled up, which keeps the expected value."""
        if self.rate == 0 or not self.training:
            return x
        keep = 1 - self.rate
        return x * (torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) < keep).to(x.dtype).div(keep)


def attend(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, added: Tensor | None = None) -> Tensor:
    """Attention of `[B, N, queries, D]` over keys and values `[B, N, keys, D]`: `scaled_dot_product_attention`.

    `scale` multiplies the scores; None is `1 / sqrt(D)`. `added` `[keys]` is added to them.

    On a CPU, two products with a softmax between are faster in two cases (docs/log.md). In float32 its fused kernel
    hardly uses a second thread, which shows where scores are few. In half precision the kernel's backward pass takes
    2.5 times as long. They are not used while tracing, so that an export contains the operator itself. Fused kernels
    have no derivatives in forward mode.
    """
    scores = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
    most = 0
    if q.device.type == "cpu" and not is_traced():
        learning = q.dtype in _HALF and torch.is_grad_enabled() and q.requires_grad
        most = _MAX_EXPLICIT_SCORES_FP32 if q.dtype == torch.float32 else _MAX_EXPLICIT_SCORES_HALF if learning else 0
    if scores <= most or (not is_traced() and is_forward_mode()):
        scaled = q if scale == 1 else q * (q.shape[-1] ** -0.5 if scale is None else scale)
        products = scaled @ k.transpose(-2, -1)
        return (products if added is None else products + added).softmax(-1) @ v
    if added is None:
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=added.expand(1, 1, q.shape[2], -1), scale=scale)


def attend_in_windows(
    q: Tensor, k: Tensor, v: Tensor, padded: tuple[Tensor, Tensor], layout: WindowLayout, *, scale: float | None = None
) -> Tensor:
    """Attention within the windows of `layout`, some of which lack tokens.

    SAM 2 fills those windows with zeros before the product that computes queries, keys and values. All padded keys are
    then equal to the bias of that product, and all padded values too. `n` equal keys have the weight of one key whose
    score is larger by `log n`. So one more key and value stand for all of them, exactly.

    Args:
        q: queries `[B, 1, tokens / pool, N, D]`.
        k, v: keys and values `[B, 1, tokens, N, D]`.
        padded: key and value `[N * D]` of a padded token.

    Returns:
        `[B, 1, tokens / pool, N * D]`.
    """
    pooled = layout.pooled() if q.shape[2] < k.shape[2] else layout
    answers = []
    for group, *parts in zip(layout.groups, pooled.split(q), layout.split(k), layout.split(v), strict=True):
        windows = parts[0].shape[1]
        queries, keys, values = (part.flatten(0, 1).transpose(1, 2) for part in parts)
        added = None
        if group.missing:
            more = (one.view(1, q.shape[3], 1, -1).expand(keys.shape[0], -1, -1, -1) for one in padded)
            keys, values = (torch.cat(pair, 2) for pair in zip((keys, values), more, strict=True))
            added = keys.new_zeros(keys.shape[2])
            added[-1] = math.log(group.missing)
        answer = attend(queries, keys, values, scale=scale, added=added).transpose(1, 2).flatten(2)
        answers.append(answer.view(-1, windows, *answer.shape[1:]))
    return pooled.join(answers)


class Attention(nn.Module):
    """Multi-head attention over `[B, U, P, C]`, within windows `U` or over all tokens, with pooled queries.

    Queries, keys and values are views of one product, and always 4-D, so that fused attention kernels can be used.
    """

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.heads, self.pool, self.windowed = spec.heads, spec.pool, spec.window is not None
        self.qkv = Linear(spec.dim, 3 * spec.dim_out)
        self.proj = Linear(spec.dim_out, spec.dim_out)

    def _parts(self, x: Tensor) -> Tensor:
        """Queries, keys and values in one tensor `[B, U, P, 3, N, D]`."""
        return self.qkv(x).view(*x.shape[:-1], 3, self.heads, -1)

    def _rows(self, part: Tensor) -> Tensor:
        """`[B, U, P, …]` with a row for each window, or one for the tokens of all windows where attention is global."""
        return part.flatten(0, 1) if self.windowed else part.flatten(1, 2)

    def _learned(self, parts: Tensor) -> Tensor | None:
        """The answers `[windows, queries, C_out]` by an operation that trains faster, if it suits."""
        if parts.dtype not in _HALF or not (self.windowed or self.pool == 1) or not learns(parts):
            return None
        _, units, tokens, _, heads, _ = parts.shape
        keys = tokens if self.windowed else units * tokens
        scores = parts.shape[0] * units * tokens // self.pool * heads * keys
        if scores > _MAX_EXPLICIT_SCORES_HALF:
            return None
        ordered = self._rows(parts).permute(2, 0, 3, 1, 4).contiguous()
        return attention(ordered, self.pool).transpose(1, 2).flatten(2)

    def forward(self, x: Tensor, cut: WindowLayout | None = None) -> Tensor:
        """`[B, U, P, C]` -> `[B, U, P / pool, C_out]`. `cut` is the layout if some windows lack tokens."""
        parts, units = self._parts(x), x.shape[1]
        y = self._learned(parts) if cut is None else None
        if y is None:
            q, k, v = parts.unbind(3)
            q = pool_windows(q, self.pool, cut)
            if cut is not None and self.windowed:
                _, key, value = self.qkv.bias.chunk(3)
                return self.proj(attend_in_windows(q, k, v, (key, value), cut))
            q, k, v = (self._rows(part).transpose(1, 2) for part in (q, k, v))
            y = attend(q, k, v).transpose(1, 2).flatten(2)
        # a view, not unflatten: traced to ONNX, unflatten fixes the batch
        return self.proj(y.view(-1, units, *y.shape[1:]) if self.windowed else split_axis(y, 1, units))

    def with_weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` returns, computed from the attention weights, and the weights.

        The weights are `[B, N, windows, queries, keys]`; the tokens of a window are in the published order.
        """
        q, k, v = self._parts(x).unbind(3)
        q, units = pool_windows(q, self.pool, None), x.shape[1]
        if self.windowed:
            q, k, v = (part.permute(0, 3, 1, 2, 4) for part in (q, k, v))
        else:
            q, k, v = (published_order(part.flatten(3)).unflatten(-1, part.shape[3:]) for part in (q, k, v))
            q, k, v = (part.transpose(1, 2)[:, :, None] for part in (q, k, v))
        weights = (q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5).softmax(-1)
        y = (weights @ v).permute(0, 2, 3, 1, 4).flatten(3)  # [B, windows, queries, C_out]
        return self.proj(y if self.windowed else unpublished_order(y[:, 0], units)), weights


class Mlp(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, dim: int, hidden: int, act: str) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.act = activation(act)
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., C]` -> `[..., C]`."""
        return self.fc2(activated(self.fc1, self.act, x))


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
        """A residual branch, with layer scale and drop path if the model has them."""
        y = y if scale is None else scale(y)
        return self.drop_path(y) if self.training and self.spec.drop_path else y

    def _shortcut(self, x: Tensor, normed: Tensor) -> Tensor:
        """`[B, U, P, C]` -> `[B, U, P / pool, C_out]`."""
        if self.proj is not None:
            return pool(self.proj(normed), self.spec.pool)
        if self.pooled_shortcut:  # abs-win small: maximum and mean concatenated double the width
            grouped = split_axis(x, 2, self.spec.pool)
            return torch.cat([grouped.amax(2), grouped.mean(2)], dim=-1)
        return pool(x, self.spec.pool)

    def _attended(self, x: Tensor, weights: bool, cut: WindowLayout | None) -> tuple[Tensor, Tensor | None]:
        """The first half of `forward`, and the attention weights if they are requested."""
        normed = self.norm1(x)
        y, found = self.attn.with_weights(normed) if weights else (self.attn(normed, cut), None)
        return by_windows(self._shortcut, cut, x, normed) + self._branch(y, self.ls1), found

    def forward(self, x: Tensor, output_attentions: bool = False, cut: WindowLayout | None = None) -> Any:
        """`[B, U, P, C]` -> `[B, U, P / pool, C_out]`; with `output_attentions`, a pair of that and the attention
        weights. `cut` is the layout of the tokens if some windows lack tokens.
        """
        x, weights = self._attended(x, output_attentions, cut)
        x = x + self._branch(self.mlp(self.norm2(x)), self.ls2)
        return (x, weights) if output_attentions else x


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
