"""The scripts in benchmarks/ at toy size. Never a speed."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest_plugins = ("benches", "command_line")
pytestmark = pytest.mark.usefixtures("small_and_private")


def test_the_script_for_gpus_goes_through_all_its_code_at_toy_size(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler = torch.compile

    def quick(model: Any, **options: Any) -> Any:
        return compiler(model, **options, backend="eager")

    monkeypatch.setattr(torch, "compile", quick)
    script("gpu").main(
        ["--device", "cpu", "--tiny-run", "--models", "tiny", "--batches", "1,2", "--train-batch", "2",
         "--seconds", "0", "--rounds", "2", "--json", str(tmp_path / "found.json")]
    )  # fmt: skip
    out = capsys.readouterr().out
    assert "| hierax engine (graphs) |" in out
    assert "| official compiled |" in out
    assert "timm is left out: timm has no MAE" in out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["inference"][0]["best_rate"].keys() >= {"hierax engine (compile)", "timm compiled", "official eager"}
    assert found["training"][0]["ratio"].keys() == {"official", "transformers"}


def test_the_script_for_gpus_leaves_out_who_runs_out_of_memory(script: Any) -> None:
    gpu = script("gpu")
    taking_part = gpu.Bench("cpu", toy=True, seconds=0, rounds=2)

    def greedy() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert list(taking_part.interleaved({"greedy": greedy, "modest": lambda: None})) == ["modest"]


def test_an_engine_answers_many_threads_as_it_answers_one(
    script: Any, classifier_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = script("engine_soak").main(
        ["--model", classifier_folder, "--calls", "60", "--callers", "4", "--precision", "fp32", "--backend", "torch",
         "--threads", "1", "--growth", "1"]
    )  # fmt: skip
    out = capsys.readouterr().out
    assert code == 0, out
    assert "60 calls" in out
    assert "0 errors" in out


def test_a_wrong_answer_of_the_soak_is_seen(script: Any) -> None:
    soak, answer = script("engine_soak"), torch.randn(2, 5)
    assert soak.distance(answer, answer, "fp32") == 0
    assert soak.distance(answer * 1.001, answer, "fp32") > 1
    assert soak.distance(answer.flip(0), answer, "bf16") > 1


@pytest.mark.slow
def test_starts_of_an_engine_are_timed(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("engine_start").main(["--runs", "1"]) in (0, 1)
    assert "| warm |" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")  # of the peers
def test_eager_models_are_compared_with_those_inside_transformers(
    script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    once = ["--models", "tiny", "--batches", "1", "--rounds", "2", "--seconds", "0"]
    script("against_peers").main([*once, "--tasks", "forward,maps", "--baseline", "inside"])
    out = capsys.readouterr().out
    assert "| tiny forward, batch 1 |" in out
    assert out.count("x transformers (") == 2
    script("against_peers").main([*once, "--tasks", "maps", "--size", "64x96"])
    assert "transformers is left out: The size of tensor a" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")  # of transformers
@pytest.mark.parametrize("model", ["rt-detr", "upernet", "mask2former"])
@pytest.mark.parametrize("backbone", ["hierax", "transformers", "scratch"])
def test_dense_models_are_trained_on_drawings(
    model: str, backbone: str, script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toys = script("dense_toys")
    few = functools.partial(toys.drawings.__wrapped__, 4)
    monkeypatch.setattr(toys, "drawings", lambda _, seed: few(seed))
    toys.main(["--models", model, "--backbones", backbone, "--steps", "1"])
    assert f"| {model} | {backbone} | 0 | 0." in capsys.readouterr().out


def test_a_box_and_a_mask_are_where_the_shape_is(script: Any) -> None:
    for sample in script("dense_toys").drawings(20, 0):
        left, top, right, bottom = (int(v) for v in sample.boxes[-1])  # the last shape is not covered
        inside = sample.mask[top : bottom + 1, left : right + 1] == sample.classes[-1] + 1
        assert 0.4 < inside.float().mean() <= 1
        assert inside.any(0).all()
        assert inside.any(1).all()


def test_segmentation_is_trained_on_drawings(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("image_size=64", "segmentation_hidden_size=16")
    script("segmentation_toys").main(["--seeds", "0", "--epochs", "1", "--images", "10", *small])
    out = capsys.readouterr().out
    assert all(f"{start}: mean IoU 0." in out for start in ("femto", "scratch", "frozen"))


def test_seams_of_sliding_windows_are_measured(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--steps", "1", "--size", "200x400", "--rounds", "1", "--parts", "seams,times")
    script("segmentation_windows").main([*small, "--output", str(tmp_path)])
    out = capsys.readouterr().out
    assert "| 320 | 0.25 | 0." in out
    assert "| plain |" in out
    assert (tmp_path / "seams.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_segmentation_is_learned_on_drawings(seed: int, script: Any, tmp_path: Path) -> None:
    toys = script("segmentation_toys")
    data = toys.write_shapes(tmp_path / "shapes")
    found = toys.train(data, "femto", seed=seed, settings=["epochs=3"], out=tmp_path / "run")
    assert found["steps"] == 150
    assert found["mean_iou"] > 0.45


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of transformers
def test_a_detector_learns_on_our_maps(script: Any) -> None:
    precision = script("dense_toys").train("rt-detr", "hierax", steps=600, seed=0)
    assert precision[300] >= 0.25
    assert precision[600] >= 0.45


@pytest.mark.filterwarnings("ignore")  # of the peers
def test_trunks_with_windows_are_compared(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    script("windows").main(["--models", "tiny", "--size", "64", "--rounds", "1", "--no-engine", "--no-memory"])
    out = capsys.readouterr().out
    assert "| hierax windowed | 0.4 |" in out
    assert "| hierax classic |" in out
    assert "| transformers |" in out
