"""Operations with backward passes of their own, which train faster on a CPU than those that PyTorch derives.

The results and the gradients are the same (tests/test_gradients_of_operations.py compares them in float64). What is
saved are passes over memory: on a CPU, half of a training step of a small model only copies (docs/log.md, 2026-11-29).
"""

from typing import Any

import torch
from torch import Tensor

from hierax.model.observed import is_plain


def learns(x: Tensor) -> bool:
    """Whether a gradient of `x` is needed, on a CPU, and nothing else sees the operators."""
    return x.requires_grad and torch.is_grad_enabled() and x.device.type == "cpu" and is_plain(x)


def _is_followed(grad: Tensor) -> bool:
    """Whether a backward pass must consist of ordinary operators: the gradient gets a gradient itself, or it is
    computed for many vectors at once (`is_grads_batched`, `jacobian(vectorize=True)`).
    """
    return torch.is_grad_enabled() or not is_plain(grad)


def maximum(x: Tensor, dim: int) -> Tensor:
    """`x.amax(dim)`; equal maxima share the gradient. `dim` is not negative."""
    return _Maximum.apply(x, dim) if learns(x) else x.amax(dim)


def _larger(x: Tensor, dim: int) -> Tensor:
    """`x.amax(dim)`, faster where `dim` is not the last axis."""
    first, *others = x.unbind(dim)
    for other in others:
        first = torch.maximum(first, other)
    return first


def _spread(grad: Tensor, x: Tensor, largest: Tensor, dim: int, out: Tensor) -> None:
    """Writes into `out` the gradient of `x`, given that of the maxima `largest` along `dim`."""
    torch.eq(x, largest.unsqueeze(dim), out=out)
    count, *others = out.unbind(dim)
    for other in others:
        count = count + other
    out.mul_((grad / count).unsqueeze(dim))


class _Maximum(torch.autograd.Function):
    """The maximum along an axis. PyTorch's derivative of `amax` needs ten passes over memory; this needs three."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        found = _larger(x, dim)
        ctx.save_for_backward(x, found)
        ctx.dim = dim
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, found = ctx.saved_tensors
        if _is_followed(grad):
            same = (x == found.unsqueeze(ctx.dim)).to(grad.dtype)
            return same * (grad / same.sum(ctx.dim)).unsqueeze(ctx.dim), None
        out = torch.empty_like(x, dtype=grad.dtype, memory_format=torch.contiguous_format)
        _spread(grad, x, found, ctx.dim, out)
        return out, None


def attention(parts: Tensor, neighbors: int) -> Tensor:
    """Attention with pooled queries, for training: matrices of scores are computed and kept.

    Args:
        parts: queries, keys and values `[3, windows, N, P, D]`, contiguous.
        neighbors: number of queries that are max-pooled into one; query `i` of the result is the maximum of the
            queries `i`, `i + P / neighbors`, and so on.

    Returns:
        `[windows, N, P / neighbors, D]`.
    """
    return _Attention.apply(parts, neighbors)


def _pooled(queries: Tensor, neighbors: int) -> Tensor:
    windows, heads, tokens, width = queries.shape
    return queries.view(windows, heads, neighbors, tokens // neighbors, width)


def _plain_attention(parts: Tensor, neighbors: int) -> Tensor:
    """`attention` by operators that PyTorch derives, as often as wanted."""
    queries, keys, values = parts.unbind(0)
    queries = _pooled(queries, neighbors).amax(2) * queries.shape[-1] ** -0.5
    return (queries @ keys.transpose(-2, -1)).softmax(-1) @ values


class _Attention(torch.autograd.Function):
    """Attention whose backward pass writes the gradients of queries, keys and values into one tensor."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, neighbors: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        _, windows, heads, tokens, width = parts.shape
        queries, keys, values = parts.unbind(0)
        if neighbors > 1:
            queries = _larger(_pooled(queries, neighbors), 2)
        q, k, v = (part.flatten(0, 1) for part in (queries * width**-0.5, keys, values))
        weights = torch.bmm(q, k.transpose(1, 2)).softmax(-1)
        ctx.save_for_backward(parts, queries if neighbors > 1 else None, weights)
        ctx.neighbors = neighbors
        return torch.bmm(weights, v).view(windows, heads, tokens // neighbors, width)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        parts, pooled, weights = ctx.saved_tensors
        if _is_followed(grad):
            again = torch.is_grad_enabled()
            with torch.enable_grad():
                found = _plain_attention(parts, ctx.neighbors)
            return torch.autograd.grad(found, parts, grad, create_graph=again)[0], None
        queries, keys, values = parts.unbind(0)
        scale = parts.shape[-1] ** -0.5
        rows, k, v = (part.flatten(0, 1) for part in (grad.contiguous(), keys, values))
        q = ((queries if pooled is None else pooled) * scale).flatten(0, 1)
        out = torch.empty_like(parts)
        of_queries, of_keys, of_values = out.unbind(0)
        torch.bmm(weights.transpose(1, 2), rows, out=of_values.flatten(0, 1))
        scores = torch.ops.aten._softmax_backward_data(torch.bmm(rows, v.transpose(1, 2)), weights, -1, weights.dtype)
        torch.bmm(scores.transpose(1, 2), q, out=of_keys.flatten(0, 1))
        if pooled is None:
            torch.bmm(scores, k, out=of_queries.flatten(0, 1)).mul_(scale)
        else:
            found = torch.bmm(scores, k).mul_(scale).view_as(pooled)
            _spread(found, _pooled(queries, ctx.neighbors), pooled, 2, _pooled(of_queries, ctx.neighbors))
        return out, None
