"""Official, timm and our own files: what is written is what is read, bit for bit and field for field."""

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
from hierax import (
    Hiera,
    HieraBackbone,
    HieraConfig,
    HieraForImageClassification,
    HieraForPreTraining,
    HieraForVideoClassification,
    HieraModel,
    Preprocessing,
    convert,
    load,
)
from hierax.checkpoint.save import named_tensors, to_abs_win
from small import CONFIGS, abs_win_config, image_config, line_config, pixels, randomise, relative, video_config

Save = Callable[..., Path]
MAE = {"num_query_pool": 2, "mask_ratio": 0.5}
MODELS: dict[str, tuple[Any, HieraConfig]] = {
    "features": (HieraModel, image_config()),
    "encoder": (Hiera, image_config()),
    "backbone": (HieraBackbone, image_config(out_features=("stem", "stage3"))),
    "classifier": (HieraForImageClassification, image_config(num_query_pool=1)),
    "abs-win": (HieraForImageClassification, abs_win_config()),
    "mae": (HieraForPreTraining, image_config(**MAE)),
    "wide mae": (HieraForPreTraining, image_config(image_size=(64, 96), **MAE)),
    "clips": (HieraForVideoClassification, video_config()),
    "clip mae": (HieraForPreTraining, video_config(**MAE)),
    "line mae": (HieraForPreTraining, line_config(**MAE)),
    "volume": (HieraForImageClassification, CONFIGS["volume"]()),
}
IN = {
    "transformers": tuple(MODELS),
    "official": ("features", "encoder", "backbone", "classifier", "mae", "wide mae", "clips", "clip mae", "volume"),
    "timm": ("features", "encoder", "backbone", "classifier", "abs-win"),
}
PAIRS = [(dialect, kind) for dialect, kinds in IN.items() for kind in kinds]
EVERYTHING: dict[str, Any] = {
    "id2label": {i: f"näme {i}" for i in range(5)},
    "license": "CC-BY-NC-4.0",
    "drop_path_rate": 0.1,
    "dropout": 0.2,
    "initializer_range": 0.03,
    "position_resize": "window",
    "normalize_pixel_loss": False,
    "problem_type": "multi_label_classification",
    "extra": {"unknown": {"a": [1, None]}},
}


def fields(config: HieraConfig) -> dict[str, Any]:
    """All fields but the unknown keys."""
    return {name: value for name, value in vars(config).items() if name != "extra"}


def assert_same_model(a: Any, b: Any) -> None:
    before, after = a.state_dict(), b.state_dict()
    assert type(a) is type(b)
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert [name for name in before if before[name].dtype != after[name].dtype] == []
    assert fields(a.config) == fields(b.config)


def model_with_everything(kind: str) -> Any:
    """A model whose configuration and preprocessing differ from all defaults."""
    cls, config = MODELS[kind]
    changes = EVERYTHING if config.position_embedding != "abs_win" else EVERYTHING | {"position_resize": "bicubic"}
    model: Any = randomise(cls(config.replace(**changes))).eval()
    model.preprocessing = Preprocessing(
        crop_size={"height": 96, "width": 96}, image_mean=(0.1, 0.2, 0.3), extra={"note": "x"}
    )
    return model


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
    model: Any = randomise(HieraForImageClassification(image_config(image_size=(64, 96), **changes)))
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
    model: Any = randomise(HieraForPreTraining(video_config(**MAE)))
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
        ("classifier", {"image_size": (50, 64)}, "a native size that is no multiple of the mask unit"),
        ("line mae", {}, "pretraining but of images"),
    ],
)
def test_what_the_official_dialect_cannot_say_is_refused(
    kind: str, changes: dict[str, Any], what: str, saved: Save, tmp_path: Path
) -> None:
    cls, config = MODELS[kind]
    folder = saved(cls, config.replace(**changes))
    for target in (tmp_path / "out", tmp_path / "out.pth"):
        with pytest.raises(ValueError, match=f"the official dialect cannot express .*{what}"):
            convert(folder, target, to="official")
        assert not target.exists()


# -- timm -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mae", "clips", "volume"])
def test_timm_has_neither_clips_nor_decoders(kind: str, saved: Save, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the timm dialect cannot express .*(clips|decoder)"):
        convert(saved(*MODELS[kind]), tmp_path / "out", to="timm")


@pytest.mark.parametrize("dialect", ["timm", "official"])
def test_norms_of_a_backbone_have_no_name_elsewhere(dialect: str, saved: Save, tmp_path: Path) -> None:
    folder = saved(HieraBackbone, image_config(), norms=True)
    with pytest.raises(ValueError, match=rf"the {dialect} dialect has no name for the tensor norms\.stage4"):
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
    with pytest.raises(ValueError, match=r"missing: norm\.weight, norm\.bias; pass new=\('norm',\)"):
        HieraModel.from_pretrained(folder)
    assert HieraModel.from_pretrained(folder, new="norm").loading_report.renewed == ["norm"]  # type: ignore[union-attr]
    assert Hiera.from_pretrained(folder).loading_report.missing == []  # type: ignore[union-attr]


def test_a_timm_mae_file_converts_as_the_encoder_alone(tmp_path: Path) -> None:
    model = convert(timm_folder(tmp_path / "a"), tmp_path / "b")
    assert type(model) is Hiera
    assert not any("pooler" in name for name in load_file(tmp_path / "b" / "model.safetensors"))
    assert_same_model(model, Hiera.from_pretrained(tmp_path / "b"))


def test_a_norm_that_was_trained_since_is_kept_by_timms_dialect(tmp_path: Path) -> None:
    model = HieraModel.from_pretrained(timm_folder(tmp_path / "a"), new="norm")
    hierax.checkpoint.save_model(model, tmp_path / "b", dialect="timm")
    assert_same_model(model, HieraModel.from_pretrained(tmp_path / "b"))


def test_timms_record_gives_licence_and_preprocessing_and_is_written_back(tmp_path: Path) -> None:
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


def without_notes(folder: Path) -> None:
    """As the packages would have written the weights."""
    tensors = {name: t.clone() for name, t in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


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
    out = model(x, output_hidden_states=True, **keep)
    return [*out.reshaped_hidden_states, out.logits]


def test_a_normalised_backbone_becomes_abs_win_with_its_norms() -> None:
    model: Any = randomise(HieraBackbone(image_config(), norms=True))
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
