"""The engine in int8: what it is calibrated on, and how near it stays."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from engines import plainly, tiny
from hierax.engine import Engine, calibration, quantize
from small import pixels, relative

pytest.importorskip("openvino")

pytest_plugins = ("engines",)
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def int8() -> Iterator[tuple[Any, Engine, Tensor]]:
    """A model, its engine in int8, and what that was calibrated on."""
    pytest.importorskip("nncf")
    model = tiny("features")
    seen = pixels(model.config, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "_CALIBRATED", 20)
        with Engine(model, precision="int8", calibration=seen, cache_dir=False, threads=1) as engine:
            engine.warm_up()
            yield model, engine, seen


def test_int8_keeps_the_direction_of_features(int8: tuple[Any, Engine, Tensor]) -> None:
    model, engine, _ = int8
    x = pixels(model.config, 9)
    out: Any = engine(pixel_values=x)
    expected = plainly(model, x).pooler_output
    assert torch.cosine_similarity(out.pooler_output, expected).min() >= 0.99
    assert relative(out.pooler_output, expected) > 1e-5  # it is int8


def test_int8_holds_at_the_native_size_and_others_run_in_the_next_best_precision(
    int8: tuple[Any, Engine, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    model, engine, _ = int8
    x = pixels(model.config, 2, (96, 64))
    with caplog.at_level(logging.INFO, "hierax.engine"):
        engine.warm_up(size=(96, 64))
    assert "int8 is calibrated at 64x64 pixels; 96x64 pixels runs in" in caplog.text
    out: Any = engine(pixel_values=x)
    assert torch.cosine_similarity(out.pooler_output, plainly(model, x).pooler_output).min() >= 0.9995


def test_int8_without_pictures_of_ones_own_says_what_it_is_calibrated_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(quantize, "quantize", lambda model, batches: seen.extend(batches) or model)
    monkeypatch.setattr(calibration, "_CALIBRATED", 20)
    with Engine(tiny("features"), precision="int8", cache_dir=False) as engine:
        engine.warm_up()
    assert {tuple(batch[0].shape) for batch in seen} == {(1, 3, 64, 64)}
    assert "one photo that is part of hierax" in caplog.text


@pytest.mark.parametrize(
    ("calibration", "problem"),
    [
        (torch.zeros(4, 3, 32, 32), r"calibration has shape \[4, 3, 32, 32\]; expected \[N, 3, 64, 64\]"),
        (torch.zeros(0, 3, 64, 64), r"calibration has shape \[0, 3, 64, 64\]"),
        (torch.zeros(4, 3, 64, 64, dtype=torch.uint8), "calibration has dtype torch.uint8"),
    ],
)
def test_pixels_that_cannot_be_calibrated_on_are_refused(calibration: Tensor, problem: str) -> None:
    engine = Engine(tiny("features"), precision="int8", calibration=calibration, cache_dir=False)
    with engine, pytest.raises(ValueError, match=problem):
        engine.warm_up()


def test_clips_are_not_calibrated_on_a_photo() -> None:
    engine = Engine(tiny("features", "video"), precision="int8", cache_dir=False)
    with engine, pytest.raises(ValueError, match=r"takes clips: pass ready pixels"):
        engine.warm_up()
