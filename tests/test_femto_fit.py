"""The linear layer of femto/fit.py, on made images whose mean color is their category."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hierax.processing import IMAGENET

FEMTO = Path(__file__).parents[1] / "femto"
COLORS = {"blue": (20, 30, 200), "green": (20, 190, 40), "red": (210, 30, 20)}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder as femto/pictures.py writes it, with three categories."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for name, color in COLORS.items():
            folder = tmp_path / "labeled" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = draw.integers(-20, 21, (48, 40 + number, 3))
                Image.fromarray((np.array(color) + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path


def test_the_layer_tells_the_categories_apart_for_images_that_it_has_not_seen(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(FEMTO))
    fit: Any = importlib.import_module("fit")
    shapes = set()

    def features(pixels: torch.Tensor) -> torch.Tensor:
        shapes.add(tuple(pixels.shape[1:]))
        return torch.cat([pixels.mean((2, 3)), pixels.std((2, 3))], 1)

    record = IMAGENET.replace(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})
    with torch.no_grad():  # as femto/teacher.py calls it
        layer, names, share = fit.fitted(pictures, features, record)
    assert names == ["blue", "green", "red"]
    assert share == 1.0
    assert shapes == {(3, 32, 32)}
    assert not layer.weight.requires_grad
    plain = torch.tensor([COLORS[name] for name in names]).float().div(255)[:, :, None, None].expand(-1, -1, 32, 32)
    normalized = (plain - torch.tensor(IMAGENET.image_mean)[:, None, None]) / torch.tensor(IMAGENET.image_std)[
        :, None, None
    ]
    assert layer(features(normalized)).argmax(1).tolist() == [0, 1, 2]


def test_a_teacher_of_categories_is_not_written_in_half_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(FEMTO))
    teacher: Any = importlib.import_module("teacher")
    with pytest.raises(SystemExit):
        teacher.main([str(tmp_path / "out"), "--format", "half", "--categories", str(tmp_path)])
    assert "writes onnx or pt2" in capsys.readouterr().err
