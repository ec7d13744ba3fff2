"""Running on PyTorch: eagerly, through `torch.compile`, and on CUDA as captured graphs."""

from __future__ import annotations

import contextlib
import logging
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hierax.engine.fold import fold
from hierax.engine.hardware import DTYPES
from hierax.engine.memory import release
from hierax.engine.pool import Runner, Shape
from hierax.engine.program import Program, Signature
from hierax.engine.staging import Staging
from hierax.positions import PositionEmbedding
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
        before = _process_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def renew_lock() -> None:
    """In a forked child: whoever held the lock is not there."""
    global _threads_lock
    _threads_lock = threading.Lock()


def _process_threads() -> int:
    """The number that new threads get. One that began while another engine had set its own still has that one's."""
    found: list[int] = []
    asking = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    asking.start()
    asking.join()
    return found[0]


@contextlib.contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Without gradients, whatever modes the caller is in: no autocast, and tensors that may later be trained on."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


class Turns:
    """Calls on one device, each after the one before, also where callers are on streams of their own.

    Calls share what graphs read and write, and cached tables: kernels of one must not overlap those of the next. On
    other devices than CUDA there is nothing to wait for.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._last: Any = None

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """`undisturbed`, on the device, after what was asked for before."""
        with undisturbed(self.device):
            if self.device.type != "cuda":
                yield
                return
            with torch.cuda.device(self.device):
                if self._last is None:
                    self._last = torch.cuda.Event()
                self._last.wait()
                try:
                    yield
                finally:
                    self._last.record()


class TorchRunner:
    """A program called as it is, on what `staging` puts on the device."""

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
    """A runner whose memory is given back after every call: that of ever other sizes would add up."""

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
    """A program captured as a CUDA graph for one shape: one launch a call, inputs copied into the graph's own.

    A graph holds addresses, not tensors. Everything it reads lives as long as it does: its inputs, the program's
    weights, and `tables` (called after the capture), which the program keeps for a few sizes only.
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
        with turns(), torch.cuda.stream(torch.cuda.current_stream()):  # what a failed capture leaves is put right
            warm, capture = torch.cuda.Stream(), torch.cuda.Stream()
            warm.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(warm):
                for _ in range(3):  # lazy initialization and choices of kernels must not be captured
                    program(pixels, kept)
            torch.cuda.current_stream().wait_stream(warm)
            # a capture that only minds this thread: others may go on to allocate
            with torch.cuda.graph(self._graph, stream=capture, capture_error_mode="thread_local"):
                self._outputs = program(pixels, kept)
        self._tables = tables()

    def __call__(self, pixels: Tensor, kept: Tensor | None) -> list[Tensor]:
        """See `Runner`."""
        with self._turns():
            self._pixels.copy_(self._staging(pixels, self._pixels.dtype))  # the graph's has its own strides
            if self._kept is not None and kept is not None:
                self._kept.copy_(self._staging(kept))
            self._graph.replay()
            return [out.clone() for out in self._outputs]

    def close(self) -> None:
        """See `Runner`."""
        torch.cuda.synchronize(self._turns.device)  # the last replay still reads and writes what is given back here
        self._graph.reset()
        del self._graph, self._outputs, self._pixels, self._kept, self._tables, self._program


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
        self.device, self.dtype = device, DTYPES[precision]
        self.threads = threads if device.type == "cpu" else None
        self._channels, self._compiler, self._graphs = model.config.num_channels, compiler, device.type == "cuda"
        self.batched = compiler or self._graphs
        self._staging, self._turns = Staging(device), Turns(device)
        with undisturbed(device):
            folded = fold(model).to(device, self.dtype)
            if self._graphs and model.config.axes == 2:
                embed: Any = folded.get_submodule("encoder.patch_embed")
                embed.to(memory_format=torch.channels_last)
            self._program: Any = Program(folded, signature).eval()

    def eager(self, shape: Shape) -> Runner:
        """The runner of all shapes, nothing compiled."""
        return self._runner(self._program)

    def runner(self, shape: Shape) -> Runner:
        """A runner for one shape, compiled where that was asked for."""
        program = compiled(self._program) if self._compiler else self._program
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
        except RuntimeError as error:  # memory for one, which a graph keeps to itself
            _log.warning("no CUDA graph for %s, which runs without: %s", shape, str(error).splitlines()[0])
            return self._runner(program)

    def _runner(self, program: Callable[..., tuple[Tensor, ...]]) -> Runner:
        return TorchRunner(program, self._staging, self._turns, dtype=self.dtype, threads=self.threads)

    def _tables(self) -> list[Any]:
        """The position embeddings that the program holds for sizes seen lately."""
        parts = [part for part in self._program.modules() if isinstance(part, PositionEmbedding)]
        return [kept for part in parts for kept in part._kept.values()]

    def close(self) -> None:
        """Gives back the weights."""
        self._program = None


def compiled(program: nn.Module) -> Callable[..., tuple[Tensor, ...]]:
    """`program` through `torch.compile`, for one shape, as code of its own.

    PyTorch counts what it compiled by code object, over all models of the process: with one for all shapes, the ninth
    would be an error, and nothing that was compiled would ever be freed.
    """

    def call(pixels: Tensor, kept: Tensor | None = None) -> tuple[Tensor, ...]:
        return program(pixels, kept)

    own = types.FunctionType(call.__code__.replace(), call.__globals__, "call", call.__defaults__, call.__closure__)
    return torch.compile(own, fullgraph=True, dynamic=False)
