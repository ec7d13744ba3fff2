"""The training on a GPU, tried on the CPU: a few pictures, a few steps, and a tiny network as the teacher."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import hierax

FEMTO = Path(__file__).parents[1] / "femto"


@pytest.fixture(scope="module")
def scripts() -> Iterator[Any]:
    """`scripts("gpu")` is `femto/gpu.py` as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FEMTO))
        yield importlib.import_module


class Tiny(nn.Module):
    """Logits of 1,000 classes and 16 features of the mean colors of 64 parts."""

    def __init__(self) -> None:
        super().__init__()
        self.logits, self.features = nn.Linear(192, 1000), nn.Linear(192, 16)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        parts = nn.functional.adaptive_avg_pool2d(pixels, 8).flatten(1)
        return self.logits(parts), self.features(parts)


def write_teacher(path: Path) -> Path:
    """A program of `torch.export` as femto/teacher.py writes it."""
    torch.manual_seed(0)
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(Tiny().eval(), (torch.randn(2, 3, 64, 64),), dynamic_shapes=shapes), path)
    return path


def write_pack(scripts: Any, folder: Path) -> Path:
    """A pack of 24 pictures of one color each, in two categories."""
    pack, pictures = scripts("pack"), []
    for number in range(24):
        split = ("train", "train", "val", "test")[number % 4]
        color = tuple(int(v) for v in np.random.default_rng(number).integers(0, 255, 3))
        Image.new("RGB", (64, 64), color).save(folder / f"{number}.png")
        category = ("birds", "fruit")[number % 8 // 4]
        photo = number % 3 == 0
        pictures.append(pack.Picture(f"n{number}", folder / f"{number}.png", split, category, False, photo))
    with ThreadPoolExecutor(2) as pool:
        pack.write_pack(folder / "pack", pictures, 2**20, pool)
    return folder / "pack"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("classes", [30, 1000])
def test_a_dry_run_trains_measures_and_continues(
    scripts: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], classes: int
) -> None:
    gpu, out, work = scripts("gpu"), tmp_path / "out", tmp_path / "work"
    line = [str(write_pack(scripts, tmp_path)), str(out), "--teacher", str(write_teacher(tmp_path / "teacher.pt2"))]
    line += ["--checkpoints", str(work), "--device", "cpu", "--dry-run", "--side", "64", "--classes", str(classes)]
    assert gpu.main(line) == 0
    first = json.loads((out / "result.json").read_text())
    names = ["mae", "distillation", "categories"][: 3 if classes == 30 else 2]
    assert list(first["stages"]) == names
    assert all(stage["steps"] == 3 for stage in first["stages"].values())
    assert first["teacher agreement"]["all"]["pictures"] == 12
    assert ("accuracy" in first) == (classes == 30)
    assert hierax.load(out / "classifier").config.num_labels == (2 if classes == 30 else 1000)
    weights = load_file(out / "mae" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert len([path for path in out.rglob("*") if path.is_file()]) == 7, "more files do not come back from a machine"

    last = work / names[-1]
    (last / "done.json").unlink()
    capfd.readouterr()
    assert gpu.main(line) == 0
    assert f"{names[-1]}: continues after step 3" in capfd.readouterr().err
    again = json.loads((out / "result.json").read_text())
    assert again["teacher agreement"] == first["teacher agreement"]


def test_steps_fill_the_rest_of_the_minutes_by_the_measured_speed(
    scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = scripts("gpu")
    monkeypatch.setattr(gpu, "step_seconds", lambda run, stage: 0.1)
    monkeypatch.setattr(gpu.time, "monotonic", lambda: 100.0)
    labels = torch.tensor([0, 1, -1])
    run = SimpleNamespace(
        work=tmp_path, until=500.0, stages=(gpu.MAE, gpu.TAUGHT, gpu.LABELED), crops=SimpleNamespace(labels=labels),
        a=SimpleNamespace(dry_run=False, batch=4),
    )  # fmt: skip
    assert gpu.planned(run, gpu.MAE) == {"steps": 800, "seconds": 0.1}
    assert gpu.planned(run, gpu.TAUGHT)["steps"] == math.floor(4000 * 0.7 / 0.8)
    assert gpu.planned(run, gpu.LABELED)["steps"] == gpu.PASSES * 2 // 4
    monkeypatch.setattr(gpu, "step_seconds", lambda run, stage: 9.0)
    assert gpu.planned(run, gpu.MAE)["steps"] == 800, "an interrupted stage keeps its steps"


def test_steps_end_when_their_time_is_over(scripts: Any) -> None:
    crops = SimpleNamespace(batch=lambda step, recipe, labeled: step)
    steps = scripts("crops").Steps
    assert list(steps(crops, None, range(2, 5), labeled=False)) == [[2], [3], [4]]
    assert list(steps(crops, None, range(2, 5), labeled=False, until=0.0)) == []


def test_a_network_that_is_too_large_to_send_back_is_refused(
    scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = scripts("gpu")
    monkeypatch.setattr(gpu, "MOST_BYTES", 1000)
    with pytest.raises(SystemExit, match=r"at most 1000\. Choose a smaller --width"):
        gpu.write_half(hierax.load("hierax/femto"), tmp_path / "model")


def test_a_machine_without_a_gpu_is_told_how_to_try_the_command(
    scripts: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        scripts("gpu").main(["pack", "out", "--teacher", "teacher"])
    assert "--device cpu --dry-run" in capsys.readouterr().err


def test_agreement_counts_hits_with_an_interval_around_the_share(scripts: Any) -> None:
    hits = np.array([[True, True], [False, True], [False, True], [False, False]] * 25)
    found = scripts("on_device").agreed(hits)
    assert found["pictures"] == 100
    assert found["top1"][0] == 25
    assert found["top5"][0] == 75
    assert 12 < found["top1"][1] < 25 < found["top1"][2] < 38
