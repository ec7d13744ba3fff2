"""Configuration files of inference servers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MAX_BATCH = 32
"""Images that Triton may put into one call, if the file takes any number."""
_HINTS = {"fp32": "f32", "fp16": "f32", "bf16": "bf16"}
_TYPES = {1: "TYPE_FP32", 7: "TYPE_INT64"}  # of onnx.TensorProto


def triton_config(file: Path, *, batch: int | None, labels: str | None) -> str:
    """The `config.pbtxt` of an ONNX file. The name of the model is not stated: Triton takes that of the folder.

    Args:
        batch: images per call, or None for any number: then Triton joins requests that wait.
        labels: file with the names of the classes.
    """
    import onnx

    graph = onnx.load(file, load_external_data=False).graph
    lines = ['backend: "onnxruntime"', f"max_batch_size: {MAX_BATCH if batch is None else 0}"]
    for kind, values in (("input", graph.input), ("output", graph.output)):
        blocks = [
            _tensor(value, batched=batch is None, labels=labels if kind == "output" else None) for value in values
        ]
        lines += [f"{kind} [", *",\n".join(blocks).splitlines(), "]"]
    return "\n".join([*lines, *(["dynamic_batching { }"] if batch is None else [])]) + "\n"


def _tensor(value: Any, *, batched: bool, labels: str | None) -> str:
    """One input or output; `batched`: without its first axis, which Triton adds."""
    kind = value.type.tensor_type
    sizes: Sequence[int] = [axis.dim_value or -1 for axis in kind.shape.dim][batched:]
    lines = [
        f"name: {json.dumps(value.name)}",
        f"data_type: {_TYPES[kind.elem_type]}",
        f"dims: [ {', '.join(map(str, sizes))} ]",
        *([f"label_filename: {json.dumps(labels)}"] if labels else []),
    ]
    return "  {\n" + "".join(f"    {line}\n" for line in lines) + "  }"


def model_server_config(name: str, *, precision: str) -> dict[str, Any]:
    """The `config.json` of OpenVINO Model Server for the folder `name` beside it. It computes in the precision that
    the export was compared in; without the hint, a CPU that has bfloat16 uses it.
    """
    hint = _HINTS.get(precision)
    plugin = {"plugin_config": {"INFERENCE_PRECISION_HINT": hint}} if hint else {}
    return {"model_config_list": [{"config": {"name": name, "base_path": name, **plugin}}]}
