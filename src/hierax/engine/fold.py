"""Folding for inference: a model with fewer operations that is equal in real arithmetic.

Constants are multiplied once, in float64. The affine part of a LayerNorm goes into the linear layers after it, the
attention's scale into the queries' weights, layer scale into the layer before it, and the patch embedding's bias into
the position embedding. The projection of the shortcut becomes part of the product that computes queries, keys and
values.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hierax.model.blocks import Attention, Block, DropPath, Mlp, PatchEmbed, attend, attend_in_windows
from hierax.model.encoder import Hiera
from hierax.model.layers import CONVS_ANY, LayerNorm, Linear, Scale, activated, is_seen
from hierax.model.positions import AbsolutePosition, PositionEmbedding, SeparablePosition, WindowPosition
from hierax.model.windows import WindowLayout, by_windows, pool_windows

_Model = TypeVar("_Model", bound=nn.Module)
_FOLDED = {
    Block, Attention, Mlp, DropPath, Scale, Linear, LayerNorm, nn.Linear, nn.LayerNorm, nn.GELU, nn.ReLU, nn.SiLU,
    PatchEmbed, *CONVS_ANY,
}  # fmt: skip
"""The types of modules whose computation is known here."""


class BareNorm(nn.Module):
    """LayerNorm over the last axis without an affine part."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.shape, self.eps = norm.normalized_shape, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """`[..., C]` with mean 0 and variance 1 along the last axis."""
        return F.layer_norm(x, self.shape, eps=self.eps)


class FoldedBlock(Block):
    """A `Block` with folded constants; made by `fold`."""

    def __init__(self, block: Block) -> None:
        nn.Module.__init__(self)
        attention = block.attn
        self.spec, self.pooled_shortcut, self.proj = block.spec, block.pooled_shortcut, None
        self.heads, self.dim_out = attention.heads, block.spec.dim_out
        self.widens = block.proj is not None
        self.norm1, self.norm2 = BareNorm(block.norm1), BareNorm(block.norm2)
        scale = (self.dim_out // self.heads) ** -0.5
        # the padding of a window comes after the norm: its key and its value are the biases before folding
        self.padded: Tensor
        self.register_buffer("padded", attention.qkv.bias.detach().unflatten(0, (3, -1))[1:].clone(), persistent=False)
        weight, bias = _after_norm(block.norm1, attention.qkv)
        weight[: self.dim_out] *= scale
        bias[: self.dim_out] *= scale
        if block.proj is not None:  # the shortcut comes before the queries: both are pooled
            shortcut = _after_norm(block.norm1, block.proj)
            weight, bias = torch.cat([shortcut[0], weight]), torch.cat([shortcut[1], bias])
        self.qkv = _linear(weight, bias, like=attention.qkv)
        self.out = _scaled(attention.proj, block.ls1)
        self.fc1 = _linear(*_after_norm(block.norm2, block.mlp.fc1), like=block.mlp.fc1)
        self.act = block.mlp.act
        self.fc2 = _scaled(block.mlp.fc2, block.ls2)

    def _parts(
        self, x: Tensor, normed: Tensor, cut: WindowLayout | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Shortcut `[B, U, P / pool, C_out]`, queries `[B, U, P / pool, C_out]`, keys and values `[B, U, P, C_out]`."""
        width, y = self.dim_out, self.qkv(normed)
        if not self.widens:
            q, k, v = y.split(width, -1)
            shortcut = by_windows(self._shortcut, cut, x, normed)
            return shortcut, pool_windows(q, self.spec.pool, cut), k, v
        pooled, k, v = y.split([2 * width, width, width], -1)
        shortcut, q = pool_windows(pooled, self.spec.pool, cut).chunk(2, -1)
        return shortcut, q, k, v

    def forward(self, x: Tensor, cut: WindowLayout | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]  # no attentions here
        """`[B, U, P, C]` -> `[B, U, P / pool, C_out]`."""
        shortcut, *parts = self._parts(x, self.norm1(x), cut)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in parts)
        if cut is not None and self.spec.window:
            y = attend_in_windows(q, k, v, (self.padded[0], self.padded[1]), cut, scale=1.0)
        else:
            fold = 0 if self.spec.window else 1
            units = x.shape[1]
            q, k, v = (part.flatten(fold, fold + 1).transpose(1, 2) for part in (q, k, v))
            y = attend(q, k, v, scale=1.0).transpose(1, 2).flatten(2)
            y = y.unflatten(fold, (-1, units) if self.spec.window else (units, -1))
        x = shortcut + self.out(y)
        return x + self.fc2(activated(self.fc1, self.act, self.norm2(x)))


def _after_norm(norm: nn.Module, linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias, in float64, of `linear` combined with the affine part of the `norm` before it."""
    assert isinstance(norm, nn.LayerNorm)
    weight = linear.weight.double()
    return weight * norm.weight.double(), linear.bias.double() + weight @ norm.bias.double()


def _scaled(linear: nn.Linear, scale: nn.Module | None) -> Linear:
    """`linear` combined with the layer scale after it."""
    weight, bias = linear.weight.double(), linear.bias.double()
    if scale is not None:
        factors = scale.weight.double()
        weight, bias = weight * factors[:, None], bias * factors  # pyright: ignore[reportIndexIssue, reportOperatorIssue]
    return _linear(weight, bias, like=linear)


def _linear(weight: Tensor, bias: Tensor, *, like: nn.Linear) -> Linear:
    linear = Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight, linear.bias = (
        nn.Parameter(t.to(like.weight.dtype).contiguous(), requires_grad=False) for t in (weight, bias)
    )
    return linear


def _is_known(part: nn.Module) -> bool:
    """Whether `part` computes what the modules of hierax compute. Layers of others in it (such as LoRA) and hooks would
    be lost by folding.
    """
    parts = list(part.modules())
    whole = all(p.bias is not None for p in parts if isinstance(p, nn.Linear))
    return whole and all(type(p) in _FOLDED for p in parts) and not is_seen(*parts)


def _fold_patch_bias(encoder: Hiera) -> None:
    """Adds the patch embedding's bias to the position embedding, once for every token."""
    proj, position = encoder.patch_embed.proj, encoder.pos_embed
    kinds = (AbsolutePosition, SeparablePosition, WindowPosition)
    if not _is_known(encoder.patch_embed) or type(position) not in kinds or is_seen(position) or proj.bias is None:
        return
    assert isinstance(position, PositionEmbedding)
    if isinstance(position, AbsolutePosition):
        table = position.weight
    elif isinstance(position, SeparablePosition):
        table = position.spatial
    else:  # interpolation and tiling do not change a constant
        assert isinstance(position, WindowPosition)
        table = position.window.movedim(1, -1)  # a view: channels last, as the other tables have them
    assert table.shape[-1] == proj.bias.shape[0]
    table.copy_((table.double() + proj.bias.double()).to(table.dtype))
    proj.bias = None


@torch.no_grad()
def fold(model: _Model) -> _Model:
    """A copy of `model` for inference, in eval mode, equal in real arithmetic and with fewer operations.

    The copy's parameters are not those of a checkpoint: do not save or train it. It gives no attentions. Folding it
    again changes nothing. Blocks with hooks, or with layers of other libraries in them, stay as they are.
    """
    folded = copy.deepcopy(model).requires_grad_(False)
    for part in folded.modules():
        if isinstance(part, Hiera):
            _fold_patch_bias(part)
        for name, child in part.named_children():
            if isinstance(child, Block) and _is_known(child):
                setattr(part, name, FoldedBlock(child))
    return folded.eval()
