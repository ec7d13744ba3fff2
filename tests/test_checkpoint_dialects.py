"""What is written in any dialect is what is read, bit for bit and field for field."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import hierax
from folders import (
    MODELS,
    assert_same_model,
    model_with_everything,
)
from hierax import (
    Hiera,
    HieraBackbone,
    HieraForImageClassification,
    HieraForPreTraining,
    HieraModel,
    convert,
    load,
)
from hierax.checkpoint.save import named_tensors, to_abs_win
from small import image_config, pixels, randomize, relative

Save = Callable[..., Path]
IN = {
    "transformers": tuple(MODELS),
    "official": ("features", "encoder", "backbone", "classifier", "mae", "wide mae", "clips", "clip mae", "volume"),
    "timm": ("features", "encoder", "backbone", "classifier", "abs-win"),
}
PAIRS = [(dialect, kind) for dialect, kinds in IN.items() for kind in kinds]


@pytest.mark.parametrize(("dialect", "kind"), PAIRS)
def test_every_dialect_round_trips_without_loss(dialect: str, kind: str, tmp_path: Path) -> None:
    model = model_with_everything(kind)
    hierax.checkpoint.save_model(model, tmp_path, dialect=dialect)
    again = type(model).from_pretrained(tmp_path)
    assert_same_model(model, again)
    assert again.preprocessing == model.preprocessing
    assert again.config.extra["unknown"] == {"a": [1, None]}
    report = again.loading_report
    assert (report.dialect, report.missing, report.unexpected, report.changed) == (dialect, [], [], [])


@pytest.mark.parametrize("kind", IN["official"])
def test_a_pth_file_round_trips_without_loss(kind: str, tmp_path: Path) -> None:
    model = model_with_everything(kind)
    model.save_pretrained(tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b.pth", to="official")
    again = type(model).from_pretrained(tmp_path / "b.pth")
    assert_same_model(model, again)
    assert again.preprocessing == model.preprocessing
    read = torch.load(tmp_path / "b.pth", weights_only=True)
    assert read["model_state"].keys() == named_tensors(model, "official").keys()


@pytest.mark.parametrize(("dialect", "kind"), PAIRS)
def test_converting_there_and_back_loses_nothing(dialect: str, kind: str, tmp_path: Path) -> None:
    model = model_with_everything(kind)
    model.save_pretrained(tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b", to=dialect)
    convert(tmp_path / "b", tmp_path / "c", to="transformers")
    assert_same_model(model, type(model).from_pretrained(tmp_path / "c"))
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in "ac")
    assert before.keys() == after.keys()
    processors = [json.loads((tmp_path / f / "preprocessor_config.json").read_text()) for f in "abc"]
    assert processors[0] == processors[1] == processors[2]


@pytest.mark.parametrize("kind", MODELS)
def test_load_and_convert_find_the_class_that_was_saved(kind: str, tmp_path: Path) -> None:
    model = model_with_everything(kind)
    model.save_pretrained(tmp_path / "a")
    assert type(convert(tmp_path / "a", tmp_path / "b")) is type(model)
    if kind != "encoder":  # which has no norm for the pooled output of HieraModel
        assert type(load(tmp_path / "b")) is type(model)


def test_tensors_keep_their_own_precision_when_converted(saved: Save, tmp_path: Path) -> None:
    folder = saved(HieraModel, image_config())
    tensors = load_file(folder / "model.safetensors")
    mixed = {name: t if "norm" in name else t.to(torch.float16) for name, t in tensors.items()}
    save_file(mixed, folder / "model.safetensors", metadata={"format": "pt"})
    convert(folder, tmp_path / "official", to="official")
    convert(tmp_path / "official", tmp_path / "again")
    after = load_file(tmp_path / "again" / "model.safetensors")
    assert all(after[name].dtype == t.dtype and torch.equal(after[name], t) for name, t in mixed.items())


# -- converting -------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("kind", ["classifier", "mae", "backbone", "encoder", "line mae", "volume"])
def test_an_absolute_table_becomes_abs_win_with_equal_outputs_at_the_native_size(
    kind: str, saved: Save, tmp_path: Path
) -> None:
    cls, config = MODELS[kind]
    folder = saved(cls, config)
    convert(folder, tmp_path / "abswin", pos_embed="abswin")
    before, after = cls.from_pretrained(folder), cls.from_pretrained(tmp_path / "abswin")
    assert after.config.position_embedding == "abs_win"
    assert after.config.global_position_size == config.token_grid(config.image_size)
    x = pixels(config)
    for a, b in zip(*(maps_of(model, x) for model in (before, after)), strict=True):
        assert relative(b, a) <= 1e-6


def maps_of(model: Any, x: Tensor) -> list[Tensor]:
    if isinstance(model, Hiera):
        features = model(x, stages=range(5))
        return [features.grid(stage) for stage in range(5)]
    if isinstance(model, HieraBackbone):
        return list(model(x).feature_maps)
    keep = {}
    if isinstance(model, HieraForPreTraining):
        units = torch.Size(model.config.unit_grid(x.shape[2:])).numel()
        keep = {"keep": torch.arange(units).expand(len(x), -1) % 2 == 0}
    out: Any = model(x, output_hidden_states=True, **keep)
    return [*out.reshaped_hidden_states, out.logits]


def test_a_normalized_backbone_becomes_abs_win_with_its_norms() -> None:
    model: Any = randomize(HieraBackbone(image_config(), norms=True))
    after = to_abs_win(model)
    assert torch.equal(after.state_dict()["norms.stage4.weight"], model.state_dict()["norms.stage4.weight"])


@pytest.mark.parametrize("kind", ["abs-win", "clips"])
def test_only_absolute_tables_become_abs_win(kind: str, saved: Save, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"position_embedding is '(abs_win|separable)'; expected 'absolute'"):
        convert(saved(*MODELS[kind]), tmp_path / "out", pos_embed="abswin")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "jax"}, "to is 'jax'; expected one of transformers, timm, official"),
        ({"pos_embed": "relative"}, "pos_embed is 'relative'; expected 'abswin'"),
    ],
)
def test_a_bad_option_of_convert_is_refused(options: dict[str, Any], message: str, saved: Save, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        convert(saved(HieraModel, image_config()), tmp_path / "out", **options)


@pytest.mark.parametrize(("to", "file"), [("transformers", "x.pth"), ("timm", "x.pth"), ("official", "x.safetensors")])
def test_a_file_as_target_is_for_official_pth_files_alone(to: str, file: str, saved: Save, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{file}: expected a folder to write to"):
        convert(saved(HieraModel, image_config()), tmp_path / file, to=to)


def test_a_folder_can_be_converted_onto_itself(saved: Save) -> None:
    folder = saved(HieraForImageClassification, image_config())
    before = HieraForImageClassification.from_pretrained(folder)
    for dialect in ("official", "timm", "transformers"):
        convert(folder, folder, to=dialect)
        again = HieraForImageClassification.from_pretrained(folder)
        assert again.loading_report is not None
        assert again.loading_report.dialect == dialect
        assert_same_model(before, again)
