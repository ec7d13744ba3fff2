"""What an engine says when it cannot."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from engines import Shared, assert_same, plainly, tiny
from hierax import extras
from hierax.engine import Engine, hardware
from hierax.model.encoder import Hiera
from hierax.model.tasks import HieraModel
from hierax.processing import HieraVideoProcessor
from small import image_config

pytest.importorskip("openvino")

pytest_plugins = ("engines",)
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize(
    ("task", "call", "problem"),
    [
        ("features", {}, "expected either images or pixel_values"),
        ("features", {"images": "a.jpg", "pixel_values": torch.zeros(1)}, "expected either images or pixel_values"),
        ("features", {"pixel_values": torch.zeros(3, 64, 64)}, r"pixel_values has shape \[3, 64, 64\]; expected"),
        ("features", {"pixel_values": torch.zeros(1, 4, 64, 64)}, r"expected \[batch, 3, height, width\]"),
        ("features", {"pixel_values": torch.zeros(0, 3, 64, 64)}, r"pixel_values has shape \[0, 3, 64, 64\]"),
        ("features", {"pixel_values": torch.zeros(1, 3, 64, 64).int()}, "dtype torch.int32; expected normalized"),
        ("features", {"pixel_values": torch.zeros(1, 3, 64, 64), "noise": torch.zeros(1, 4)}, "for MAE models"),
        ("features", {"pixel_values": torch.zeros(1, 3, 64, 64), "keep": torch.ones(1, 4) > 0}, "for MAE models"),
        ("mae", {"pixel_values": torch.zeros(1, 3, 64, 70)}, "multiples of 32x32"),
        ("mae", {"pixel_values": torch.zeros(1, 3, 64, 64).int()}, "dtype torch.int32"),
        ("mae", {"pixel_values": torch.zeros(1, 3, 64, 64), "noise": torch.zeros(1, 5)}, r"noise has shape \[1, 5\]"),
        ("mae", {"pixel_values": torch.zeros(1, 3, 64, 64), "keep": torch.ones(1, 4) > 0}, "at least one must be hid"),
        (
            "mae",
            {"pixel_values": torch.zeros(2, 3, 64, 64), "keep": torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0]]) > 0},
            "keep shows 1 mask units in image 0 and 2 in image 1",
        ),
    ],
)
def test_a_call_that_cannot_be_says_why(task: str, call: dict[str, Any], problem: str, shared: Shared) -> None:
    _, engine = shared("image", task, "torch")
    with pytest.raises(ValueError, match=problem):
        engine(**call)


def test_pixels_that_are_no_tensor_are_refused(shared: Shared) -> None:
    with pytest.raises(TypeError, match="pixel_values is a ndarray; expected a tensor"):
        shared("image", "features", "torch")[1](pixel_values=np.zeros((1, 3, 64, 64)))  # type: ignore[arg-type]


def test_clips_do_not_come_from_picture_files(shared: Shared) -> None:
    with pytest.raises(ValueError, match="this model takes clips: pass ready pixels"):
        shared("video", "classification", "torch")[1]("clip.jpg")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"threads": 0}, "threads is 0; expected a whole number above 0"),
        ({"threads": True}, "threads is True"),
        ({"max_shapes": 0}, "max_shapes is 0"),
        ({"backend": "tensorflow"}, "backend is 'tensorflow'; expected auto, torch, compile, openvino"),
        ({"precision": "fp8"}, "precision is 'fp8'; expected auto, fp32, bf16"),
        ({"precision": "fp16", "backend": "torch", "device": "cpu"}, "precision is 'fp16'"),
        ({"device": "gpu"}, "device is 'gpu'"),
        ({"task": "features"}, "task is 'features'; a model that is already built has its own"),
        ({"out_features": ("stem",)}, "out_features is for task='backbone'"),
        (
            {"calibration": torch.zeros(2, 3, 64, 64), "precision": "fp32"},
            "is for precision='int8'.*; precision is 'fp32'",
        ),
    ],
)
def test_an_engine_that_cannot_be_says_why(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Engine(tiny("features"), **options)


def test_openvino_runs_on_the_cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "find_device", lambda device: torch.device("cuda", 0))
    with pytest.raises(ValueError, match="backend is 'openvino', which runs on the CPU; device is 'cuda:0'"):
        Engine(tiny("features"), device="cuda", backend="openvino")


def test_a_backbone_has_no_hidden_states_beside_its_maps() -> None:
    with pytest.raises(ValueError, match="name them in out_features"):
        Engine(tiny("backbone"), hidden_states=True)


def test_a_processor_of_another_kind_is_named() -> None:
    with pytest.raises(TypeError, match="processor is a HieraVideoProcessor; expected a HieraImageProcessor"):
        Engine(tiny("features"), processor=HieraVideoProcessor())  # type: ignore[arg-type]


def test_a_model_without_weights_is_refused() -> None:
    with torch.device("meta"):
        empty = HieraModel(image_config())
    with pytest.raises(ValueError, match="model is on the meta device, which holds no weights"):
        Engine(empty)


@pytest.mark.parametrize("act", [pickle.dumps, copy.copy, copy.deepcopy])
def test_an_engine_says_that_it_cannot_be_copied(act: Any, shared: Shared) -> None:
    with pytest.raises(TypeError, match="an engine cannot be pickled or copied; make one in each process"):
        act(shared("image", "features", "torch")[1])


def test_warming_up_checks_its_arguments(shared: Shared) -> None:
    _, engine = shared("image", "features", "torch")
    engine.warm_up(size=96, batches=2)  # type: ignore[arg-type]
    for options, problem in (
        ({"size": (64, 64, 64)}, r"size is \(64, 64, 64\); expected 2 sizes in pixels, or one"),
        ({"batches": (1, 0)}, "batch is 0; expected a whole number above 0"),
    ):
        with pytest.raises(ValueError, match=problem):
            engine.warm_up(**options)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
def test_the_default_dtype_of_the_process_changes_nothing(backend: str) -> None:
    if backend != "torch":
        pytest.importorskip(backend)
    model, x = tiny("features"), torch.randn(1, 3, 64, 64)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with Engine(model, backend=backend, precision="fp32", device="cpu", cache_dir=False) as engine:
            found: Any = engine.warm_up()(pixel_values=x)
    finally:
        torch.set_default_dtype(before)
    assert_same(found, plainly(model, x))


def test_a_bare_encoder_is_refused() -> None:
    with pytest.raises(TypeError, match="bare encoder"):
        Engine(Hiera(image_config()))


def test_a_missing_package_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"package openvino: pip install '.*' \(part of hierax\[openvino\]\)"):
        Engine(tiny("features"), backend="openvino")
