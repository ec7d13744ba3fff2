"""Ranks and devices: one process, several GPUs, several machines. The model knows nothing of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
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

    @property
    def shares(self) -> bool:
        """Whether several ranks share the model out."""
        return self.size > 1 and self.way == "fsdp"

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

    def on_first(self, act: Callable[[], object]) -> None:
        """Has the first rank do something; all ranks wait for it, and raise what it raised."""
        error: Exception | None = None
        if self.first:
            try:
                act()
            except Exception as caught:
                if self.size == 1:
                    raise
                error = caught
        failed = self.gathered(error)[0]
        if failed is not None:
            raise failed

    def wrap(self, objective: Objective, *, compile: bool = False) -> nn.Module:
        """The module to call for the loss: itself, or what keeps its gradients the same on all ranks.

        Compiled as a whole, or block by block where ranks share the model out, which cuts between blocks.
        """
        blocks = [part for part in objective.model.modules() if isinstance(part, Block)]
        for part in (blocks if self.shares else [objective]) if compile else ():
            part.compile(fullgraph=True)
        if self.size == 1:
            return objective
        if self.shares:
            from torch.distributed.fsdp import fully_shard

            for part in blocks:
                fully_shard(part)
            fully_shard(objective)  # in place
            return objective
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(objective, device_ids=ids)

    @contextlib.contextmanager
    def accumulating(self, module: nn.Module, *, last: bool) -> Iterator[None]:
        """Around one part of a step: gradients are exchanged with the last part only."""
        if self.size == 1:
            yield
        elif isinstance(module, nn.parallel.DistributedDataParallel):
            with contextlib.nullcontext() if last else module.no_sync():
                yield
        else:
            module.set_requires_gradient_sync(last)  # type: ignore[operator]  # of FSDPModule
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
        accelerated = place.type == "cuda"
        dist.init_process_group("nccl" if accelerated else "gloo", device_id=place if accelerated else None)
    try:
        yield World(rank, size, place, way)
    finally:
        if started:
            dist.destroy_process_group()
