"""PyTorch's threads and devices, which several engines share."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

_threads_lock = threading.Lock()


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """A context with this number of PyTorch threads, which the whole process shares; None changes nothing."""
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
    """Makes a new lock in a forked child: the thread that held the old one does not exist there."""
    global _threads_lock
    _threads_lock = threading.Lock()


def _process_threads() -> int:
    """Gives this thread the number that new threads get. A thread that started while another engine had set its number
    still has that number.
    """
    found: list[int] = []
    asking = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    asking.start()
    asking.join()
    return found[0]


@contextlib.contextmanager
def inference_modes(device: torch.device) -> Iterator[None]:
    """Runs without gradients and autocast, whatever modes the caller has set. The outputs may be used in training."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


class Turns:
    """Runs the calls on one device one after another, even if callers use their own CUDA streams.

    Calls share the memory of graphs and cached tables, so the kernels of one call must not overlap those of the next.
    On other devices than CUDA, nothing waits.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._last: Any = None

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """A context for a call: `inference_modes` on the device, after all earlier calls have ended."""
        with inference_modes(self.device):
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
