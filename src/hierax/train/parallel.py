"""Ranks and devices: one process, several GPUs or several machines. The model does not depend on this."""

from __future__ import annotations

import atexit
import contextlib
import inspect
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hierax.data.loader import default_decode_workers
from hierax.devices import find_device
from hierax.model.blocks import Block
from hierax.train.objective import Objective
from hierax.train.progress import TrainingStopped, explain_lost_rank

STRATEGIES = ("ddp", "fsdp")
_T = TypeVar("_T")
_FAILED_GROUPS: list[Any] = []
"""Process groups of failed runs, kept until the process ends. Otherwise the model would free the last reference, and
the destructor waits for a thread that may wait for the interpreter's lock.
"""


@dataclass(frozen=True)
class World:
    """The ranks of a run, and which one this process is.

    Attributes:
        rank: the rank of this process, from 0.
        size: number of ranks.
        device: the device that this rank computes on.
        strategy: "ddp" (every rank holds the whole model) or "fsdp" (each rank holds a part of it).
    """

    rank: int
    size: int
    device: torch.device
    strategy: str

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and messages."""
        return self.rank == 0

    @property
    def is_sharded(self) -> bool:
        """Whether the model is sharded over several ranks."""
        return self.size > 1 and self.strategy == "fsdp"

    def all_reduce_sum(self, *values: float) -> list[float]:
        """Returns the sum of each value over all ranks."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def all_gather(self, value: Any) -> list[Any]:
        """The `value` of every rank, in order of the ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def run_on_all_ranks(self, fn: Callable[[], _T]) -> _T:
        """Runs `fn` on every rank, and waits for all ranks. If it fails on any rank, that error is raised on all.

        `fn` must not communicate with other ranks.
        """
        if self.size == 1:
            return fn()
        results: list[_T] = []
        error: Exception | None = None
        try:
            results.append(fn())
        except Exception as caught:
            error = caught
        failed = next((other for other in self.all_gather(_picklable(error)) if other is not None), None)
        if failed is not None:
            raise failed from error
        return results[0]

    def run_on_main(self, fn: Callable[[], object]) -> None:
        """Runs `fn` on rank 0 while the others wait. If it fails, its error is raised on all ranks."""
        self.run_on_all_ranks(lambda: fn() if self.is_main else None)

    def wrap(self, objective: Objective, *, compile: bool = False) -> nn.Module:
        """The module to call for the loss: `objective` itself, or a wrapper that keeps gradients equal on all ranks.

        With `compile`, it is compiled as a whole. A sharded model is compiled block by block, because sharding
        separates its blocks.
        """
        blocks = [part for part in objective.model.modules() if isinstance(part, Block)]
        for part in (blocks if self.is_sharded else [objective]) if compile else ():
            part.compile(fullgraph=True)
        if self.size == 1:
            return objective
        if self.is_sharded:
            from torch.distributed.fsdp import fully_shard

            for part in blocks:
                fully_shard(part)
            fully_shard(objective)  # in place
            return objective
        ids = [self.device.index] if self.device.type == "cuda" else None
        # buffers hold the mean and standard deviation of the data, which never change
        ddp: Any = nn.parallel.DistributedDataParallel
        known = inspect.signature(ddp).parameters  # PyTorch 2.13 renamed it, and warns of the former name
        option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        return ddp(objective, device_ids=ids, **{option: False})

    @contextlib.contextmanager
    def accumulating(self, module: nn.Module, *, last: bool) -> Iterator[None]:
        """A context for one micro-batch of a step: ranks exchange gradients in the `last` one only."""
        if self.size == 1:
            yield
        elif isinstance(module, nn.parallel.DistributedDataParallel):
            with contextlib.nullcontext() if last else module.no_sync():
                yield
        else:
            module.set_requires_gradient_sync(last)  # type: ignore[operator]  # of FSDPModule
            yield


def default_workers() -> int:
    """Number of processes that decode samples for each rank: one fewer than its share of the cores, at most 16."""
    return default_decode_workers(processes=int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def full_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor as a full tensor on each rank; other tensors unchanged."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _picklable(error: Exception | None) -> Exception | None:
    """The error; if it cannot be sent to other processes, a `RuntimeError` with its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _device_of_rank(name: str) -> torch.device:
    """The device that this rank computes on: if there are several GPUs, the one with the rank's local number.

    Raises:
        ValueError: there is no such device.
    """
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    device = find_device(automatic if name == "auto" else name)
    if device.type == "cuda" and ":" not in name:
        device = find_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


@contextlib.contextmanager
def open_world(device: str = "auto", strategy: str = "ddp") -> Iterator[World]:
    """A context with the ranks that `torchrun` started, or with this process alone.

    Raises:
        ValueError: an unknown device or strategy.
        TrainingStopped: another rank of the run ended.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"parallel is {strategy!r}; expected {', '.join(STRATEGIES)}")
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    own_device = _device_of_rank(device)
    if size == 1:
        yield World(rank, size, own_device, strategy)
        return
    started = not dist.is_initialized()
    atexit.register(_leave)  # now, because functions that are registered later are called before it
    if started:
        on_gpu = own_device.type == "cuda"
        dist.init_process_group("nccl" if on_gpu else "gloo", device_id=own_device if on_gpu else None)
    group = dist.group.WORLD
    try:
        yield World(rank, size, own_device, strategy)
    except BaseException as error:
        _FAILED_GROUPS.append(group)
        reason = explain_lost_rank(error) if isinstance(error, RuntimeError) else None
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
    if _FAILED_GROUPS:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
