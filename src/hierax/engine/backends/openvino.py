"""The backend OpenVINO: the fastest on a CPU; it compiles in less than a second."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hierax.engine.backends.chunks import CHUNK, join, to_arrays
from hierax.engine.cache import ArtifactCache, artifact_key
from hierax.engine.context import inference_modes
from hierax.engine.forking import check_openvino, keep_forever, note_openvino
from hierax.engine.hardware import fast_bf16
from hierax.engine.pool import Shape
from hierax.engine.quantize import Inputs, quantize_and_compare
from hierax.engine.signature import Program
from hierax.engine.traced import INPUTS, example_inputs, for_size
from hierax.memory import is_out_of_memory
from hierax.telemetry import import_openvino

_log = logging.getLogger("hierax.engine")
_MOST_STREAMS = 8  # parts of a batch that are computed at once
_HINTS = {"fp32": "f32", "bf16": "bf16"}


@functools.cache
def shared_core() -> Any:
    """OpenVINO's core object, one per process and never freed.

    Its CPU plugin gives a signal stack to the thread that loads it, and removes the signal stack of the thread that
    frees it. If these are two threads, the next signal (a child's end, Ctrl-C) kills the process with SIGSEGV.
    """
    core = import_openvino().Core()
    keep_forever(core)  # in a forked child, freeing it would wait for threads that do not exist there
    return core


def has_bf16() -> bool:
    """Whether OpenVINO computes in bf16 on this CPU if it is asked to. It computes in float32 on CPUs without bf16."""
    return "BF16" in shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def to_openvino(program: Program, example: tuple[Tensor, ...]) -> Any:
    """The program as an `openvino.Model` in float32, for any batch at the example's size.

    The program is traced and passed to OpenVINO's frontend directly. For Tiny, this takes 1.2 s;
    `openvino.convert_model` takes 3.3 s, and 8 s for a program of `torch.export`.
    """
    import_openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with inference_modes(torch.device("cpu")), warnings.catch_warnings():
        # sizes become constants on purpose, and OpenVINO converts traced programs fastest
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # pyright: ignore[reportPrivateImportUsage]
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(program, example, check_trace=False, strict=False)
        frontend = FrontEndManager().load_by_framework("pytorch")
        decoder = TorchScriptPythonDecoder(
            traced, example_input=example, trace_kwargs={}
        )  # needed during the conversion
        model = frontend.convert(frontend.load(decoder))
    model.reshape({i: [-1, *tensor.shape[1:]] for i, tensor in enumerate(example)})
    for node in model.get_ordered_ops():  # numbers of the trace, which a compiled model would add to its outputs' names
        for tensor in node.outputs():
            tensor.get_tensor().set_names(set())
    for name, node in zip(INPUTS, model.inputs, strict=False):
        node.get_tensor().set_names({name})
    for name, node in zip(program.signature.outputs, model.outputs, strict=True):
        node.get_tensor().set_names({name})
    return model


def serialize(model: Any) -> bytes:
    """An `openvino.Model` as bytes: the length of its XML description, the description, and the weights."""
    import tempfile
    from pathlib import Path

    ov = import_openvino()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        ov.save_model(model, path, compress_to_fp16=False)
        description, weights = path.read_bytes(), path.with_suffix(".bin").read_bytes()
    return len(description).to_bytes(8, "little") + description + weights


def deserialize(content: bytes | memoryview) -> Any:
    """The inverse of `serialize`."""
    ov = import_openvino()

    end = 8 + int.from_bytes(content[:8], "little")
    weights = np.frombuffer(content, np.uint8, offset=end)
    return shared_core().read_model(bytes(content[8:end]), ov.Tensor(weights))


class OpenVinoRunner:
    """One model at one size, compiled up to twice. Single images use one stream on all threads. Batches use one stream
    per thread, each with a part of the images, which is 5 to 8 % faster. Each compiled model holds the weights; `lean`
    compiles only the first.
    """

    def __init__(
        self, model: Any, *, precision: str, threads: int, batch: int | None = None, lean: bool = False
    ) -> None:
        self._core = shared_core()
        self._model: Any = model
        hint = _HINTS.get(precision) or ("bf16" if fast_bf16() else "f32")
        self._options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
        shapes = [output.get_partial_shape() for output in model.outputs]
        self._stated = [[None if n.is_dynamic else n.get_length() for n in shape][1:] for shape in shapes]
        self._single: Any = None
        self._queue: Any = None
        self._streams = 1 if batch or lean else min(threads, _MOST_STREAMS)
        self._chunk = batch or CHUNK  # a model of a fixed batch is called with that batch only

    def __call__(self, pixels: Tensor, kept: Tensor | None) -> list[Tensor]:
        """See `Runner`. Raises `MemoryError` if OpenVINO returns other shapes than its model states."""
        inputs = to_arrays(pixels, kept)
        batch, alone = len(pixels), len(pixels) == 1 or self._streams == 1
        step = self._chunk if alone else min(self._chunk, math.ceil(batch / self._streams))
        if alone:
            chunks = [self._alone([part[i : i + step] for part in inputs]) for i in range(0, batch, step)]
        else:
            chunks = self._shared_out(inputs, range(0, batch, step), step)
        return join(chunks, self._stated, batch=batch, step=step, by="OpenVINO")

    def _compiled(self, hints: dict[str, Any]) -> Any:
        check_openvino()
        note_openvino()
        return self._core.compile_model(self._model, "CPU", {**self._options, **hints})

    def _alone(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        if self._single is None:
            self._single = self._compiled({"PERFORMANCE_HINT": "LATENCY"}).create_infer_request()
        found = self._single.infer(inputs, share_inputs=True, share_outputs=True)
        return [found[i].copy() for i in range(len(found))]

    def _shared_out(self, inputs: list[np.ndarray], starts: range, step: int) -> list[list[np.ndarray]]:
        if self._queue is None:
            ov = import_openvino()

            hints = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": self._streams}
            self._queue = ov.AsyncInferQueue(self._compiled(hints), self._streams)
        chunks: list[list[np.ndarray]] = [[] for _ in starts]

        def done(request: Any, number: int) -> None:
            chunks[number] = [tensor.data.copy() for tensor in request.output_tensors]

        self._queue.set_callback(done)
        for number, start in enumerate(starts):
            self._queue.start_async([part[start : start + step] for part in inputs], number, share_inputs=True)
        self._queue.wait_all()
        return chunks

    def close(self) -> None:
        """See `Runner`."""
        self._single = self._queue = self._model = None


class OpenVinoBackend:
    """Converts, quantizes and compiles a program, for one size after another, and caches the results on disk.

    int8 is for the native size, at which it is calibrated; other sizes run in the next best precision.
    """

    batched = False

    def __init__(
        self,
        program: Program,
        *,
        precision: str,
        threads: int | None,
        cache: ArtifactCache | None,
        key: dict[str, Any],
        calibration: Callable[[Shape], Inputs],
    ) -> None:
        ov = import_openvino()

        self._program, self._precision, self._cache = program, precision, cache
        self._threads = threads or torch.get_num_threads()
        self._key = {**key, "openvino": ov.__version__}
        self._calibration = calibration
        if precision == "bf16" and not has_bf16():
            _log.warning("this CPU has no instructions for bf16: OpenVINO computes in fp32")

    def runner(self, shape: Shape) -> OpenVinoRunner:
        """A runner for any batch of a size."""
        precision, native = self._precision, self._program.model.config.image_size
        if precision == "int8" and shape.size != native:
            precision = "bf16" if fast_bf16() else "fp32"
            _log.info("int8 is calibrated at %s pixels; %s runs in %s", "x".join(map(str, native)), shape, precision)
        model = self._model(shape, int8=precision == "int8")
        return OpenVinoRunner(model, precision=precision, threads=self._threads, lean=shape.size != native)

    def _model(self, shape: Shape, *, int8: bool) -> Any:
        parts = {**self._key, "size": shape.size, "kept": shape.kept}
        if int8:
            parts["nncf"] = importlib.metadata.version("nncf")
        else:
            parts.pop("calibration", None)
        key = artifact_key(parts)
        found = self._cache.open(key, self._stored) if self._cache else None
        if found is not None:
            return found
        # resized tables are constants: OpenVINO's antialiased bicubic differs from PyTorch's: maps were off by 0.6 %
        program = Program(for_size(self._program.model, shape.size, folded=False), self._program.signature).eval()
        model = to_openvino(program, example_inputs(program, shape))
        if int8:
            batches = self._calibration(shape)
            run = functools.partial(OpenVinoRunner, precision="int8", threads=self._threads)
            model = quantize_and_compare(model, batches, self._program, run)
        if self._cache:
            _keep(self._cache, key, model)
        return model

    def _stored(self, content: memoryview) -> Any:
        model = deserialize(content)
        if [output.any_name for output in model.outputs] != list(self._program.signature.outputs):
            raise ValueError("its outputs are those of another model")
        return model

    def close(self) -> None:
        """Frees the weights."""
        del self._program


def _keep(cache: ArtifactCache, key: str, model: Any) -> None:
    """Keeps a model for the next start. If that fails, as on a full disk, this one runs all the same."""
    try:
        content = serialize(model)
    except (OSError, RuntimeError) as error:  # of the folder of temporary files
        if is_out_of_memory(error):
            raise
        _log.warning("a compiled model is not kept: %s", str(error).strip().splitlines()[-1])
    else:
        cache.write(key, content)
