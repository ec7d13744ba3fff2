"""The engine on ONNX Runtime."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from hierax import Engine, HieraForImageClassification, HieraForPreTraining, extras
from hierax.engine.backends import onnx as onnx_backend
from small import image_config, pixels, randomize, relative

SHALLOW: dict[str, Any] = {
    "depths": (1, 1),
    "num_heads": (1, 2),
    "masked_unit_attention": (True, False),
    "num_query_pool": 1,
    "decoder_depth": 1,
}


def make(cls: Any = HieraForImageClassification) -> Any:
    torch.manual_seed(0)
    return randomize(cls(image_config(**SHALLOW))).eval()


def engine_of(model: Any, folder: Path, **options: Any) -> Any:
    return Engine(model, backend="onnxruntime", cache_dir=folder, threads=1, **options)


def test_it_gives_the_maps_of_the_model_for_any_batch_and_is_kept_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    x = pixels(model.config, 9)
    with torch.no_grad():
        expected = model(x, output_hidden_states=True)
    for _ in range(2):
        with engine_of(model, tmp_path, hidden_states=True) as engine:
            assert (engine.backend, engine.precision) == ("onnxruntime", "fp32")
            found = engine(x)
            assert relative(found.logits, expected.logits) < 1e-5
            for ours, theirs in zip(found.reshaped_hidden_states, expected.reshaped_hidden_states, strict=True):
                assert relative(ours, theirs) < 1e-5
            assert relative(engine(x[:1]).logits, expected.logits[:1]) < 1e-5
        monkeypatch.setattr(onnx_backend, "to_onnx", None)  # the second engine exports nothing


def test_a_size_that_is_asked_for_once_does_not_wait_for_an_export(tmp_path: Path) -> None:
    model = make()
    x = pixels(model.config, 2, (70, 96))
    with engine_of(model, tmp_path) as engine, torch.no_grad():
        assert relative(engine(x).logits, model(x).logits) < 1e-5
    assert list(tmp_path.iterdir()) == []


def test_a_mae_gives_the_loss_of_the_model(tmp_path: Path) -> None:
    model = make(HieraForPreTraining)
    x, noise = pixels(model.config, 3), torch.rand(3, 4)
    with engine_of(model, tmp_path) as engine, torch.no_grad():
        found, expected = engine(x, noise=noise), model(x, noise=noise)
    assert relative(found.logits, expected.logits) < 1e-5
    assert found.loss == pytest.approx(float(expected.loss), rel=1e-5)


def test_int8_is_close_and_says_how_close(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = make()
    x = pixels(model.config, 64)
    caplog.set_level(logging.INFO, "hierax.engine")
    with engine_of(model, tmp_path, precision="int8", calibration=x) as engine, torch.no_grad():
        found, expected = engine(x).logits, model(x).logits
    assert 1e-4 < relative(found, expected) < 0.1
    assert "int8: calibrated on 64 inputs" in caplog.text


def test_a_missing_exporter_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = extras.importlib.util.find_spec
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda n: None if n == "onnxscript" else real(n))
    with pytest.raises(ImportError, match=r"package onnxscript: pip install '.*' \(part of hierax\[onnx\]\)"):
        engine_of(make(), tmp_path)
