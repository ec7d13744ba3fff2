"""Ranks and devices: one process, several GPUs or several machines. The model does not depend on this."""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hierax.data.loader import spare_cores
from hierax.devices import find_device
from hierax.model.blocks import Block
from hierax.train.objective import Objective
from hierax.train.progress import TrainingStopped, lost_rank

WAYS = ("ddp", "fsdp")
_T = TypeVar("_T")
_BROKEN: list[Any] = []
"""Process groups of failed runs, kept until the process ends. Otherwise the model would free the last reference, and
the destructor waits for a thread that may wait for the interpreter's lock.
"""


@dataclass(frozen=True)
class World:
    """This process as a rank of the run.

    Attributes:
        rank, size: its rank, and the number of ranks.
        device: the device of its computations.
        way: "ddp" (every rank holds the model) or "fsdp" (the model is sharded over ranks).
    """

    rank: int
    size: int
    device: torch.device
    way: str

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes files and messages."""
        return self.rank == 0

    @property
    def shares(self) -> bool:
        """Whether the model is sharded over several ranks."""
        return self.size > 1 and self.way == "fsdp"

    def total(self, *values: float) -> list[float]:
        """Sums over all ranks."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def gathered(self, value: Any) -> list[Any]:
        """`value` of all ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def everywhere(self, act: Callable[[], _T]) -> _T:
        """Runs a function on every rank that needs no other rank; all wait, and raise the error of any of them."""
        if self.size == 1:
            return act()
        done: list[_T] = []
        error: Exception | None = None
        try:
            done.append(act())
        except Exception as caught:
            error = caught
        failed = next((found for found in self.gathered(_portable(error)) if found is not None), None)
        if failed is not None:
            raise failed from error
        return done[0]

    def on_first(self, act: Callable[[], object]) -> None:
        """Runs a function on the first rank; all ranks wait for it, and raise its error."""
        self.everywhere(lambda: act() if self.first else None)

    def wrap(self, objective: Objective, *, compile: bool = False) -> nn.Module:
        """The module to call for the loss: the module itself, or a wrapper that keeps gradients equal on all ranks.

        It is compiled as a whole, or block by block if the model is sharded, because sharding separates the blocks.
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
        # buffers hold the data's mean and deviation, which never change
        return nn.parallel.DistributedDataParallel(objective, device_ids=ids, broadcast_buffers=False)

    @contextlib.contextmanager
    def accumulating(self, module: nn.Module, *, last: bool) -> Iterator[None]:
        """A context for one part of a step: gradients are exchanged with the last part only."""
        if self.size == 1:
            yield
        elif isinstance(module, nn.parallel.DistributedDataParallel):
            with contextlib.nullcontext() if last else module.no_sync():
                yield
        else:
            module.set_requires_gradient_sync(last)  # type: ignore[operator]  # of FSDPModule
            yield


def default_workers() -> int:
    """Number of decoding processes of each rank: its share of the cores minus one."""
    return spare_cores(sharers=int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def full(tensor: Tensor) -> Tensor:
    """A sharded tensor as a full tensor on each rank; other tensors unchanged."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _portable(error: Exception | None) -> Exception | None:
    """The error, or one with the same text if it cannot be sent to other processes."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _place(name: str) -> torch.device:
    """The device of this process by its name.

    Raises:
        ValueError: there is none.
    """
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    place = find_device(automatic if name == "auto" else name)
    if place.type == "cuda" and ":" not in name:
        place = find_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    if place.type == "cuda":
        torch.cuda.set_device(place)
    return place


@contextlib.contextmanager
def world(device: str = "auto", way: str = "ddp") -> Iterator[World]:
    """The ranks that `torchrun` started, or this process alone.

    Raises:
        ValueError: an unknown device or way.
        TrainingStopped: another rank was lost.
    """
    if way not in WAYS:
        raise ValueError(f"parallel is {way!r}; expected {', '.join(WAYS)}")
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    place = _place(device)
    if size == 1:
        yield World(rank, size, place, way)
        return
    started = not dist.is_initialized()
    atexit.register(_leave)  # now, so that what the run registers still takes place before
    if started:
        accelerated = place.type == "cuda"
        dist.init_process_group("nccl" if accelerated else "gloo", device_id=place if accelerated else None)
    group = dist.group.WORLD
    try:
        yield World(rank, size, place, way)
    except BaseException as error:
        _BROKEN.append(group)
        reason = lost_rank(error) if isinstance(error, RuntimeError) else None
        if reason is None or isinstance(error, TrainingStopped):
            raise
        raise TrainingStopped(reason) from error
    finally:
        if started:
            dist.destroy_process_group()


def _leave() -> None:
    """Ends a rank of a failed run without the interpreter's shutdown, which would wait half an hour for messages that
    the other ranks never send.
    """
    if _BROKEN:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
