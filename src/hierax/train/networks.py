"""Opens networks as functions: ONNX files and programs of `torch.export`.

The input of a network may need a fixed number of images, channels as the last axis, or another floating-point dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hierax.extras import require
from hierax.telemetry import import_onnxruntime

SUFFIXES = (".onnx", ".pt2")
OTHERS = (".xml",)
"""Suffixes of networks that are not supported."""
Run = Callable[[Tensor], Mapping[str, Tensor]]
"""A function that takes pixels `[B, C, *size]` and returns outputs by name."""
_COLORS = (1, 3)
_TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64}


@dataclass(frozen=True)
class _Input:
    """The input of a network: images per call and pixels per axis (None: any), dtype, and axis of the channels."""

    batch: int | None
    size: tuple[int, ...] | None
    dtype: torch.dtype
    channels_last: bool

    @classmethod
    def of(cls, shape: Sequence[Any], dtype: torch.dtype) -> _Input:
        last = len(shape) > 3 and shape[-1] in _COLORS and shape[1] not in _COLORS
        sides = tuple(shape[1:-1] if last else shape[2:])
        fixed = sides if sides and all(isinstance(side, int) for side in sides) else None
        return cls(shape[0] if shape and isinstance(shape[0], int) else None, fixed, dtype, last)

    def adapt(self, call: Run) -> Run:
        """A function that takes any number of images `[B, C, *size]` in float32, and converts them for the network."""

        def run(pixels: Tensor) -> Mapping[str, Tensor]:
            step, count = self.batch or max(len(pixels), 1), len(pixels)
            parts: list[Mapping[str, Tensor]] = []
            for first in range(0, max(count, 1), step):
                part = pixels[first : first + step].to(self.dtype)
                part = F.pad(part, (0, 0) * (part.ndim - 1) + (0, step - len(part)))
                parts.append(call(part.movedim(1, -1).contiguous() if self.channels_last else part))
            rows = [name for name, tensor in parts[0].items() if tensor.ndim and len(tensor) == step]
            return {name: torch.cat([part[name] for part in parts])[:count] for name in rows}

        return run


def open_network(path: Path, device: torch.device) -> tuple[Run, tuple[int, ...] | None]:
    """A function that takes pixels `[B, C, *size]`, and the fixed size of the network, or None.

    Raises:
        ValueError: the file is damaged, or its input is not pixels; the message names it.
        ImportError: onnxruntime is missing; the message names the extra.
    """
    call, entry = (_onnx if path.suffix == ".onnx" else _program)(path, device)
    return entry.adapt(call), entry.size


def _onnx(path: Path, device: torch.device) -> tuple[Run, _Input]:
    require("a teacher in ONNX", "onnxruntime")
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # threads that spin while they wait for the next batch would use the cores of the student
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    offered = onnxruntime.get_available_providers()
    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    providers = [name for name in (*wanted, "CPUExecutionProvider") if name in offered]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # the errors of the runtime have no common base class
        raise ValueError(f"{path}: cannot be opened: {str(error).splitlines()[0]:.200}") from None
    _check_one(path, len(session.get_inputs()))
    entry, names = session.get_inputs()[0], [output.name for output in session.get_outputs()]
    if entry.type not in _TYPES:
        raise ValueError(f"{path}: its input is {entry.type}; expected pixels, of {', '.join(_TYPES)}")

    def call(pixels: Tensor) -> Mapping[str, Tensor]:
        try:
            found = session.run(names, {entry.name: pixels.cpu().numpy()})
        except Exception as error:
            raise RuntimeError(str(error).splitlines()[0]) from None
        return {name: torch.from_numpy(array).to(device) for name, array in zip(names, found, strict=True)}

    return call, _Input.of(entry.shape, _TYPES[entry.type])


def _program(path: Path, device: torch.device) -> tuple[Run, _Input]:
    try:
        program = torch.export.load(path)
    except Exception as error:  # a damaged archive can fail in any way
        raise ValueError(f"{path}: not a program of torch.export ({str(error).splitlines()[0]:.200})") from None
    module, inputs = program.module().to(device), list(program.graph_signature.user_inputs)
    _check_one(path, len(inputs))
    value = next((node.meta.get("val") for node in program.graph.nodes if node.name == inputs[0]), None)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ValueError(f"{path}: its input is {getattr(value, 'dtype', value)}; expected floating-point pixels")

    def call(pixels: Tensor) -> Mapping[str, Tensor]:
        found = module(pixels)
        if isinstance(found, Mapping):
            return {str(name): tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
        if isinstance(found, Tensor):
            return {"output": found}
        known = ("logits", "features")  # names for the elements of a tuple
        return {(known[i] if i < 2 else f"output {i}"): t for i, t in enumerate(found) if isinstance(t, Tensor)}

    return call, _Input.of(list(value.shape), value.dtype)


def _check_one(path: Path, inputs: int) -> None:
    if inputs != 1:
        raise ValueError(f"{path}: takes {inputs} inputs; expected one, for pixels")
