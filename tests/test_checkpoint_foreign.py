"""Folders of the official package and of timm: what they say, and what their dialects cannot."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import hierax
from folders import (
    MODELS,
    assert_same_model,
    fields,
    model_with_everything,
    without_notes,
)
from hierax import (
    Hiera,
    HieraBackbone,
    HieraConfig,
    HieraForImageClassification,
    HieraForPreTraining,
    HieraModel,
    convert,
)
from hierax.checkpoint.save import named_tensors, save_model
from hierax.processing import Preprocessing
from small import abs_win_config, image_config, randomize, video_config

Save = Callable[..., Path]
MAE = {"num_query_pool": 2, "mask_ratio": 0.5}


# -- official ---------------------------------------------------------------------------------------------------------

ARGUMENTS: dict[str, Any] = {
    "input_size": [64, 96], "in_chans": 3, "embed_dim": 8, "num_heads": 1, "num_classes": 5, "stages": [1, 2, 3, 2],
    "q_pool": 3, "q_stride": [2, 2], "mask_unit_size": [8, 8], "mask_unit_attn": [True, True, False, False],
    "dim_mul": 2.0, "head_mul": 2.0, "patch_kernel": [7, 7], "patch_stride": [4, 4], "patch_padding": [3, 3],
    "mlp_ratio": 4.0, "drop_path_rate": 0.1, "norm_layer": "LayerNorm", "head_dropout": 0.25, "head_init_scale": 0.001,
    "sep_pos_embed": False,
}  # fmt: skip
PASSED = ("input_size", "embed_dim", "num_classes", "stages", "drop_path_rate", "head_dropout")


def official_folder(folder: Path, values: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    """A folder as the authors' package writes it."""
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def official_tensors(**changes: Any) -> dict[str, Tensor]:
    model: Any = randomize(HieraForImageClassification(image_config(image_size=(64, 96), **changes)))
    return {name: t.clone() for name, t in named_tensors(model, "official").items()}


@pytest.mark.parametrize("names", [tuple(ARGUMENTS), PASSED], ids=["all", "passed"])
def test_both_forms_of_the_official_config_are_read(names: tuple[str, ...], tmp_path: Path) -> None:
    folder = official_folder(tmp_path, {name: ARGUMENTS[name] for name in names}, official_tensors())
    config = HieraForImageClassification.from_pretrained(folder).config
    expected = image_config(image_size=(64, 96), drop_path_rate=0.1, dropout=0.25)
    decoder = ("decoder_hidden_size", "decoder_depth", "decoder_num_heads")
    assert {k: v for k, v in fields(config).items() if k not in decoder} == {
        k: v for k, v in fields(expected).items() if k not in decoder
    }


def test_all_arguments_of_an_official_folder_are_written_back(tmp_path: Path) -> None:
    folder = official_folder(tmp_path / "a", ARGUMENTS, official_tensors())
    convert(folder, tmp_path / "b")
    convert(tmp_path / "b", tmp_path / "c", to="official")
    assert json.loads((tmp_path / "c" / "config.json").read_text()) == ARGUMENTS


def test_an_official_folder_holds_only_arguments_of_the_constructor(tmp_path: Path) -> None:
    """The package passes everything in `config.json` to its constructor and fails at what that does not know."""
    hierax.checkpoint.save_model(model_with_everything("classifier"), tmp_path, dialect="official")
    assert set(json.loads((tmp_path / "config.json").read_text())) <= set(ARGUMENTS)


def test_clips_of_an_official_record_are_masked_by_nine_tenths(tmp_path: Path) -> None:
    model: Any = randomize(HieraForPreTraining(video_config(**MAE)))
    hierax.checkpoint.save_model(model, tmp_path, dialect="official")
    without_notes(tmp_path)
    assert HieraForPreTraining.from_pretrained(tmp_path).config.mask_ratio == 0.9


def test_a_replaced_head_does_not_get_the_noted_names_of_the_old_one(tmp_path: Path) -> None:
    hierax.checkpoint.save_model(model_with_everything("classifier"), tmp_path, dialect="official")
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        notes = file.metadata()
    tensors = load_file(tmp_path / "model.safetensors")
    tensors |= {"head.projection.weight": torch.ones(3, 64), "head.projection.bias": torch.ones(3)}
    save_file({name: t.clone() for name, t in tensors.items()}, tmp_path / "new.safetensors", metadata=notes)
    shutil.move(tmp_path / "new.safetensors", tmp_path / "model.safetensors")
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "num_classes": 3, "drop_path_rate": 0.3}))
    config = HieraForImageClassification.from_pretrained(tmp_path).config
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.drop_path_rate == 0.3  # what config.json says comes before our notes
    assert config.initializer_range == 0.03


