"""Finds the device that a name means, and lists the devices of this machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_MEANT = {"gpu": "cuda", "nvidia": "cuda", "rocm": "cuda", "amd": "cuda", "metal": "mps", "apple": "mps"}


def find_device(name: str | torch.device) -> torch.device:
    """The device with this name. "auto" is CUDA or MPS if available, otherwise the CPU.

    Raises:
        ValueError: this machine has no such device; the message lists its devices, and says what to install.
    """
    import torch

    if str(name) == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        place = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(_problem(str(name))) from error
    if place.type == "meta":
        raise ValueError("device is 'meta', which holds no values; expected auto, cpu, cuda or mps")
    return place


def list_devices() -> list[str]:
    """The devices that PyTorch can use on this machine: "cpu", and "cuda:0", …, or "mps"."""
    import torch

    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


def missing_cuda() -> str | None:
    """One sentence that says why PyTorch has no CUDA device, and what to do. None if it has one."""
    import torch

    if torch.cuda.is_available():
        return None
    here = f"this PyTorch ({torch.__version__})"
    if torch.version.cuda is None and torch.version.hip is None:
        return f"{here} is built without CUDA; pip install --force-reinstall torch installs it (or see pytorch.org)"
    return f"{here} is built with CUDA, but no GPU or driver was found (see nvidia-smi)"


def _problem(name: str) -> str:
    here = f"device is {name!r}; this machine has {', '.join(list_devices())}"
    kind = name.partition(":")[0].lower()
    meant = _MEANT.get(kind, kind)
    if meant == "cuda":
        hint = "" if kind == "cuda" else " (PyTorch calls a GPU cuda)"
        reason = missing_cuda()
        return f"{here}{hint}" + (f"; {reason}" if reason else "")
    if meant == "mps":
        return f"{here}; mps is the GPU of an Apple computer"
    return f"{here}; expected auto, cpu, cuda, cuda:1 or mps"


def available_cores() -> int:
    """The number of CPU cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # only on Linux
    return len(allowed(0)) if allowed else os.cpu_count() or 1
