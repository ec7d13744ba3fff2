"""Device, precision and backend on this machine: chooses the defaults, and checks requested values."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hierax import extras
from hierax.devices import find_device
from hierax.engine.forking import check_openvino, openvino_is_lost
from hierax.memory import FOR_OPENVINO, is_limited_to_less_than
from hierax.model.config import HieraConfig
from hierax.model.plan import plan

PRECISIONS = ("fp32", "bf16", "fp16", "int8")
BACKENDS = ("torch", "compile", "openvino", "onnxruntime")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_ALLOWED = {
    # precisions of each backend, on a CPU and elsewhere
    "torch": (("fp32", "bf16"), ("fp32", "bf16", "fp16")),
    "compile": (("fp32", "bf16"), ("fp32", "bf16", "fp16")),
    "openvino": (("fp32", "bf16", "int8"), ()),
    "onnxruntime": (("fp32", "int8"), ("fp32", "fp16")),
}
_PACKAGES = {"openvino": ("openvino",), "onnxruntime": ("onnxruntime", "onnx", "onnxscript")}
"""Optional packages that a backend needs for a checkpoint; an exported file needs fewer."""
_OPENING = 20e9
"""Multiply-accumulates after which another backend than PyTorch has saved the time that opening it takes (0.2 s)."""
_OPENING_PER_WEIGHT = 1000
"""The same for each weight, because the backend reads, digests and packs all weights."""
_AS_LONG_AS_DECODING = 1e9
"""Multiply-accumulates of a model that takes about as long as decoding a photo of a megapixel (10 ms)."""
_log = logging.getLogger("hierax.engine")


@dataclass(frozen=True)
class Choice:
    """The device, precision and backend of an engine."""

    device: torch.device
    precision: str
    backend: str


def _has_packages(backend: str) -> bool:
    return all(extras.is_installed(module) for module in _PACKAGES.get(backend, ()))


def fast_bf16() -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware."""
    # in this order: without oneDNN (macOS), PyTorch does not have the second function
    return torch.cpu._is_avx512_bf16_supported() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def choose(device: str | torch.device, precision: str, backend: str) -> Choice:
    """Resolves "auto" for this machine; checks the values that were requested by name.

    Raises:
        ValueError: a name is unknown, or the backend does not have the precision on the device.
        ImportError: the backend's package is missing; the message names the extra.
        RuntimeError: OpenVINO was requested in a forked child of a process that used it.
    """
    _one_of("precision", precision, PRECISIONS)
    _one_of("backend", backend, BACKENDS)
    place = torch.device("cpu") if device == "auto" and backend == "openvino" else find_device(device)
    if backend != "auto":
        extras.require(f"backend {backend!r}", *_PACKAGES.get(backend, ()))
        if backend == "openvino":
            check_openvino()
        if backend == "openvino" and place.type != "cpu":
            raise ValueError(f"backend is 'openvino', which runs on the CPU; device is {str(place)!r}")
    if precision == "auto":
        precision = _best_precision(place, backend)
    chosen = _best_backend(place, precision) if backend == "auto" else backend
    allowed = _ALLOWED[chosen][0 if place.type == "cpu" else 1]
    if precision not in allowed:
        raise ValueError(
            f"precision is {precision!r}; the backend {chosen!r} on {place.type} takes {', '.join(allowed)}"
        )
    return Choice(place, precision, chosen)


def backend_for(
    inputs: int, config: HieraConfig, *, backend: str, precision: str, size: Sequence[int] | None = None
) -> str:
    """The backend for a known number of inputs: "torch" for few inputs, if `backend` is "auto"; else `backend`.

    PyTorch is loaded anyway. Opening OpenVINO or ONNX Runtime takes 0.3 s for a small model and 0.9 s for hiera_base,
    also if the compiled model is in the cache. For a small amount of work that is more than these backends save. The
    limit is a compromise between bf16 and fp32: 85 images of femto, 11 of hiera_tiny and 8 of hiera_base, at their
    native sizes.

    Args:
        inputs: number of images or clips.
        precision: as requested. For int8 there is no choice, because PyTorch on a CPU does not have it.
        size: pixels of each input, the last axes or all of them; None: the native size.
    """
    if backend != "auto" or precision == "int8":
        return backend
    weights, products = _size_of(config, (*config.image_size[: -len(size)], *size) if size else config.image_size)
    if inputs * products > _OPENING + _OPENING_PER_WEIGHT * weights:
        return backend
    _log.info("the engine runs on PyTorch: opening another backend takes longer than %d inputs", inputs)
    return "torch"


def threads_beside(readers: int, config: HieraConfig, *, size: Sequence[int] | None = None) -> int | None:
    """CPU threads for a model on PyTorch while `readers` threads decode images; None is PyTorch's number.

    For a small model, decoding an image takes as long as the model. Then PyTorch's threads, which wait for each other
    after every operation, wait for the one that shares a core with a reader. On two cores, femto labeled 60 photos in
    1.51 s with one thread, and in 1.86 s with two.

    Args:
        size: pixels of each input, the last axes or all of them; None: the native size.
    """
    _, products = _size_of(config, (*config.image_size[: -len(size)], *size) if size else config.image_size)
    return max(torch.get_num_threads() - readers, 1) if products < _AS_LONG_AS_DECODING else None


def _size_of(config: HieraConfig, size: Sequence[int]) -> tuple[float, float]:
    """Number of weights of the encoder's blocks, and their multiply-accumulates for an input of `size` pixels."""
    tokens, pooling = math.prod(config.token_grid(size)), math.prod(config.query_stride)
    weights = products = 0.0
    for block in plan(config):
        own = 3 * block.dim * block.dim_out + (1 + 2 * config.mlp_ratio) * block.dim_out**2
        weights += own
        products += own * tokens / pooling ** config.pooled(block.stage)
    return weights, products


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value != "auto" and value not in allowed:
        raise ValueError(f"{name} is {value!r}; expected auto, {', '.join(allowed)}")


def _best_precision(place: torch.device, backend: str) -> str:
    if backend == "onnxruntime":
        return "fp32"
    if place.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if place.type == "cpu" and fast_bf16() else "fp32"


def _best_backend(place: torch.device, precision: str) -> str:
    if place.type != "cpu":
        return "torch"
    order = [name for name in ("openvino", "onnxruntime") if precision in _ALLOWED[name][0]]
    for name in order:
        if name == "openvino" and openvino_is_lost():
            _log.warning("OpenVINO was used before this process was forked: this engine runs without it")
            continue
        if name == "openvino" and precision != "int8" and is_limited_to_less_than(FOR_OPENVINO):
            _log.info("memory is limited (ulimit -v): the engine runs on PyTorch, which needs less than OpenVINO")
            return "torch"
        if _has_packages(name):
            return name
        _log.info("backend %s is not installed: %s", name, extras.install_line(*_PACKAGES[name]))
    if precision == "int8":
        check_openvino()
        extras.require("precision 'int8'", "openvino", "nncf")
    if not _has_packages("openvino"):
        _log.warning("the engine runs on PyTorch; OpenVINO is faster on a CPU: %s", extras.install_line("openvino"))
    return "torch"
