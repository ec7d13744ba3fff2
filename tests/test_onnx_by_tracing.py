"""`torch.onnx.export(dynamo=False)` and `torch.jit.trace`, as users call them: the model itself, and any batch."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from hierax import (
    HieraBackbone,
    HieraForImageClassification,
    HieraForSemanticSegmentation,
    HieraForVideoClassification,
    HieraModel,
)
from small import abs_win_config, image_config, pixels, randomize, video_config

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
MODELS: dict[str, Any] = {
    "classifier": lambda: HieraForImageClassification(image_config()),
    "features": lambda: HieraModel(image_config()),
    "abs-win": lambda: HieraForImageClassification(abs_win_config(global_position_size=(16, 16))),
    "clips": lambda: HieraForVideoClassification(video_config()),
    "backbone": lambda: HieraBackbone(image_config(out_features=("stage2", "stage4"))),
    "segmentation": lambda: HieraForSemanticSegmentation(image_config(image_size=(64, 96))),
    "linear segmentation": lambda: HieraForSemanticSegmentation(image_config(segmentation_head="linear")),
}


class Logits(nn.Module):
    """The wrapper that people write."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x).logits


def tensors(output: Any) -> list[torch.Tensor]:
    return [t for entry in output.to_tuple() for t in (entry if isinstance(entry, tuple) else (entry,))]


def session(model: nn.Module, x: torch.Tensor, path: Path) -> Any:
    torch.onnx.export(model, (x,), path, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}})
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options)


SLOW = [pytest.param(kind, marks=() if kind == "classifier" else pytest.mark.slow) for kind in MODELS]


@pytest.mark.parametrize("kind", SLOW)
def test_onnx_of_the_model_itself_follows_the_batch(kind: str, tmp_path: Path) -> None:
    model: Any = randomize(MODELS[kind]()).eval()
    found = session(model, pixels(model.config, batch=1), tmp_path / "m.onnx")
    for batch in (1, 3):
        x = pixels(model.config, batch=batch)
        with torch.no_grad():
            wanted = tensors(model(x))
        for ours, theirs in zip(wanted, found.run(None, {"x": x.numpy()}), strict=True):
            assert np.allclose(ours.numpy(), theirs, atol=1e-4)


def test_onnx_of_a_wrapper_follows_the_batch(tmp_path: Path) -> None:
    model: Any = randomize(HieraForImageClassification(image_config())).eval()
    found = session(Logits(model), pixels(model.config, batch=2), tmp_path / "m.onnx")
    x = pixels(model.config, batch=5)
    with torch.no_grad():
        assert np.allclose(model(x).logits.numpy(), found.run(None, {"x": x.numpy()})[0], atol=1e-4)


def test_a_trace_of_the_model_itself_is_a_tuple_and_of_a_wrapper_what_it_returns() -> None:
    model: Any = randomize(HieraForImageClassification(image_config())).eval()
    x = pixels(model.config, batch=1)
    more = pixels(model.config, batch=3)
    with torch.no_grad():
        whole: Any = torch.jit.trace(model, x)
        wrapped: Any = torch.jit.trace(Logits(model), x)
        assert torch.allclose(whole(more)[0], model(more).logits, atol=1e-5)
        assert torch.allclose(wrapped(more), model(more).logits, atol=1e-5)
