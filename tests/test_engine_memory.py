"""Memory that runs out is a MemoryError, whichever library notices it; never fewer rows than were asked for."""

from __future__ import annotations

import errno
from typing import Any

import numpy as np
import pytest
import torch

from engines import tiny
from hierax.engine import Engine
from hierax.engine.memory import check_outputs, is_out_of_memory, memory_errors
from small import pixels

LIBRARIES = [
    RuntimeError("std::bad_alloc"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried …"),
    RuntimeError("could not create a memory object"),
    RuntimeError("unable to mmap 1024 bytes from file <model.pt>: Cannot allocate memory (12)"),
    RuntimeError("can't start new thread"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError("Failed to serialize proto"),
    MemoryError(),
]


@pytest.mark.parametrize("error", LIBRARIES, ids=lambda error: str(error)[:20])
def test_it_is_known_however_a_library_says_it(error: Exception) -> None:
    assert is_out_of_memory(error)


def test_it_is_known_behind_the_error_that_followed_from_it() -> None:
    error = ValueError("model.onnx: cannot be read")
    error.__cause__ = RuntimeError("bad allocation")
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("memory: no such field"), OSError(2, "x")])
def test_other_errors_are_none_of_it(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_it_is_raised_with_what_was_done_and_the_reason() -> None:
    wanted = r"^out of memory while running 2 inputs \(std::bad_alloc\)$"
    with pytest.raises(MemoryError, match=wanted), memory_errors("running 2 inputs"):
        raise RuntimeError("std::bad_alloc")


def test_a_gpu_that_is_full_keeps_the_error_that_callers_know() -> None:
    with pytest.raises(torch.OutOfMemoryError), memory_errors("running"):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([(0, 320)], r"out of memory: X returned \[0, 320\]; expected \[1, 320\]"),
        ([], r"returned nothing; expected \[1, 320\]"),
        ([(1, 0)], r"returned \[1, 0\]"),
        ([(1, 320), (1, 320)], "returned"),
        ([(1, 320, 1)], "returned"),
    ],
)
def test_outputs_of_other_shapes_than_stated_are_an_error(found: Any, message: str) -> None:
    with pytest.raises(MemoryError, match=message):
        check_outputs(found, [[1, 320]], by="X")
    check_outputs([(1, 320)], [[1, None]], by="X")


@pytest.mark.parametrize("batch", [1, 5])
def test_an_engine_says_so_when_openvino_returns_no_rows(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does where memory is short, without an error."""
    model = tiny("features")
    with Engine(model, backend="openvino", precision="fp32", threads=2, cache_dir=False) as engine:
        engine(pixels(model.config, batch))
        runner: Any = engine._pool.get(engine._pool.shapes[0])
        none = [np.zeros((0, 64), np.float32), np.zeros((0, 4, 64), np.float32)]
        monkeypatch.setattr(runner, "_alone", lambda inputs: none)
        monkeypatch.setattr(runner, "_shared_out", lambda inputs, starts, step: [none for _ in starts])
        with pytest.raises(MemoryError, match=r"out of memory: OpenVINO returned \[0, 64\]"):
            engine(pixels(model.config, batch))


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_an_engine_counts_the_rows_of_every_backend(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("features")
    with Engine(model, backend=backend, precision="fp32", threads=1, cache_dir=False) as engine:
        short: Any = lambda x, kept: [torch.zeros(2, 64), torch.zeros(2, 4, 64)]  # noqa: E731
        monkeypatch.setattr(engine._pool, "get", lambda shape, at_once: short)
        with pytest.raises(MemoryError, match=f"the backend '{backend}' returned"):
            engine(pixels(model.config, 3))
