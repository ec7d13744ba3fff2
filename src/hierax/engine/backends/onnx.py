"""The backend ONNX Runtime, and the ONNX graph that the backend and exports share."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hierax.engine.backends.chunks import CHUNK, join, to_arrays
from hierax.engine.cache import ArtifactCache, artifact_key
from hierax.engine.pool import Shape
from hierax.engine.quantize import Inputs, quantize_and_compare
from hierax.engine.signature import Program, Signature
from hierax.engine.traced import INPUTS, example_inputs, exported_program, program_for, quiet
from hierax.model.pretrained import Pretrained
from hierax.telemetry import import_onnxruntime

_log = logging.getLogger("hierax.engine")
_LARGEST = (2 << 30) - (64 << 20)  # bytes of weights in one file: protocol buffers are limited to 2 GiB


def to_onnx(program: Program, example: tuple[Tensor, ...], *, dynamic: bool = True) -> Any:
    """The program as an `onnx.ModelProto` at the sizes of `example`, for any number of images if `dynamic`."""
    traced = exported_program(program, example, dynamic=dynamic)
    with quiet("torch.onnx"):
        made = torch.onnx.export(
            traced,
            (),
            dynamo=True,
            verbose=False,
            input_names=list(INPUTS[: len(example)]),
            output_names=list(program.signature.outputs),
        )
    assert made is not None
    proto = made.model_proto
    del proto.graph.value_info[:]  # optional, and wrong after outputs are removed
    for node in proto.graph.node:  # the module of PyTorch that a node came from
        del node.metadata_props[:]
    for value in (*proto.graph.input, *proto.graph.output):
        for number, axis in enumerate(value.type.tensor_type.shape.dim):
            if number == 0 and axis.dim_param:
                axis.dim_param = "batch"
    return proto


def only_outputs(proto: Any, names: Sequence[str]) -> None:
    """Removes all other outputs of an `onnx.ModelProto`, and the nodes that only they needed."""
    graph = proto.graph
    for output in [output for output in graph.output if output.name not in names]:
        graph.output.remove(output)
    needed = set(names)
    for index in reversed(range(len(graph.node))):  # nodes are in the order in which they are computed
        if needed & set(graph.node[index].output):
            needed |= set(graph.node[index].input)
        else:
            del graph.node[index]
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in needed:
            del graph.initializer[index]


def fits_one_file(proto: Any) -> bool:
    """Whether an `onnx.ModelProto` with its weights stays below the limit of protocol buffers, 2 GiB."""
    return sum(len(tensor.raw_data) for tensor in proto.graph.initializer) < _LARGEST


def save_onnx(proto: Any, path: Path) -> bool:
    """Writes one file. If the model is too large for it, writes the weights to `NAME.data` beside it.

    Returns:
        Whether the weights are in a separate file. If so, the `onnx.ModelProto` no longer holds them: it names that
            file.
    """
    import onnx

    if fits_one_file(proto):
        onnx.save_model(proto, path)
        return False
    onnx.save_model(proto, path, save_as_external_data=True, location=data_file(path).name, size_threshold=1024)
    return True


def data_file(path: Path) -> Path:
    """Path of the weights of an ONNX file, if they are in a separate file."""
    return path.with_name(f"{path.name}.data")


class OnnxRunner:
    """A session of ONNX Runtime on the CPU, from a file or from the bytes of one."""

    def __init__(self, model: Path | bytes, *, threads: int | None) -> None:
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 4  # errors are raised as exceptions, so they need not be logged
        source = str(model) if isinstance(model, Path) else model
        self._session: Any = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        self._inputs = [entry.name for entry in self._session.get_inputs()]
        batch = self._session.get_inputs()[0].shape[0]
        self._chunk = batch if isinstance(batch, int) else CHUNK
        self.outputs = [output.name for output in self._session.get_outputs()]
        outputs = [output.shape for output in self._session.get_outputs()]
        self._stated = [[n if isinstance(n, int) else None for n in shape][1:] for shape in outputs]

    def __call__(self, pixels: Tensor, kept: Tensor | None) -> list[Tensor]:
        """See `Runner`."""
        inputs, batch, step = to_arrays(pixels, kept), len(pixels), self._chunk
        chunks = (self._run([part[i : i + step] for part in inputs]) for i in range(0, batch, step))
        return join(chunks, self._stated, batch=batch, step=step, by="ONNX Runtime")

    def _run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return self._session.run(None, dict(zip(self._inputs, inputs, strict=False)))

    def close(self) -> None:
        """See `Runner`."""
        self._session = None


class OnnxBackend:
    """Exports and quantizes a model, for one size after another, and caches the results on disk.

    int8 is for the native size, at which it is calibrated; other sizes run in float32.
    """

    batched = False

    def __init__(
        self,
        model: Pretrained,
        signature: Signature,
        *,
        precision: str,
        threads: int | None,
        cache: ArtifactCache | None,
        key: dict[str, Any],
        calibration: Callable[[Shape], Inputs],
    ) -> None:
        import onnx

        self._model: Any = model
        self._signature, self._precision, self._threads, self._cache = signature, precision, threads, cache
        self._key = {**key, "onnx": onnx.__version__, "onnxruntime": import_onnxruntime().__version__}
        self._calibration = calibration

    def runner(self, shape: Shape) -> OnnxRunner:
        """A runner for any batch of a size."""
        int8 = self._precision == "int8" and shape.size == self._model.config.image_size
        if self._precision == "int8" and not int8:
            _log.info("int8 is calibrated at the native size; %s runs in fp32", shape)
        parts = {**self._key, "size": shape.size, "kept": shape.kept, "int8": int8}
        if not int8:
            parts.pop("calibration", None)
        key = artifact_key(parts)
        found = self._cache.open(key, self._stored) if self._cache else None
        if found is not None:
            return found
        proto = self._made(shape, int8=int8)
        if self._cache and fits_one_file(proto):
            self._cache.write(key, proto.SerializeToString())
        return self._session(proto)

    def _stored(self, content: memoryview) -> OnnxRunner:
        runner = OnnxRunner(bytes(content), threads=self._threads)
        if tuple(runner.outputs) != self._signature.outputs:
            raise ValueError(f"its outputs are {', '.join(runner.outputs)}")
        return runner

    def _made(self, shape: Shape, *, int8: bool) -> Any:
        program = program_for(self._model, shape.size, self._signature, dtype=torch.float32)
        proto = to_onnx(program, example_inputs(program, shape))
        if not int8:
            return proto
        own = Program(self._model, self._signature).eval()
        return quantize_and_compare(proto, self._calibration(shape), own, self._session)

    def _session(self, proto: Any) -> OnnxRunner:
        if fits_one_file(proto):
            return OnnxRunner(proto.SerializeToString(), threads=self._threads)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            save_onnx(proto, path := Path(folder) / "model.onnx")
            return OnnxRunner(path, threads=self._threads)

    def close(self) -> None:
        """Frees the weights."""
        self._model = None
