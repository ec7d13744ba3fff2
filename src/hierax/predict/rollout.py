"""Attention rollout (Abnar and Zuidema, arXiv 2005.00928) through pooled queries and windows.

The attention of a block is the mean over its heads, `A` `[queries, keys]`, whose rows sum to 1. With the shortcut
around it, a block passes on `0.5 A + 0.5 S`. In a block that keeps all tokens, `S` is the identity. Where the queries
are pooled, each query stands for `pool` neighbors, and its row of `S` has `1 / pool` for each of them: the shortcut
is a maximum for each channel, so all of them have a part in it. Attention within windows is a block matrix, which has
zeros between windows. The product over all blocks leads from the cells of stage 1 to the tokens of the last stage,
and its rows sum to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hierax.model.encoder import BlockAttention, Hiera, block_attentions
from hierax.predict.class_activation import evaluating


@torch.no_grad()
def rollout(encoder: Hiera, pixels: Tensor) -> Tensor:
    """How much of each cell of stage 1 the tokens of the last stage hold on average, `[B, *ceil(size / stride)]`.

    The mean is over the tokens that touch the image, as in the classifier's pooling. It sums to 1 for each image;
    where the image was padded, cells beyond it are left out, and the sum is below 1.

    Raises:
        ValueError: windows lack tokens at the edge, in a model with windows that are not mask units.
    """
    with evaluating(encoder):
        blocks = list(block_attentions(encoder, pixels.to(encoder.device)))
    size, config = tuple(pixels.shape[2:]), encoder.config
    layout, stride = blocks[-1].after, config.stage_stride(config.stages - 1)
    touching = [-(-pixel // step) for pixel, step in zip(size, stride, strict=True)]
    weight = torch.full((len(pixels), *touching, 1), 1 / math.prod(touching), device=encoder.device)
    margins = [n for t, p in zip(reversed(touching), reversed(layout.grid), strict=True) for n in (0, p - t)]
    rows = layout.unroll(F.pad(weight, [0, 0, *margins]))
    cells = trace_back(blocks, rows)[..., 0]
    stride = config.stage_stride(0)
    return cells[(slice(None), *(slice(-(-pixel // step)) for pixel, step in zip(size, stride, strict=True)))]


def trace_back(blocks: Sequence[BlockAttention], tokens: Tensor) -> Tensor:
    """Weights `[B, U, P, 1]` of tokens of the last stage, as weights `[B, *grid, 1]` of the cells of stage 1."""
    layout = blocks[-1].after
    for block in reversed(blocks):
        if block.after is not layout:
            tokens = block.after.unroll(layout.reroll(tokens))
        tokens, layout = 0.5 * _attended(block, tokens) + 0.5 * _shortcut(block, tokens), block.before
    return layout.reroll(tokens)


def _attended(block: BlockAttention, tokens: Tensor) -> Tensor:
    """Weights `[B, U, P / pool, 1]` of the queries, as weights `[B, U, P, 1]` of the keys."""
    batch, units = tokens.shape[:2]
    if block.windowed:
        return (tokens.transpose(2, 3) @ block.weights).transpose(2, 3)
    # one window of all tokens, which are in the published order
    row = tokens.transpose(1, 2).reshape(batch, 1, -1)
    keys = row @ block.weights[:, 0]
    return keys.view(batch, -1, units).transpose(1, 2)[..., None]


def _shortcut(block: BlockAttention, tokens: Tensor) -> Tensor:
    """The same through the shortcut: the neighbors that were pooled have equal parts."""
    pool = block.spec.pool
    return tokens.repeat(1, 1, pool, 1) / pool
