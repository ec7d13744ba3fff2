"""The optimizer Muon: momentum whose matrices are made orthogonal, for the matrices of the blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, overload

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

MOMENTUM = 0.95
_STEPS, _COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)  # of Jordan (2024): singular values end between 0.7 and 1.2
_RMS = 0.2  # root mean square of an update before the learning rate; AdamW's updates have about as much


class Muon(torch.optim.AdamW):
    """Muon for the groups that have `matrices`, AdamW for the others.

    The update of a matrix is its Nesterov momentum, whose singular values a Newton-Schulz iteration brings near 1
    (Jordan, 2024). It is scaled to the size of AdamW's updates (Liu et al., 2025), so both parts share learning rate
    and weight decay. On several ranks with equal gradients each rank computes a part of the updates; the result does
    not depend on their number.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, betas: tuple[float, float]) -> None:
        super().__init__([{"matrices": False, **group} for group in groups], lr=lr, betas=betas, fused=True)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Changes the parameters, and takes away the gradients of the matrices."""
        if closure is not None:
            raise ValueError("closure: Muon does not evaluate the loss")
        with torch.no_grad():
            entries = [(p, group) for group in self.param_groups if group["matrices"] for p in group["params"]]
            entries = [(p, group) for p, group in entries if p.grad is not None]
            updates = _orthogonal([self._momentum(p) for p, _ in entries])
            for (p, group), update in zip(entries, updates, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(_placed(update, p), alpha=-group["lr"] * _RMS * max(p.shape) ** 0.5)
                p.grad = None  # AdamW, below, leaves out what has no gradient
        return super().step()

    def _momentum(self, p: Tensor) -> Tensor:
        """Nesterov momentum of a matrix, whole."""
        state = self.state[p]
        if not state:  # AdamW expects the step
            state["step"], state["momentum_buffer"] = torch.zeros((), device=p.device), torch.zeros_like(p)
        state["step"] += 1
        assert p.grad is not None
        state["momentum_buffer"].lerp_(p.grad, 1 - MOMENTUM)
        update = p.grad.lerp(state["momentum_buffer"], MOMENTUM)
        return update.full_tensor() if isinstance(update, DTensor) else update


def orthogonalize(matrix: Tensor) -> Tensor:
    """A matrix `[M, N]` with the same singular vectors, whose singular values are near 1. Zeros stay zeros."""
    a, b, c = _COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + 1e-7)
    for _ in range(_STEPS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x if wide is matrix else x.T


def _orthogonal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """`orthogonalize` of each; ranks share the work."""
    size, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    if size == 1 or not matrices:
        return [orthogonalize(matrix) for matrix in matrices]
    # the largest first, in turn, so that all ranks have about as much to do
    order = sorted(range(len(matrices)), key=lambda index: -matrices[index].numel())
    own = set(order[rank::size])
    parts = [orthogonalize(m).flatten() if i in own else m.new_zeros(m.numel()) for i, m in enumerate(matrices)]
    joined = torch.cat(parts)
    dist.all_reduce(joined)
    sizes = [matrix.numel() for matrix in matrices]
    return [part.view_as(matrix) for part, matrix in zip(joined.split(sizes), matrices, strict=True)]


def _placed(update: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, sharded as another one is."""
    return distribute_tensor(update, like.device_mesh, like.placements) if isinstance(like, DTensor) else update
