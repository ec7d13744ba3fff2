"""Foreign checkpoints of which their package makes another model than we would: refused, never guessed."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import hierax
from folders import fields
from hierax import HieraForImageClassification, HieraModel
from small import fresh_seed, image_config

transformers.utils.logging.disable_progress_bar()
Save = Callable[..., Path]
SMALL: dict[str, Any] = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "image_size": [64, 64]}


def theirs(folder: Path, **changes: Any) -> transformers.HieraModel:
    """A model of transformers, saved in `folder`."""
    model = transformers.HieraModel(transformers.HieraConfig(**{**SMALL, **changes})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_query_pool": 1}, "num_query_pool 1 with masked_unit_attention (True, True, False, False)"),
        ({"masked_unit_size": [16, 16], "image_size": [128, 128]}, "masked_unit_size (16, 16)"),
        ({"masked_unit_attention": [True, False, True, False]}, "masked_unit_attention (True, False, True, False)"),
        ({"masked_unit_attention": [False, True, True, False]}, "masked_unit_attention (False, True, True, False)"),
        ({"embed_dim_multiplier": 1.0, "num_heads": [1, 1, 1, 1]}, "stages that pool without growing in width"),
    ],
)
def test_geometry_that_transformers_computes_otherwise_is_refused(
    changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    theirs(tmp_path, **changes)
    with pytest.raises(ValueError, match=r"config.json: .*transformers builds another model from it") as caught:
        HieraModel.from_pretrained(tmp_path)
    assert named in str(caught.value)


def test_whatever_geometry_is_read_from_transformers_computes_the_same(tmp_path: Path) -> None:
    draw, equal = random.Random(fresh_seed()), 0
    for number in range(40):
        stages = draw.choice((2, 3, 4))
        unit = draw.choice((2 ** (stages - 1), 2 ** (stages - 1), 8))
        changes = {
            "depths": [1] * stages,
            "num_heads": [2**i for i in range(stages)],
            "num_query_pool": draw.randint(0, stages - 1),
            "masked_unit_size": [unit, unit],
            "masked_unit_attention": [draw.random() < 0.5 for _ in range(stages)],
        }
        pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(number))
        try:
            model = theirs(tmp_path / str(number), **changes)
            with torch.inference_mode():
                expected = model(pixels).last_hidden_state
        except (ValueError, RuntimeError):
            continue  # transformers cannot do it either
        try:
            ours = HieraModel.from_pretrained(tmp_path / str(number))
        except ValueError:
            continue
        equal += 1
        with torch.inference_mode():
            assert torch.allclose(ours(pixels).last_hidden_state, expected, atol=1e-4), changes
    assert equal


@pytest.mark.parametrize("dialect", ["official", "timm"])
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"mask_unit_size": [16, 16], "q_stride": [2, 2]}, "masked_unit_size (16, 16)"),
        ({"mask_unit_size": [8, 4], "q_stride": [2, 1]}, "masked_unit_size (8, 4)"),
    ],
)
def test_geometry_that_the_other_packages_compute_otherwise_is_refused(
    dialect: str, arguments: dict[str, Any], named: str, tmp_path: Path
) -> None:
    model: Any = HieraForImageClassification(image_config(image_size=(64, 64)))
    hierax.checkpoint.save_model(model, tmp_path, dialect=dialect)
    values = json.loads((tmp_path / "config.json").read_text())
    place = values.setdefault("model_args", {}) if dialect == "timm" else values
    place.update(arguments)
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"config.json: .*builds another model from it") as caught:
        HieraModel.from_pretrained(tmp_path)
    assert named in str(caught.value)


def test_unusual_geometry_of_our_own_folders_is_read(saved: Save) -> None:
    odd: tuple[dict[str, Any], ...] = (
        {"masked_unit_size": 16, "num_query_pool": 1},
        {"masked_unit_attention": (True, False, True, False)},
    )
    for changes in odd:
        config = image_config(**changes)
        folder = saved(HieraModel, config)
        assert json.loads((folder / "config.json").read_text())["model_type"] == "hierax"
        assert fields(HieraModel.from_pretrained(folder).config) == fields(config)