@pytest.mark.parametrize(
    ("kind", "changes", "what"),
    [
        ("abs-win", {}, "abs-win position embeddings, layer scale, pooled shortcuts"),
        ("classifier", {"hidden_act": "relu"}, "hidden_act 'relu'"),
        ("classifier", {"layer_norm_eps": 1e-5}, "layer_norm_eps 1e-05"),
        ("classifier", {"num_heads": (1, 2, 4, 4)}, "heads that do not grow by one factor"),
        ("classifier", {"masked_unit_size": 16}, "mask units other than"),
        ("classifier", {"image_size": (50, 64)}, "a native size that is not a multiple of the mask unit"),
        ("line mae", {}, "pretraining but of images"),
    ],
)
def test_what_the_official_dialect_cannot_say_is_refused(
    kind: str, changes: dict[str, Any], what: str, saved: Save, tmp_path: Path
) -> None:
    cls, config = MODELS[kind]
    folder = saved(cls, config.replace(**changes))
    for target in (tmp_path / "out", tmp_path / "out.pth"):
        with pytest.raises(ValueError, match=f"the official format cannot express .*{what}"):
            convert(folder, target, to="official")
        assert not target.exists()


# -- timm -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mae", "clips", "volume"])
def test_timm_has_neither_clips_nor_decoders(kind: str, saved: Save, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the timm format cannot express .*(clips|3-D inputs|decoder)"):
        convert(saved(*MODELS[kind]), tmp_path / "out", to="timm")


def test_an_architecture_of_our_own_has_the_name_of_one_that_timm_has(tmp_path: Path) -> None:
    convert("hierax/femto", tmp_path / "out", to="timm")
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert values["architecture"] == "hiera_tiny_224"
    assert values["model_args"]["stages"] == [1, 2, 5, 1]
    assert HieraForImageClassification.from_pretrained(tmp_path / "out").config.depths == (1, 2, 5, 1)


@pytest.mark.parametrize("dialect", ["timm", "official"])
def test_norms_of_a_backbone_have_no_name_elsewhere(dialect: str, saved: Save, tmp_path: Path) -> None:
    folder = saved(HieraBackbone, image_config(), norms=True)
    with pytest.raises(ValueError, match=rf"the {dialect} format has no name for the tensor norms\.stage4"):
        convert(folder, tmp_path / "out", to=dialect)


def timm_folder(folder: Path, **changes: Any) -> Path:
    """A folder as timm's published ones are: no `model_args`."""
    hierax.checkpoint.save_model(model_with_everything("features"), folder, dialect="timm")
    without_notes(folder)
    (folder / "preprocessor_config.json").unlink()
    values = json.loads((folder / "config.json").read_text())
    record = {"tag": "mae", "input_size": [3, 64, 64], "interpolation": "bicubic", "crop_pct": 0.9, "num_classes": 0,
              "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "license": "cc-by-nc-4.0", **changes}  # fmt: skip
    (folder / "config.json").write_text(json.dumps({**values, "pretrained_cfg": record, "label_descriptions": {}}))
    return folder


def test_the_norm_of_timms_mae_files_counts_as_missing(tmp_path: Path) -> None:
    folder = timm_folder(tmp_path)
    with pytest.raises(ValueError, match=r"missing: norm\.weight, norm\.bias; pass reinit=\('norm',\)"):
        HieraModel.from_pretrained(folder)
    assert HieraModel.from_pretrained(folder, reinit="norm").loading_report.reinitialized == ["norm"]  # type: ignore[union-attr]
    assert Hiera.from_pretrained(folder).loading_report.missing == []  # type: ignore[union-attr]


def test_a_timm_mae_file_converts_as_the_encoder_alone(tmp_path: Path) -> None:
    model = convert(timm_folder(tmp_path / "a"), tmp_path / "b")
    assert type(model) is Hiera
    assert not any("pooler" in name for name in load_file(tmp_path / "b" / "model.safetensors"))
    assert_same_model(model, Hiera.from_pretrained(tmp_path / "b"))


def test_a_norm_that_was_trained_since_is_kept_by_timms_dialect(tmp_path: Path) -> None:
    model = HieraModel.from_pretrained(timm_folder(tmp_path / "a"), reinit="norm")
    hierax.checkpoint.save_model(model, tmp_path / "b", dialect="timm")
    assert_same_model(model, HieraModel.from_pretrained(tmp_path / "b"))


def test_timms_record_gives_license_and_preprocessing_and_is_written_back(tmp_path: Path) -> None:
    model = HieraModel.from_pretrained(timm_folder(tmp_path / "a", tag="other"))
    assert model.license == "CC-BY-NC-4.0"
    record = model.preprocessing
    assert record is not None
    assert (record.size, record.crop_size) == ({"shortest_edge": 71}, {"height": 64, "width": 64})
    assert (record.image_mean, record.image_std) == ((0.5,) * 3, (0.25,) * 3)
    convert(tmp_path / "a", tmp_path / "b")
    convert(tmp_path / "b", tmp_path / "c", to="timm")
    before, after = (json.loads((tmp_path / f / "config.json").read_text()) for f in "ac")
    assert after == before


def test_the_record_of_timm_is_that_of_the_model(tmp_path: Path) -> None:
    kept = {"timm": {"pretrained_cfg": {"mean": [0.1] * 4, "crop_pct": 0.5, "tag": "a", "test_crop_pct": 1.0}}}
    model = HieraForImageClassification(image_config(num_channels=4, extra=kept))
    model.preprocessing = Preprocessing(
        size={"shortest_edge": 80},
        crop_size={"height": 64, "width": 64},
        image_mean=(0.5,) * 4,
        image_std=(0.25,) * 4,
        resample=2,
    )
    save_model(model, tmp_path, dialect="timm")
    stated = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    expected = {
        "mean": [0.5] * 4,
        "std": [0.25] * 4,
        "interpolation": "bilinear",
        "crop_pct": 0.8,
        "crop_mode": "center",
    }
    assert {name: stated.get(name) for name in expected} == expected
    assert (stated["tag"], "test_crop_pct" in stated, stated["input_size"]) == ("a", False, [4, 64, 64])


def test_names_of_labels_are_those_of_timm_where_it_has_them(saved: Save) -> None:
    folder = saved(HieraForImageClassification, image_config(), dialect="timm")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "label_names": list("vwxyz")}))
    assert HieraForImageClassification.from_pretrained(folder).config.id2label[4] == "z"


