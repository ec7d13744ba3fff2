"""Running on PyTorch: eagerly, through `torch.compile`, and on CUDA as captured graphs."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hierax.engine.fold import fold
from hierax.engine.hardware import DTYPES
from hierax.engine.pool import Runner, Shape
from hierax.engine.program import Program, Signature
from hierax.pretrained import Pretrained

_log = logging.getLogger("hierax.engine")
_threads_lock = threading.Lock()


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """PyTorch's number of threads, which the whole process shares, for a while; None leaves it."""
    if count is None or count == torch.get_num_threads():
        yield
        return
    with _threads_lock:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


class TorchRunner:
    """A program called as it is: any size, any batch."""

    def __init__(self, program: nn.Module, device: torch.device, dtype: torch.dtype, threads: int | None) -> None:
        self.program, self.device, self.dtype, self.threads = program, device, dtype, threads

    def __call__(self, pixels: Tensor, kept: Tensor | None) -> list[Tensor]:
        """See `Runner`."""
        with torch_threads(self.threads), torch.inference_mode():
            moved = pixels.to(self.device, self.dtype, non_blocking=True)
            return list(self.program(moved, None if kept is None else kept.to(self.device)))

    def close(self) -> None:
        """See `Runner`."""
        del self.program


class GraphRunner:
    """A program captured as a CUDA graph for one shape: one launch a call, inputs copied into the graph's own."""

    def __init__(
        self, program: nn.Module, shape: Shape, channels: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        assert shape.batch is not None
        self.device = device
        self._pixels = torch.zeros(shape.batch, channels, *shape.size, device=device, dtype=dtype)
        if len(shape.size) == 2:
            self._pixels = self._pixels.to(memory_format=torch.channels_last)
        self._kept: Tensor | None = None
        if shape.kept is not None:
            self._kept = torch.arange(shape.kept, device=device).repeat(shape.batch, 1)
        self._graph = torch.cuda.CUDAGraph()
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side), torch.inference_mode():
            for _ in range(3):  # lazy initialisation and choices of kernels must not be captured
                program(self._pixels, self._kept)
        torch.cuda.current_stream(device).wait_stream(side)
        with torch.inference_mode(), torch.cuda.graph(self._graph):
            self._outputs: tuple[Tensor, ...] = program(self._pixels, self._kept)

    def __call__(self, pixels: Tensor, kept: Tensor | None) -> list[Tensor]:
        """See `Runner`."""
        with torch.inference_mode():
            self._pixels.copy_(pixels, non_blocking=True)
            if self._kept is not None and kept is not None:
                self._kept.copy_(kept, non_blocking=True)
            self._graph.replay()
            return [out.clone() for out in self._outputs]

    def close(self) -> None:
        """See `Runner`."""
        del self._graph, self._outputs, self._pixels


class TorchBackend:
    """PyTorch on any device: eagerly, and for one shape at a time through `torch.compile` and CUDA graphs.

    Attributes:
        batched: whether runners are made for one number of images each.
    """

    def __init__(
        self,
        model: Pretrained,
        signature: Signature,
        *,
        device: torch.device,
        precision: str,
        threads: int | None = None,
        compiler: bool = False,
    ) -> None:
        self.device, self.dtype, self.threads = device, DTYPES[precision], threads
        self._channels, self._compiler, self._graphs = model.config.num_channels, compiler, device.type == "cuda"
        self.batched = compiler or self._graphs
        folded = fold(model).to(device, self.dtype)
        if self._graphs and model.config.axes == 2:
            folded.get_submodule("encoder.patch_embed").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._program: Any = Program(folded, signature).eval()

    def eager(self, shape: Shape) -> Runner:
        """The runner of all shapes, nothing compiled."""
        return TorchRunner(self._program, self.device, self.dtype, self.threads)

    def runner(self, shape: Shape) -> Runner:
        """A runner for one shape, compiled where that was asked for."""
        program: Any = self._program
        if self._compiler:
            program = torch.compile(program, fullgraph=True, dynamic=False)
        if self._graphs:
            return GraphRunner(program, shape, self._channels, self.device, self.dtype)
        return TorchRunner(program, self.device, self.dtype, self.threads)

    def close(self) -> None:
        """Gives back the weights."""
        self._program = None
