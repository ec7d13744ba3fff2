"""What engines keep on disk: when a model is converted again, and when it is not."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engines import assert_same, plainly, tiny
from hierax.engine import Engine
from hierax.engine.backends import openvino as openvino_backend
from hierax.model.tasks import HieraBackbone
from small import relative

pytest.importorskip("openvino")

pytest_plugins = ("engines",)
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows by one with every conversion to OpenVINO."""
    counted: list[Any] = []
    original = openvino_backend.to_openvino

    def counting(program: Any, example: Any) -> Any:
        counted.append(example)
        return original(program, example)

    monkeypatch.setattr(openvino_backend, "to_openvino", counting)
    return counted


def converted(model: Any, cache: Any, **options: Any) -> Any:
    with Engine(model, backend="openvino", cache_dir=cache, **{"precision": "fp32", "threads": 1, **options}) as engine:
        return engine(pixel_values=torch.ones(1, 3, 64, 64))


@pytest.mark.parametrize("task", ["features", "backbone", "backbone without norms"])
def test_a_second_engine_does_not_convert_again(task: str, tmp_path: Path, conversions: list[Any]) -> None:
    model = tiny(task.split()[0])
    if "without" in task:
        model = HieraBackbone(model.config).eval()
    first = converted(model, tmp_path / "kept")
    again = converted(model, tmp_path / "kept")
    assert len(conversions) == 1
    assert_same(again, first, 0)


def test_what_is_kept_serves_every_precision_that_is_no_int8(tmp_path: Path, conversions: list[Any]) -> None:
    model = tiny("features")
    converted(model, tmp_path / "kept", precision="fp32")
    converted(model, tmp_path / "kept", precision="bf16")
    assert len(conversions) == 1


def test_other_weights_or_outputs_are_converted_anew(tmp_path: Path, conversions: list[Any]) -> None:
    model = tiny("features")
    converted(model, tmp_path / "kept")
    converted(model, tmp_path / "kept", hidden_states=True)
    with torch.no_grad():
        model.norm.bias.add_(1)
    converted(model, tmp_path / "kept")
    assert len(conversions) == 3


def _hooked(model: Any) -> None:
    model.encoder.blocks[1].register_forward_hook(lambda module, given, found: found.flip(-1))


def _with_another_activation(model: Any) -> None:
    model.encoder.blocks[1].mlp.act = torch.nn.Tanh()


def _with_another_call(model: Any) -> None:
    model.encoder.blocks[1].mlp.forward = torch.sin


@pytest.mark.parametrize("change", [_hooked, _with_another_activation, _with_another_call])
def test_what_weights_and_configuration_do_not_say_is_converted_anew(
    change: Callable[[Any], None], tmp_path: Path, conversions: list[Any]
) -> None:
    model = tiny("features")
    before = converted(model, tmp_path / "kept")
    change(model)
    found = converted(model, tmp_path / "kept")
    assert_same(found, plainly(model, torch.ones(1, 3, 64, 64)))
    assert relative(found.pooler_output, before.pooler_output) > 1e-3
    assert len(conversions) == 2
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_a_damaged_artifact_is_made_again_and_the_log_says_so(
    tmp_path: Path, conversions: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny("features")
    first = converted(model, tmp_path)
    [path] = tmp_path.glob("*.artifact")
    path.write_bytes(path.read_bytes()[:-100])
    assert_same(converted(model, tmp_path), first, 0)
    assert len(conversions) == 2
    assert "damaged and will be made again" in caplog.text


def test_an_artifact_that_is_whole_but_unreadable_is_made_again_too(
    tmp_path: Path, conversions: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny("features")
    first = converted(model, tmp_path)
    [path] = tmp_path.glob("*.artifact")
    content = openvino_backend.ArtifactCache(tmp_path).read(path.stem)
    assert content is not None
    for wrong in (b"", b"x" * 40, bytes(content[:8]) + b"<net" + bytes(content[12:])):
        openvino_backend.ArtifactCache(tmp_path).write(path.stem, wrong)
        caplog.clear()
        assert_same(converted(model, tmp_path), first, 0)
        assert "cannot be read and will be made again" in caplog.text
    assert len(conversions) == 4


def test_without_a_cache_nothing_is_written(tmp_path: Path) -> None:
    converted(tiny("features"), False)
    assert not (tmp_path / "cache").exists()


def test_the_cache_is_where_the_environment_says(tmp_path: Path) -> None:
    converted(tiny("features"), None)
    assert len(list((tmp_path / "cache").glob("*.artifact"))) == 1


@pytest.mark.skipif(os.name == "nt", reason="folders are read-only in another way there")
def test_a_folder_that_cannot_be_written_to_costs_no_answer(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model = tiny("features")
    out = converted(model, tmp_path / "file" / "cache")
    assert torch.equal(out.pooler_output, converted(model, False).pooler_output)


def test_warming_up_makes_what_calls_will_need(conversions: list[Any]) -> None:
    with Engine(tiny("mae"), precision="fp32", cache_dir=False, threads=1) as engine:
        engine.warm_up(batches=(1, 4)).warm_up(size=(64, 96))
        assert len(conversions) == 2
        engine(pixel_values=torch.zeros(4, 3, 64, 64))
        engine(pixel_values=torch.zeros(1, 3, 64, 96))
    assert len(conversions) == 2


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("iostream error")])
def test_a_model_that_cannot_be_kept_runs_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: Any) -> bytes:
        raise error

    wanted = converted(tiny("features"), tmp_path / "kept")
    monkeypatch.setattr(openvino_backend, "serialize", full)
    assert_same(converted(tiny("features"), tmp_path / "full"), wanted, 0)
    assert f"a compiled model is not kept: {error}" in caplog.text