@pytest.mark.parametrize(
    ("dialect", "config"),
    [
        ("official", image_config(num_heads=(2, 2, 2, 2), embed_dim_multiplier=3.0)),
        ("official", image_config(num_heads=(1, 4, 16, 64), embed_dim=16)),
        ("timm", image_config(num_heads=(2, 2, 2, 2), num_query_pool=1)),
        ("timm", abs_win_config(layer_scale_init=None)),
        ("timm", image_config(layer_scale_init=0.1)),
    ],
)
def test_architectures_of_ones_own_are_written_as_arguments(
    dialect: str, config: HieraConfig, saved: Save, tmp_path: Path
) -> None:
    folder = saved(HieraForImageClassification, config, dialect=dialect)
    without_notes(folder)
    again = HieraForImageClassification.from_pretrained(folder).config
    decoder = {name: getattr(config, name) for name in ("decoder_hidden_size", "decoder_depth", "decoder_num_heads")}
    assert fields(again.replace(**decoder)) == fields(config)


def test_an_argument_of_timm_that_was_changed_since_is_written_as_it_is(saved: Save, tmp_path: Path) -> None:
    folder = saved(HieraForImageClassification, image_config(num_query_pool=2), dialect="timm")
    edited = json.loads((folder / "config.json").read_text())
    edited["model_args"]["patch_drop_rate"] = 0.1
    (folder / "config.json").write_text(json.dumps(edited))
    model = HieraForImageClassification.from_pretrained(folder, num_query_pool=3)
    hierax.checkpoint.save_model(model, tmp_path / "again", dialect="timm")
    assert HieraForImageClassification.from_pretrained(tmp_path / "again").config.num_query_pool == 3
    arguments = json.loads((tmp_path / "again" / "config.json").read_text())["model_args"]
    assert arguments["patch_drop_rate"] == 0.1  # what is no field of ours is kept
    assert "q_pool" not in arguments  # timm's own


@pytest.mark.parametrize("kind", ["features", "encoder", "backbone"])
@pytest.mark.parametrize("dialect", ["official", "timm"])
def test_models_without_a_head_have_no_classes(kind: str, dialect: str, saved: Save) -> None:
    folder = saved(*MODELS[kind], dialect=dialect)
    assert json.loads((folder / "config.json").read_text())["num_classes"] == 0
