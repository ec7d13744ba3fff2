"""Copies from ordinary memory to a CUDA device, through two pinned buffers in turn."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor


class Staging:
    """Puts tensors on a device, in another dtype if requested; on CUDA, the CPU continues during the copy.

    A copy from pageable memory is slower and makes the CPU wait. So the tensor is first written, in its new dtype, into
    one of two pinned buffers, which grow to the largest tensor. An event shows when a buffer has been read. Until then
    it is not written again, so a caller that is faster than the device waits here, at most two tensors ahead. On
    other devices, this is `Tensor.to`. Pinned tensors are copied directly: their owner must wait for the result before
    writing to them again. Thread-safe.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._lock = threading.Lock()
        self._buffers: list[Tensor | None] = [None, None]
        self._read: list[Any] = [None, None]
        self._next = 0

    def __call__(self, tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """`tensor` on the device, in `dtype` (None: its own)."""
        dtype = dtype or tensor.dtype
        if self.device.type != "cuda":
            return tensor.to(self.device, dtype)
        if tensor.device.type != "cpu" or tensor.is_pinned():
            return tensor.to(self.device, non_blocking=True).to(dtype)
        with self._lock, torch.cuda.device(self.device):
            turn, self._next = self._next, 1 - self._next
            pinned = self._buffer(turn, tensor.numel() * dtype.itemsize).view(dtype).view(tensor.shape)
            pinned.copy_(tensor)
            moved = pinned.to(self.device, non_blocking=True)
            event = self._read[turn] = self._read[turn] or torch.cuda.Event()
            event.record()  # on the stream of the copies
            return moved

    def _buffer(self, turn: int, count: int) -> Tensor:
        """`count` bytes of a buffer that the device has finished reading."""
        if self._read[turn] is not None:
            self._read[turn].synchronize()
        buffer = self._buffers[turn]
        if buffer is None or buffer.numel() < count:
            self._buffers[turn] = None  # freed before the larger one is allocated
            buffer = self._buffers[turn] = _pinned(count)
        return buffer[:count]


def _pinned(count: int) -> Tensor:
    with torch.inference_mode(False):  # used by later calls, too, which may be outside of the caller's inference mode
        return torch.empty(count, dtype=torch.uint8, pin_memory=True)
