"""The formats of exports: functions that write each format, and that read it with its own runtime."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hierax.engine.backends.onnx import OnnxRunner, data_file, only_outputs, save_onnx, to_onnx
from hierax.engine.backends.openvino import OpenVinoRunner, shared_core, to_openvino
from hierax.engine.context import inference_modes, torch_threads
from hierax.engine.hardware import DTYPES
from hierax.engine.pool import Runner, Shape
from hierax.engine.quantize import Inputs, quantize
from hierax.engine.signature import Program, Signature
from hierax.engine.traced import example_inputs, exported_program, for_size, program_for, quiet
from hierax.extras import require
from hierax.model.pretrained import Pretrained
from hierax.model.tasks import HieraBackbone
from hierax.telemetry import import_openvino


@dataclass(frozen=True)
class Job:
    """The request for an export.

    Attributes:
        model: in float32 on the CPU.
        size: pixels per axis.
        batch: images per call, or None for any number.
        kept: visible mask units, for an MAE model.
        calibration: a function that makes the inputs for calibrating int8, each with `batch` images (None: one).
        tell: a function that is called with the text of the next step and the finished share of the export.
    """

    model: Pretrained
    size: tuple[int, ...]
    batch: int | None
    kept: int | None
    precision: str
    calibration: Callable[[], Inputs]
    tell: Callable[[str, float], None]

    @cached_property
    def signature(self) -> Signature:
        """Inputs and outputs of the exported file."""
        return Signature.of(self.model)

    @cached_property
    def with_maps(self) -> Signature:
        """The signature with the maps of all stages; a backbone's outputs are maps already."""
        return Signature.of(self.model, hidden_states=not isinstance(self.model, HieraBackbone))

    def example(self, program: Program) -> tuple[Tensor, ...]:
        """Example inputs to trace `program` with."""
        return example_inputs(program, Shape(self.size, None, self.kept), self.batch or 2)


def write_pt2(job: Job, path: Path, mapped: Path) -> None:
    """Two graphs of `torch.export`, with and without maps, because outputs cannot be removed from a written graph."""
    for target, signature in ((path, job.signature), (mapped, job.with_maps)):
        job.tell("tracing the model", 0.1 if target == path else 0.3)
        program = program_for(job.model, job.size, signature, dtype=DTYPES[job.precision])
        traced = exported_program(program, job.example(program), dynamic=job.batch is None)
        with quiet():
            torch.export.save(traced, target)


def write_onnx(job: Job, path: Path, mapped: Path) -> None:
    """One graph, written with the maps of all stages and without."""
    dtype = DTYPES.get(job.precision, torch.float32)
    job.tell("tracing the model", 0.1)
    program = program_for(job.model, job.size, job.with_maps, dtype=dtype)
    proto = to_onnx(program, job.example(program), dynamic=job.batch is None)
    if job.precision == "int8":
        job.tell("calibrating int8", 0.2)
        proto = quantize(proto, job.calibration())
    job.tell("writing the file", 0.4)
    apart = save_onnx(proto, mapped)
    only_outputs(proto, job.signature.outputs)
    if not apart:
        save_onnx(proto, path)
        return
    # both graphs name the same file of weights, each in its own folder
    path.write_bytes(proto.SerializeToString())
    link_or_copy(data_file(mapped), data_file(path))


