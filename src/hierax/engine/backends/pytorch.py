"""The backend PyTorch: eager, with `torch.compile`, and on CUDA with captured graphs."""

from __future__ import annotations

import logging
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hierax.engine.context import Turns, inference_modes, torch_threads
from hierax.engine.fold import fold
from hierax.engine.hardware import DTYPES
from hierax.engine.memory import release
from hierax.engine.pool import Runner, Shape
from hierax.engine.signature import Program, Signature
from hierax.engine.staging import Staging
from hierax.model.positions import PositionEmbedding
from hierax.model.pretrained import Pretrained

_log = logging.getLogger("hierax.engine")


class TorchRunner:
    """Calls a program directly, on tensors that `staging` puts on the device."""

    def __init__(
        self,
        program: Callable[..., tuple[Tensor, ...]],
        staging: Staging,
        turns: Turns,
        *,
        dtype: torch.dtype,
        threads: int | None,
    ) -> None:
        self._program, self._staging, self._turns = program, staging, turns
        self._dtype, self._threads = dtype, threads

    def __call__(self, pixels: Tensor, kept: Tensor | None) -> list[Tensor]:
        """See `Runner`."""
        with torch_threads(self._threads), self._turns():
            moved = self._staging(pixels, self._dtype)
            return list(self._program(moved, None if kept is None else self._staging(kept)))

    def close(self) -> None:
        """See `Runner`."""
        del self._program


class SeldomRunner:
    """A runner that frees memory after every call, because the memory of many different sizes would add up."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def __call__(self, pixels: Tensor, kept: Tensor | None) -> list[Tensor]:
        """See `Runner`."""
        try:
            return self._runner(pixels, kept)
        finally:
            release()

    def close(self) -> None:
        """See `Runner`."""
        self._runner.close()


class GraphRunner:
    """A program captured as a CUDA graph for one shape: one launch per call; inputs are copied into the graph's inputs.

    A graph holds addresses, not tensors. So the runner references everything that the graph reads: its inputs, the
    program's weights, and `tables` (called after the capture), which the program caches for only a few sizes.
    """

    def __init__(
        self,
        program: Callable[..., tuple[Tensor, ...]],
        staging: Staging,
        turns: Turns,
        *,
        pixels: Tensor,
        kept: Tensor | None,
        tables: Callable[[], list[Any]],
    ) -> None:
        self._program, self._staging, self._turns = program, staging, turns
        self._pixels, self._kept = pixels, kept
        self._graph = torch.cuda.CUDAGraph()
        with turns(), torch.cuda.stream(torch.cuda.current_stream()):  # restores the state after a failed capture
            warm, capture = torch.cuda.Stream(), torch.cuda.Stream()
            warm.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(warm):
                for _ in range(3):  # lazy initialization and the choice of kernels must not be captured
                    program(pixels, kept)
            torch.cuda.current_stream().wait_stream(warm)
            # the capture concerns only this thread: others may still allocate
            with torch.cuda.graph(self._graph, stream=capture, capture_error_mode="thread_local"):
                self._outputs = program(pixels, kept)
        self._tables = tables()

    def __call__(self, pixels: Tensor, kept: Tensor | None) -> list[Tensor]:
        """See `Runner`."""
        with self._turns():
            self._pixels.copy_(self._staging(pixels, self._pixels.dtype))  # the graph's input has its own strides
            if self._kept is not None and kept is not None:
                self._kept.copy_(self._staging(kept))
            self._graph.replay()
            return [out.clone() for out in self._outputs]

    def close(self) -> None:
        """See `Runner`."""
        torch.cuda.synchronize(self._turns.device)  # the last replay may still use the memory that is freed here
        self._graph.reset()
        del self._graph, self._outputs, self._pixels, self._kept, self._tables, self._program


class TorchBackend:
    """PyTorch on any device: eager, or per shape with `torch.compile` or CUDA graphs.

    Attributes:
        batched: whether a runner is for one number of images only.
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
        self.device, self.dtype = device, DTYPES[precision]
        self.threads = threads if device.type == "cpu" else None
        self._channels, self._compiler, self._graphs = model.config.num_channels, compiler, device.type == "cuda"
        self.batched = compiler or self._graphs
        self._staging, self._turns = Staging(device), Turns(device)
        with inference_modes(device):
            folded = fold(model).to(device, self.dtype)
            if self._graphs and model.config.axes == 2:
                embed: Any = folded.get_submodule("encoder.patch_embed")
                embed.to(memory_format=torch.channels_last)
            self._program: Any = Program(folded, signature).eval()

    def eager(self, shape: Shape) -> Runner:
        """The runner for all shapes, without compilation."""
        return self._runner(self._program)

    def runner(self, shape: Shape) -> Runner:
        """A runner for one shape, compiled if requested."""
        program = compile_program(self._program) if self._compiler else self._program
        if not self._graphs:
            return self._runner(program)
        assert shape.batch is not None
        with torch.inference_mode(False):
            pixels = torch.zeros(shape.batch, self._channels, *shape.size, device=self.device, dtype=self.dtype)
            if len(shape.size) == 2:
                pixels = pixels.to(memory_format=torch.channels_last)
            kept = None
            if shape.kept is not None:
                kept = torch.arange(shape.kept, device=self.device).repeat(shape.batch, 1)
        try:
            return GraphRunner(program, self._staging, self._turns, pixels=pixels, kept=kept, tables=self._tables)
        except RuntimeError as error:  # memory for one more batch, which a graph keeps
            _log.warning("no CUDA graph for %s, so it runs without one: %s", shape, str(error).splitlines()[0])
            return self._runner(program)

    def _runner(self, program: Callable[..., tuple[Tensor, ...]]) -> Runner:
        return TorchRunner(program, self._staging, self._turns, dtype=self.dtype, threads=self.threads)

    def _tables(self) -> list[Any]:
        """The position embeddings that the program has cached for recent sizes."""
        parts = [part for part in self._program.modules() if isinstance(part, PositionEmbedding)]
        return [kept for part in parts for kept in part.cached.values()]

    def close(self) -> None:
        """Frees the weights."""
        self._program = None


def compile_program(program: nn.Module) -> Callable[..., tuple[Tensor, ...]]:
    """`program` compiled by `torch.compile` for one shape, with a code object of its own.

    PyTorch counts compilations by code object, over all models of the process. With one code object for all shapes, the
    ninth compilation would be an error, and compiled code would never be freed.
    """

    def call(pixels: Tensor, kept: Tensor | None = None) -> tuple[Tensor, ...]:
        return program(pixels, kept)

    own = types.FunctionType(call.__code__.replace(), call.__globals__, "call", call.__defaults__, call.__closure__)
    return torch.compile(own, fullgraph=True, dynamic=False)
