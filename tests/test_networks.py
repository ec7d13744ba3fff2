"""Networks that other programs wrote: what teaches whatever its input is like, and what is refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hierax.train.networks import open_network
from hierax.train.teacher import open_teacher

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)
CPU = torch.device("cpu")
WEIGHTS = np.random.default_rng(0).normal(size=(3, 5)).astype("f4")


def onnx_file(path: Path, shape: list[Any], *, dtype: str = "FLOAT", axes: tuple[int, int] = (2, 3), inputs: int = 1,
              outputs: tuple[str, ...] = ("logits",)) -> Path:  # fmt: skip
    """A network of five logits of the brightness of three channels."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, getattr(onnx.TensorProto, dtype)
    number = onnx.TensorProto.FLOAT16 if dtype == "FLOAT16" else onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["image"], ["values"], to=number),
        helper.make_node("ReduceMean", ["values"], ["means"], axes=list(axes), keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["logits"]),
    ]
    values = WEIGHTS.astype("f2") if dtype == "FLOAT16" else WEIGHTS
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(name, kind, shape) for name in ("image", "other")[:inputs]],
        [helper.make_tensor_value_info(name, number, [shape[0], None]) for name in outputs],
        [onnx.numpy_helper.from_array(values, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.parent.mkdir(exist_ok=True)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        (["b", 3, "h", "w"], {}),
        ([1, 3, 16, 16], {}),
        ([4, 3, 16, 16], {}),
        ([1, 16, 16, 3], {"axes": (1, 2)}),
        (["b", "h", "w", 3], {"axes": (1, 2)}),
        ([2, 3, 16, 16], {"dtype": "FLOAT16"}),
        (["b", 3, 16, 16], {"dtype": "DOUBLE"}),
        (["b", 3, 16, 16], {"outputs": ("means", "logits")}),
    ],
)
@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_network_is_called_as_its_input_states(
    shape: list[Any], options: dict[str, Any], count: int, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    run, size = open_network(onnx_file(tmp_path / "a.onnx", shape, **options), CPU)
    assert size == (None if "h" in shape else (16, 16))
    pixels = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = pixels.mean((2, 3)) @ torch.from_numpy(WEIGHTS)
    found = run(pixels)["logits"]
    assert found.shape == (count, 5)
    torch.testing.assert_close(found.float(), expected, atol=2e-3, rtol=1e-2)
    teacher = open_teacher(tmp_path / "a.onnx", size=(16, 16), device=CPU)
    assert teacher.logits == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "UINT8"}, r"a\.onnx: its input is tensor\(uint8\); expected pixels"),
        ({"inputs": 2}, r"a\.onnx: takes 2 inputs; expected one, for pixels"),
    ],
)
def test_an_input_that_is_not_pixels_is_named(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match=message):
        open_teacher(onnx_file(tmp_path / "a.onnx", ["b", 3, 16, 16], **options), size=(16, 16), device=CPU)


class Mean(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.mean((2, 3))


class Two(nn.Module):
    def forward(self, pixels: Tensor, other: Tensor) -> Tensor:
        return (pixels + other).mean((2, 3))


def test_a_program_of_a_fixed_number_of_images_takes_any(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Mean(), (torch.rand(2, 3, 16, 16),)), tmp_path / "a.pt2")
    pixels = torch.rand(5, 3, 16, 16)
    run, size = open_network(tmp_path / "a.pt2", CPU)
    assert size == (16, 16)
    torch.testing.assert_close(run(pixels)["output"], pixels.mean((2, 3)))
    images = torch.rand(2, 3, 16, 16)
    torch.export.save(torch.export.export(Two(), (images, images)), tmp_path / "b.pt2")
    with pytest.raises(ValueError, match=r"b\.pt2: takes 2 inputs; expected one, for pixels"):
        open_network(tmp_path / "b.pt2", CPU)


@pytest.mark.parametrize("command", ["classify", "features", "segment", "embed", "evaluate", "reconstruct"])
@pytest.mark.parametrize("name", ["model.onnx", "model.xml", "model.pt2"])
def test_commands_refuse_what_hierax_did_not_export(run: Run, here: Path, command: str, name: str) -> None:
    (here / "net").mkdir()
    (here / "net" / name).write_bytes(b"a network")
    (here / "net" / "model.bin").write_bytes(b"its weights")
    rest = {
        "features": ("-o", "out"),
        "segment": ("-o", "out"),
        "embed": ("-o", "out"),
        "reconstruct": ("-o", "out.png"),
    }.get(command, ())
    for model in (f"net/{name}", "net"):
        code, _, err = run(command, "a", *rest, "--model", model)
        expected = f"net/{name}: is not an export of hierax (no export.json beside it); expected the folder that"
        assert (code, expected in err) == (2, True), err


def test_a_network_of_openvino_is_no_teacher(tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_text("<net/>")
    with pytest.raises(ValueError, match=r"model\.xml: a teacher is a checkpoint, or a network as \.onnx or \.pt2"):
        open_teacher(tmp_path, size=(16, 16), device=CPU)
