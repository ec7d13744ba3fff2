"""Ranks and devices: one process, several GPUs, several machines. The model knows nothing of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hierax.encoder import Block
from hierax.train.objective import Objective

WAYS = ("ddp", "fsdp")


@dataclass(frozen=True)
class World:
    """This process among those of the run.

    Attributes:
        rank, size: its number, and how many there are.
        device: where its share is computed.
        way: "ddp" (every rank holds the model) or "fsdp" (ranks share it out).
    """

    rank: int
    size: int
    device: torch.device
    way: str

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes files and talks."""
        return self.rank == 0

    def total(self, *values: float) -> list[float]:
        """Sums over all ranks."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def barrier(self) -> None:
        """Waits for all ranks."""
        if self.size > 1:
            dist.barrier()

    def gathered(self, value: Any) -> list[Any]:
        """`value` of all ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wrap(self, objective: Objective) -> nn.Module:
        """The module to call for the loss: itself, or what keeps its gradients the same on all ranks."""
        if self.size == 1:
            return objective
        if self.way == "fsdp":
            from torch.distributed.fsdp import fully_shard

            for part in objective.model.modules():
                if isinstance(part, Block):
                    fully_shard(part)
            fully_shard(objective.model)  # in place; the model, not the loss around it, is called for evaluation
            return objective
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(objective, device_ids=ids)

    def reshard(self, model: nn.Module) -> None:
        """After a forward pass without a backward one: puts parameters that ranks share out back into their shares."""
        if self.size > 1 and self.way == "fsdp":
            from torch.distributed.fsdp import FSDPModule

            for part in model.modules():
                if isinstance(part, FSDPModule):
                    part.reshard()

    @contextlib.contextmanager
    def accumulating(self, module: nn.Module, *, last: bool) -> Iterator[None]:
        """Around one part of a step: gradients are exchanged with the last part only."""
        if self.size == 1:
            yield
        elif isinstance(module, nn.parallel.DistributedDataParallel):
            with contextlib.nullcontext() if last else module.no_sync():
                yield
        else:
            assert isinstance(module, Objective)
            module.model.set_requires_gradient_sync(last)  # type: ignore[operator]
            yield


def full(tensor: Tensor) -> Tensor:
    """A tensor that ranks share out, whole on each; any other as it is."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@contextlib.contextmanager
def world(device: str = "auto", way: str = "ddp") -> Iterator[World]:
    """The ranks that `torchrun` started, or this process alone.

    Raises:
        ValueError: an unknown device or way.
    """
    if way not in WAYS:
        raise ValueError(f"parallel is {way!r}; allowed: {', '.join(WAYS)}")
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    place = torch.device(name)
    if place.type == "cuda" and place.index is None:
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(place)
    if size == 1:
        yield World(rank, size, place, way)
        return
    started = not dist.is_initialized()
    if started:
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield World(rank, size, place, way)
    finally:
        if started:
            dist.destroy_process_group()
