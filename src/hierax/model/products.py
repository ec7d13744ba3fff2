"""Products of tokens and weights, by the library that is faster on this CPU.

PyTorch computes float32 products with MKL, which does not use AVX-512 on CPUs of AMD. oneDNN does. It comes with
PyTorch too, and computes the same product in half the time on Zen 5 (docs/log.md, 2026-11-29).
"""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hierax.model.observed import is_plain

_WEIGHTS = (Tensor, nn.Parameter)
"""Types of weights of PyTorch itself. Those of quantized or sharded weights have operators of their own."""
_LEAST = 1 << 25
"""Multiply-accumulates of a product from which oneDNN saves, in one call, the time that it needs to prepare for new
sizes (0.2 to 0.9 ms)."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear`: `[..., C_in]` -> `[..., C_out]`, for `weight` `[C_out, C_in]` and `bias` `[C_out]`."""
    if _suits_in_half(x, weight, bias):
        return _Product.apply(*(None if part is None else part.to(torch.bfloat16) for part in (x, weight, bias)))
    if not _suits(x, weight):
        return F.linear(x, weight, bias)
    if _needs_gradient(x, weight, bias):
        return _Product.apply(x, weight, bias)
    return _product(x, weight, bias)


def linear_and_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """The exact GELU of `linear` in one operation, which needs half of the memory; None if there is no such operation
    for these tensors.
    """
    if _needs_gradient(x, weight, bias) or not _suits(x, weight):
        return None
    return _product(x, weight, bias, "gelu", "none")


def _needs_gradient(*parts: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in parts)


def _product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none", algorithm: str = ""
) -> Tensor:
    """The product by oneDNN, without a gradient."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], algorithm)


class _Product(torch.autograd.Function):
    """The product by oneDNN with its gradients, which are such products too, so that they have gradients again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows, grads = x.flatten(0, -2), grad.flatten(0, -2)
        found: list[Tensor | None] = [linear(grad, weight.t(), None) if of_x else None, None, None]
        if of_weight:  # faster with the narrower side first
            narrow = rows.shape[1] < grads.shape[1]
            found[1] = linear(rows.t(), grads.t(), None).t() if narrow else linear(grads.t(), rows.t(), None)
        if of_bias:
            found[2] = grads.sum(0)
        return tuple(found)


def _suits(x: Tensor, weight: Tensor) -> bool:
    """Whether this is a large product of plain float32 tensors, and oneDNN is faster."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and type(weight) in _WEIGHTS
        and is_plain(x)  # before the sizes: an export would be for the sizes that were asked about
        and x.ndim > 1
        and x.numel() * weight.shape[0] >= _LEAST
        and not torch.is_autocast_enabled("cpu")
        and onednn_is_faster()
    )


def _suits_in_half(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether this is a product in bfloat16 under autocast that needs a gradient. There, oneDNN adds the bias; PyTorch
    first writes it into all rows of the result.
    """
    return (
        x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and weight.dtype == torch.float32
        and type(weight) in _WEIGHTS
        and x.dtype in (torch.float32, torch.bfloat16)
        and is_plain(x)
        and x.ndim > 1
        and x.numel() > 0
        and _needs_gradient(x, weight, bias)
        and _works_in_half()
    )


@functools.cache
def onednn_is_faster() -> bool:
    """Whether float32 products of oneDNN are faster than those of MKL: on CPUs of AMD with AVX-512."""
    try:
        vendor = "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return vendor and torch.backends.cpu.get_cpu_capability() == "AVX512" and _works()


@functools.cache
def _works_in_half() -> bool:
    """Whether oneDNN computes in bfloat16 on this CPU, with the operator that is expected."""
    try:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported() and _works()
    except (AttributeError, RuntimeError):  # a private operator: it may change
        return False


def _works() -> bool:
    """Whether this PyTorch has the operator, with the arguments and the result that are expected."""
    if not torch.backends.mkldnn.is_available():
        return False
    x, weight, bias = torch.ones(2, 4), torch.eye(4)[:3], torch.arange(3.0)
    try:
        found, activated = _product(x, weight, bias), _product(x, weight, bias, "gelu", "none")
    except (AttributeError, RuntimeError, TypeError):  # a private operator: it may change
        return False
    expected = F.linear(x, weight, bias)
    return torch.equal(found, expected) and torch.allclose(activated, F.gelu(expected))