def link_or_copy(source: Path, target: Path) -> None:
    """Gives a file a second name; copies it if the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_openvino(job: Job, path: Path, mapped: Path) -> None:
    """One graph, written with the maps of all stages and without.

    Weights are in float32, or in fp16 if requested; a setting of OpenVINO's CPU plugin decides the precision of
    computing.
    """
    ov = import_openvino()

    program = Program(for_size(job.model, job.size, folded=False), job.with_maps).eval()
    example = job.example(program)
    job.tell("tracing the model", 0.1)
    model = to_openvino(program, example)
    if job.batch is not None:
        model.reshape({i: list(tensor.shape) for i, tensor in enumerate(example)})
    if job.precision == "int8":
        job.tell("calibrating int8", 0.2)
        model = quantize(model, job.calibration())
    job.tell("writing the file", 0.4)
    wanted = [r for r, name in zip(model.get_results(), job.with_maps.outputs, strict=True) if name in job.signature.outputs]  # noqa: E501  # fmt: skip
    make: Any = ov.Model  # its type stubs contradict each other
    for part, target in ((model, mapped), (make(wanted, model.get_parameters(), "hierax"), path)):
        ov.save_model(part, target, compress_to_fp16=job.precision == "fp16")


class Pt2Runner:
    """A ".pt2" file on PyTorch."""

    def __init__(self, path: Path, *, threads: int | None) -> None:
        with quiet():
            self._program: Any = torch.export.load(path).module()
        self._threads = threads

    def __call__(self, pixels: Tensor, kept: Tensor | None) -> list[Tensor]:
        """See `Runner`."""
        inputs = [part.detach().cpu().contiguous() for part in (pixels, kept) if part is not None]
        with torch_threads(self._threads), inference_modes(torch.device("cpu")):
            return list(self._program(*inputs))

    def close(self) -> None:
        """See `Runner`."""
        del self._program


class FixedBatch:
    """A runner for any number of images, which cuts them into batches of `batch` and pads the last one."""

    def __init__(self, runner: Runner, batch: int) -> None:
        self._runner, self._batch = runner, batch

    def __call__(self, pixels: Tensor, kept: Tensor | None) -> list[Tensor]:
        """See `Runner`."""
        numbers = torch.arange(-(-len(pixels) // self._batch) * self._batch).clamp(max=len(pixels) - 1)
        parts = [
            self._runner(pixels[part], None if kept is None else kept[part]) for part in numbers.split(self._batch)
        ]
        return [torch.cat(tensors)[: len(pixels)] for tensors in zip(*parts, strict=True)]

    def close(self) -> None:
        """See `Runner`."""
        self._runner.close()


def _read_pt2(path: Path, precision: str, threads: int | None, batch: int | None) -> Runner:
    return Pt2Runner(path, threads=threads)


def _read_onnx(path: Path, precision: str, threads: int | None, batch: int | None) -> Runner:
    return OnnxRunner(path, threads=threads)


def _read_openvino(path: Path, precision: str, threads: int | None, batch: int | None) -> Runner:
    # weights in fp16 become float32 when they are read
    hint = "fp32" if precision == "fp16" else precision
    threads = threads or torch.get_num_threads()
    return OpenVinoRunner(shared_core().read_model(path), precision=hint, threads=threads, batch=batch)


@dataclass(frozen=True)
class Format:
    """One format: its file, its backend, and the precisions that it lacks.

    Attributes:
        file: name of the file in an export's folder; the names of its other files begin with its stem.
        backend: the engine's backend that runs it.
        refused: precisions it does not have, each with the reason.
        writes, reads: optional packages that exporting and running need.
    """

    file: str
    backend: str
    refused: Mapping[str, str]
    writes: tuple[str, ...]
    reads: tuple[str, ...]
    write: Callable[[Job, Path, Path], None]
    read: Callable[[Path, str, int | None, int | None], Runner]


FORMATS: Mapping[str, Format] = {
    "pt2": Format(
        "model.pt2", "torch", {"int8": "its graph is not quantized; openvino and onnx are"},
        (), (), write_pt2, _read_pt2,
    ),
    "onnx": Format(
        "model.onnx", "onnxruntime", {"bf16": "ONNX Runtime has no bf16 convolution for a CPU; use fp16 or fp32"},
        ("onnx", "onnxscript", "onnxruntime"), ("onnxruntime",), write_onnx, _read_onnx,
    ),
    "openvino": Format(
        "openvino_model.xml", "openvino", {}, ("openvino",), ("openvino",), write_openvino, _read_openvino,
    ),
}  # fmt: skip


def open_runner(format: str, path: Path, *, precision: str, threads: int | None, batch: int | None) -> Runner:
    """The runner of an exported file, for any number of images.

    Raises:
        ImportError: its runtime is missing; the message names the extra.
        ValueError: the file cannot be read; the message names it.
    """
    kind = FORMATS[format]
    require(path.name, *kind.reads)
    try:
        runner = kind.read(path, precision, threads, batch)
    except Exception as error:  # each runtime has its own errors
        raise ValueError(f"{path}: cannot be read ({str(error).strip().splitlines()[0]})") from error
    return runner if batch is None else FixedBatch(runner, batch)
