"""Whether something sees the operators that run, so that they must stay those of PyTorch."""

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad


def is_traced() -> bool:
    """Whether PyTorch is recording the operations (compile, export, trace), not only running them."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]


def is_forward_mode() -> bool:
    """Whether derivatives are computed together with the values (`torch.func.jvp`, `hessian`)."""
    return forward_ad._current_level >= 0


def is_observed() -> bool:
    """Whether something else than PyTorch itself sees the operators: a transform of functions, or a mode such as a FLOP
    counter."""
    return torch._C._len_torch_dispatch_stack() > 0 or torch._C._are_functorch_transforms_active() or is_forward_mode()


def is_plain(x: Tensor | Any) -> bool:
    """Whether `x` is a tensor of PyTorch itself, and nothing records or sees what is done with it."""
    # batched tensors of this kind come from `torch.autograd.grad(is_grads_batched=True)`
    return type(x) is Tensor and not is_traced() and not is_observed() and not is_legacy_batchedtensor(x)
