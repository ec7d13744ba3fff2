"""Engines and exports of configurations drawn at random give what the model gives eagerly."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hierax
from drawn import TASKS, draw_config, other_size
from engines import assert_same, direct
from hierax import Engine, HieraConfig
from hierax.engine.fold import fold
from hierax.model.encoder import Hiera
from small import fresh_seed, pixels, randomize, relative, units_of

BACKENDS = ("torch", "onnxruntime", "openvino")
FORMATS = ("pt2", "onnx", "openvino")
CORNER = {  # the unit is as deep as the model is wide: a bias added along the wrong axis has the right shape
    "embed_dim": 8, "image_size": (16, 16, 16), "masked_unit_size": (8, 8, 8), "patch_size": (1, 1, 1),
    "patch_stride": (1, 1, 1), "patch_padding": (0, 0, 0), "depths": (1, 1), "num_heads": (1, 2), "num_query_pool": 1,
    "masked_unit_attention": (True, False), "num_channels": 1, "num_labels": 3,
    "position_embedding": "abs_win", "global_position_size": (4, 4, 4),
}  # fmt: skip


def built(config: HieraConfig, task: str) -> Any:
    clip = hierax.HieraForVideoClassification if config.is_video else hierax.HieraForImageClassification
    kinds: dict[str, Any] = {
        "features": hierax.HieraModel, "classification": clip, "mae": hierax.HieraForPreTraining,
    }  # fmt: skip
    if task == "backbone":
        return randomize(hierax.HieraBackbone(config, out_features=config.stage_names, norms=True), 0.2).eval()
    return randomize(kinds[task](config), 0.2).eval()


def inputs(model: Any, task: str, size: Any = None, batch: int = 2) -> tuple[Tensor, dict[str, Tensor]]:
    x = pixels(model.config, batch, size)
    if task != "mae":
        return x, {}
    units = units_of(model.config, x.shape[2:])
    return x, {"keep": (torch.arange(units) % 2 == 0).expand(batch, -1)}


def check_engine(model: Any, task: str, backend: str, sizes: list[Any]) -> None:
    """At every size, whether it is compiled or runs eagerly."""
    states = task != "backbone"
    with Engine(model, backend=backend, precision="fp32", cache_dir=False, hidden_states=states, threads=1) as engine:
        for size in sizes:
            for at_once in (False, True):
                x, options = inputs(model, task, size)
                if at_once:
                    engine.warm_up(size=tuple(x.shape[2:]), batches=(2,))
                assert_same(engine(x, **options), direct(model, task, x, **options), 3e-5)


def check_export(model: Any, task: str, format: str, folder: Path) -> None:
    x, _ = inputs(model, task)
    report = hierax.export(model, folder, format=format, evaluate=x)
    assert report.passed
    config = model.config
    shown = torch.rand(2, units_of(config)) if task == "mae" else None
    options = {} if shown is None else {"noise": shown}
    with Engine(folder, threads=1) as engine, torch.no_grad():
        ours, theirs = engine(x, **options), model(x, **options)
    for name, value in ours.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            assert relative(value, theirs[name]) <= 3e-5, name


@pytest.mark.parametrize("seed", range(60))
def test_a_folded_encoder_of_any_configuration_is_the_same_function(seed: int) -> None:
    draw = random.Random(seed)
    config = draw_config(draw)
    torch.manual_seed(seed)
    encoder: Any = randomize(Hiera(config), 0.2).eval().double()
    for size in (config.image_size, other_size(draw, config, whole=False)):
        x = pixels(config, size=size, dtype=torch.float64)
        with torch.no_grad():
            ours, theirs = fold(encoder)(x).last, encoder(x).last
        assert relative(ours, theirs) <= (1e-11 if size == config.image_size else 1e-6)  # tables are resized in float32


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_an_engine_is_right_where_a_unit_is_as_deep_as_the_model_is_wide(backend: str) -> None:
    torch.manual_seed(0)
    model = built(HieraConfig(**CORNER), "classification")
    check_engine(model, "classification", backend, [None])


@pytest.mark.parametrize(
    ("axes", "task", "backend"),
    [
        (1, "classification", "torch"), (2, "features", "torch"), (3, "backbone", "torch"), (3, "mae", "torch"),
        (3, "features", "openvino"), (3, "mae", "openvino"), (1, "features", "onnxruntime"),
    ],
)  # fmt: skip
def test_engines_of_abs_win_models_of_any_number_of_axes_agree_with_the_model(
    axes: int, task: str, backend: str
) -> None:
    draw = random.Random(axes)
    torch.manual_seed(axes)
    model = built(draw_config(draw, axes=axes, position="abs_win"), task)
    check_engine(model, task, backend, [None, other_size(draw, model.config, whole=task == "mae")])


@pytest.mark.parametrize(
    ("axes", "task", "format"),
    [(1, "features", "pt2"), (3, "mae", "openvino"), pytest.param(3, "classification", "onnx", marks=pytest.mark.slow)],
)
def test_exports_of_abs_win_models_that_are_not_2_d_agree_with_the_model(
    axes: int, task: str, format: str, tmp_path: Path
) -> None:
    torch.manual_seed(axes)
    model = built(draw_config(random.Random(axes), axes=axes, position="abs_win"), task)
    check_export(model, task, format, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("number", range(60))
def test_engines_and_exports_of_any_configuration_agree_with_the_model(number: int, tmp_path: Path) -> None:
    seed = fresh_seed()
    draw = random.Random(seed)
    task, config = draw.choice(TASKS), draw_config(draw)
    model = built(config, task)
    print(task, config)
    check_engine(model, task, BACKENDS[number % 3], [None, other_size(draw, config, whole=task == "mae")])
    check_export(model, task, FORMATS[number % 3], tmp_path / "out")
