"""What the tests of exports share: models, their exports, and the runtimes that files are run by.

Also a plugin: tests that name it in `pytest_plugins` have its fixture.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import hierax
from hierax import Engine, HieraBackbone, HieraForImageClassification, HieraForPreTraining, HieraModel, ParityReport
from hierax.engine.backends.openvino import shared_core
from hierax.engine.signature import Program, Signature
from small import CONFIGS, image_config, pixels, randomize

SHALLOW: dict[str, Any] = {  # tracing takes time by the block
    "depths": (1, 1),
    "num_heads": (1, 2),
    "masked_unit_attention": (True, False),
    "num_query_pool": 1,
    "decoder_depth": 1,
}
MODELS: dict[str, Callable[[], Any]] = {
    "classifier": lambda: HieraForImageClassification(image_config(**SHALLOW)),
    "mae": lambda: HieraForPreTraining(image_config(**SHALLOW, mask_ratio=0.5)),
    "video": lambda: hierax.HieraForVideoClassification(CONFIGS["video"](**SHALLOW)),
    "line": lambda: HieraModel(CONFIGS["line"](**SHALLOW)),
    "abs_win": lambda: HieraModel(CONFIGS["abs_win"](**SHALLOW)),
    "backbone": lambda: HieraBackbone(image_config(**SHALLOW, out_features=("stage1", "stage2"))),
}


def make(kind: str) -> Any:
    torch.manual_seed(0)
    return randomize(MODELS[kind]()).eval()


def few(model: Any, count: int = 3, size: Any = None) -> Tensor:
    return pixels(model.config, count, size, generator=torch.Generator().manual_seed(7))


Made = tuple[Any, Path, ParityReport]
Exported = Callable[..., Made]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """`exported(kind, format, precision, layout)`: the model, the folder and the report; each is made once."""
    done: dict[tuple[str, ...], Made] = {}

    def once(kind: str, format: str, precision: str = "fp32", layout: str | None = None) -> Made:
        key = (kind, format, precision, *filter(None, [layout]))
        if key not in done:
            model, folder = make(kind), tmp_path_factory.mktemp("exports") / "-".join(key)
            crops = key in (("classifier", "openvino", "fp32"), ("classifier", "openvino", "bf16"))  # others: quickly
            options: dict[str, Any] = {} if crops else {"evaluate": few(model)}
            if precision == "int8":
                options["calibration"] = few(model, 64)
            if layout is not None:
                options["layout"] = layout
            done[key] = model, folder, hierax.export(model, folder, format=format, precision=precision, **options)
        return done[key]

    return once


def run_file(folder: Path, format: str, *inputs: Tensor) -> list[Tensor]:
    """Outputs of an exported file, by its own runtime and nothing of ours."""
    if format == "pt2":
        with torch.no_grad():
            return list(torch.export.load(folder / "model.pt2").module()(*inputs))
    arrays = [tensor.numpy() for tensor in inputs]
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]
        found: Any = session.run(None, dict(zip(names, arrays, strict=True)))
    else:
        options = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled: Any = shared_core().compile_model(folder / "openvino_model.xml", "CPU", options)
        found = list(compiled(arrays).values())
    return [torch.from_numpy(np.array(array)) for array in found]


def engine_of(folder: Path | str, **options: Any) -> Any:
    return Engine(folder, **options)


def truth(model: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return Program(model, Signature.of(model))(*inputs)


def copied(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))
