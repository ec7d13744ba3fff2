"""What `from_pretrained` and `load` do with parts, labels, sizes and precisions, and what their report says."""

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import hierax
from hierax import (
    Hiera,
    HieraBackbone,
    HieraForImageClassification,
    HieraForPreTraining,
    HieraForVideoClassification,
    HieraModel,
    load,
)
from hierax.checkpoint.save import named_tensors
from hierax.config import HieraConfig, variant_config
from small import CONFIGS, abs_win_config, image_config, pixels, relative, video_config

Save = Callable[..., Path]
MAE = {"num_query_pool": 2}
STAGES = ("stage1", "stage2", "stage3", "stage4")


@pytest.fixture
def features(saved: Save) -> Path:
    return saved(HieraModel, image_config())


@pytest.fixture
def classifier(saved: Save) -> Path:
    return saved(HieraForImageClassification, image_config())


@pytest.fixture
def mae(saved: Save) -> Path:
    return saved(HieraForPreTraining, image_config(**MAE))


def report_of(model: Any) -> Any:
    assert model.loading_report is not None
    return model.loading_report


def edit(folder: Path, **changes: Any) -> None:
    """Other values in a folder's config.json; None removes a field."""
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """A folder's tensors, in memory."""
    return {name: t.clone() for name, t in load_file(folder / "model.safetensors").items()}


# -- parts ------------------------------------------------------------------------------------------------------------


def test_a_whole_file_leaves_nothing_to_report(classifier: Path) -> None:
    report = report_of(HieraForImageClassification.from_pretrained(classifier))
    assert (report.source, report.dialect) == (str(classifier), "transformers")
    assert not any((report.missing, report.unexpected, report.ignored, report.resized, report.renewed, report.changed))
    assert str(report) == f"{classifier} (transformers)"


@pytest.mark.parametrize(
    ("kind", "cls", "missing", "advice"),
    [
        ("features", HieraForImageClassification, "2 tensors are missing: head.weight, head.bias;",
         "pass new=('head',) to start them anew, or num_labels="),
        ("mae", HieraForImageClassification, "4 tensors are missing: norm.weight, norm.bias, head.weight, head.bias;",
         "pass new=('head', 'norm',) to start them anew"),
        ("mae", HieraModel, "norm.weight, norm.bias", "pass new=('norm',) to start"),
        ("classifier", HieraForPreTraining, "fusion.convs.0.weight",
         "pass new=('decoder', 'encoder_norm', 'fusion',) to start"),
    ],
)  # fmt: skip
def test_missing_parts_are_an_error_that_lists_them_and_says_what_to_pass(
    kind: str, cls: Any, missing: str, advice: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(kind)
    with pytest.raises(ValueError, match="tensors are missing") as caught:
        cls.from_pretrained(folder)
    message = str(caught.value)
    assert str(folder / "model.safetensors") in message
    assert missing in message
    assert advice in message


def test_num_labels_without_the_norm_still_names_the_norm(mae: Path) -> None:
    with pytest.raises(ValueError, match=r"2 tensors are missing: norm.weight, norm.bias; pass new=\('norm',\)"):
        HieraForImageClassification.from_pretrained(mae, num_labels=3)


def test_a_missing_tensor_of_the_encoder_is_named(features: Path) -> None:
    tensors = tensors_of(features)
    del tensors["encoder.stages.1.layers.1.mlp.fc1.bias"]
    save_file(tensors, features / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 tensors are missing: encoder\.blocks\.2\.mlp\.fc1\.bias$"):
        HieraModel.from_pretrained(features, new=("norm",))


def test_num_labels_renews_the_head_and_nothing_else(classifier: Path) -> None:
    model = HieraForImageClassification.from_pretrained(classifier, num_labels=7)
    assert model.head.weight.shape == (7, 64)
    assert model.config.id2label[6] == "LABEL_6"
    report = report_of(model)
    assert (report.renewed, report.missing, report.changed) == (["head"], [], ["num_labels 5 -> 7"])
    before = HieraForImageClassification.from_pretrained(classifier).state_dict()
    after = model.state_dict()
    assert [n for n in before if not n.startswith("head.") and not torch.equal(before[n], after[n])] == []


def test_a_new_head_is_drawn_as_a_fresh_models_head(classifier: Path) -> None:
    """Specification, section 2: truncated normal of 0.02 and biases 0.02, all times 0.001."""
    head = HieraForImageClassification.from_pretrained(classifier, num_labels=500).head
    assert float(head.weight.detach().std()) == pytest.approx(2e-5, rel=0.05)
    assert torch.allclose(head.bias, torch.full((500,), 2e-5))


def test_named_parts_start_anew_whether_or_not_the_file_has_them(features: Path, classifier: Path) -> None:
    for folder in (features, classifier):
        model = HieraForImageClassification.from_pretrained(folder, new=("norm", "head"))
        assert torch.equal(model.norm.weight, torch.ones(64))
        assert torch.equal(model.norm.bias, torch.full((64,), 0.02))
        assert report_of(model).renewed == ["head", "norm"]
    assert report_of(model).missing == []


def test_one_part_may_be_named_without_a_tuple(features: Path) -> None:
    assert report_of(HieraForImageClassification.from_pretrained(features, new="head")).renewed == ["head"]


def test_a_decoder_can_start_anew_on_a_classifier(classifier: Path) -> None:
    model = HieraForPreTraining.from_pretrained(classifier, new=("decoder", "encoder_norm", "fusion"))
    assert model.config.num_query_pool == 2
    assert torch.equal(model.encoder_norm.bias, torch.zeros(64))  # as a MAE is initialised
    assert torch.isfinite(model(pixels(model.config)).loss)


def test_an_unknown_part_is_refused_with_those_there_are(features: Path) -> None:
    with pytest.raises(ValueError, match=r"new names neck; parts are encoder, norm, head, norms, fusion"):
        HieraModel.from_pretrained(features, new=("neck",))


def test_parts_that_the_class_does_not_have_are_ignored_and_reported(mae: Path, classifier: Path) -> None:
    assert report_of(HieraModel.from_pretrained(mae, new="norm")).ignored == ["decoder", "encoder_norm", "fusion"]
    assert report_of(HieraBackbone.from_pretrained(classifier)).ignored == ["head", "norm"]
    assert report_of(Hiera.from_pretrained(classifier)).ignored == ["head", "norm"]


def test_names_that_are_none_of_hieras_are_reported(features: Path) -> None:
    save_file({**tensors_of(features), "optimizer.step": torch.ones(1)}, features / "model.safetensors")
    report = report_of(HieraModel.from_pretrained(features))
    assert report.unexpected == ["optimizer.step"]
    assert "unexpected: optimizer.step" in str(report)


def test_tensors_that_the_configuration_has_no_place_for_are_an_error(features: Path) -> None:
    edit(features, depths=[1, 2, 2, 2])
    with pytest.raises(
        ValueError, match=r"safetensors: the configuration has no place for encoder\.stages\.3\.layers\."
    ):
        HieraModel.from_pretrained(features)


def test_norms_of_a_backbone_are_read_where_a_file_has_them(saved: Save) -> None:
    folder = saved(HieraBackbone, image_config(out_features=("stage2", "stage4")), norms=True)
    model: Any = HieraBackbone.from_pretrained(folder, norms=True)
    assert torch.equal(
        model.norms["stage4"].weight, load_file(folder / "model.safetensors")["hidden_states_norms.stage4.weight"]
    )
    assert report_of(model).renewed == []
    assert len(HieraBackbone.from_pretrained(folder).norms) == 0


def test_norms_that_no_file_has_start_at_one_and_zero(saved: Save) -> None:
    folder = saved(HieraBackbone, image_config(out_features=("stage2",)), norms=True)
    model: Any = HieraBackbone.from_pretrained(folder, norms=True, out_features=STAGES)
    written = load_file(folder / "model.safetensors")["hidden_states_norms.stage2.weight"]
    assert torch.equal(model.norms["stage2"].weight, written)
    for name in ("stage1", "stage3", "stage4"):
        assert torch.equal(model.norms[name].weight, torch.ones_like(model.norms[name].weight))
        assert torch.equal(model.norms[name].bias, torch.zeros_like(model.norms[name].bias))
    assert report_of(model).renewed == ["norms"]
    assert len(report_of(model).missing) == 6


# -- the last stage of MAE records ------------------------------------------------------------------------------------


def test_features_of_a_mae_record_keep_its_last_stage(mae: Path) -> None:
    assert HieraModel.from_pretrained(mae, new="norm").config.num_query_pool == 2
    assert HieraBackbone.from_pretrained(mae, out_features=STAGES).strides == (4, 8, 16, 16)


def test_a_classifier_opened_from_a_mae_record_pools_its_last_stage_and_says_so(mae: Path) -> None:
    model = HieraForImageClassification.from_pretrained(mae, new=("norm", "head"))
    assert model.config.num_query_pool == 3
    assert report_of(model).changed == ["num_query_pool 2 -> 3"]


def test_num_query_pool_overrides_both(mae: Path) -> None:
    assert HieraBackbone.from_pretrained(mae, num_query_pool=3, out_features=STAGES).strides == (4, 8, 16, 32)
    assert (
        HieraForImageClassification.from_pretrained(mae, new=("norm", "head"), num_query_pool=2).config.num_query_pool
        == 2
    )


@pytest.mark.parametrize("pools", [0, 1, 2, 3])
def test_a_classifier_keeps_its_own_number_of_poolings(pools: int, saved: Save) -> None:
    folder = saved(HieraForImageClassification, image_config(num_query_pool=pools))
    for model in (
        HieraForImageClassification.from_pretrained(folder),
        HieraForImageClassification.from_pretrained(folder, num_labels=2),
        load(folder),
    ):
        assert model.config.num_query_pool == pools


def test_a_mae_keeps_its_own_number_of_poolings(saved: Save) -> None:
    folder = saved(HieraForPreTraining, image_config(num_query_pool=3))
    assert HieraForPreTraining.from_pretrained(folder).config.num_query_pool == 3


def test_a_classifier_pools_as_often_as_its_mask_unit_allows(saved: Save) -> None:
    folder = saved(HieraForPreTraining, image_config(masked_unit_size=4, num_query_pool=1))
    model = HieraForImageClassification.from_pretrained(folder, new=("norm", "head"))
    assert model.config.num_query_pool == 2


# -- load -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "config"),
    [
        (HieraModel, image_config()),
        (HieraBackbone, image_config(out_features=("stage1",))),
        (HieraForImageClassification, image_config()),
        (HieraForPreTraining, image_config(**MAE)),
        (HieraForVideoClassification, video_config()),
        (HieraForPreTraining, video_config(**MAE)),
        (HieraForImageClassification, CONFIGS["volume"]()),
        (HieraForVideoClassification, CONFIGS["volume"]()),
    ],
)
def test_load_finds_the_class(cls: Any, config: HieraConfig, saved: Save) -> None:
    assert type(load(saved(cls, config))) is cls


def test_load_keeps_a_backbones_norms(saved: Save) -> None:
    model = load(saved(HieraBackbone, image_config(), norms=True))
    assert isinstance(model, HieraBackbone)
    assert len(model.norms) == 1


@pytest.mark.parametrize(
    ("task", "cls"),
    [("features", HieraModel), ("backbone", HieraBackbone), ("classification", HieraForImageClassification)],
)
def test_task_overrides_what_load_finds(task: str, cls: Any, classifier: Path) -> None:
    assert type(load(classifier, task=task)) is cls


def test_num_labels_makes_load_a_classifier(features: Path) -> None:
    model = load(features, num_labels=3)
    assert isinstance(model, HieraForImageClassification)


def test_an_unknown_task_is_refused(classifier: Path) -> None:
    with pytest.raises(ValueError, match="task is 'segmentation'; expected one of features, backbone"):
        load(classifier, task="segmentation")


def test_a_class_of_ones_own_loads_and_saves_as_its_base(classifier: Path, tmp_path: Path) -> None:
    class Mine(HieraForImageClassification):
        pass

    Mine.from_pretrained(classifier).save_pretrained(tmp_path / "mine")
    assert json.loads((tmp_path / "mine" / "config.json").read_text())["architectures"] == [
        "HieraForImageClassification"
    ]


# -- bare files -------------------------------------------------------------------------------------------------------


def zeros(model: Any, dialect: str) -> dict[str, torch.Tensor]:
    """Tensors with the names and shapes of a model on the meta device, that take no memory to speak of."""
    return {
        name: torch.zeros(t.shape, dtype=torch.float16, device="cpu")
        for name, t in named_tensors(model, dialect).items()
    }


@pytest.mark.parametrize(
    ("variant", "dialect", "suffix"),
    [("hiera_tiny_224", "official", ".pth"), ("mae_hiera_tiny_224", "transformers", ".safetensors"),
     ("hiera_small_abswin_256", "timm", ".bin")],
)  # fmt: skip
def test_a_bare_file_of_a_known_variant_is_recognised(variant: str, dialect: str, suffix: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        tensors = zeros(hierax.create_model(variant), dialect)
    path = tmp_path / f"weights{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    model = load(path, dtype="auto")
    assert fields(model.config) == fields(variant_config(variant))


def fields(config: HieraConfig) -> dict[str, Any]:
    return {name: value for name, value in vars(config).items() if name not in ("extra", "id2label")}


def test_a_bare_file_of_another_size_and_head_tells_them(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = hierax.create_model("hiera_tiny_224", image_size=96, num_channels=4, num_labels=3)
    torch.save(zeros(model, "official"), tmp_path / "tiny.pth")
    config = load(tmp_path / "tiny.pth", dtype="auto").config
    assert (config.image_size, config.num_channels, config.num_labels) == ((96, 96), 4, 3)


def test_a_bare_classifier_of_imagenet_gets_the_packaged_names(tmp_path: Path) -> None:
    with torch.device("meta"):
        torch.save(zeros(hierax.create_model("hiera_tiny_224"), "official"), tmp_path / "tiny.pth")
    assert load(tmp_path / "tiny.pth", dtype="auto").config.id2label[281] == "tabby, tabby cat"


def test_names_of_ones_own_are_not_replaced_by_the_packaged_ones(saved: Save) -> None:
    folder = saved(HieraForImageClassification, image_config(num_labels=1000, embed_dim=8))
    assert load(folder).config.id2label[281] == "LABEL_281"  # stated in config.json


def test_kinetics_names_go_with_four_hundred_clip_labels(saved: Save) -> None:
    folder = saved(HieraForVideoClassification, video_config(num_labels=400))
    edit(folder, id2label=None, label2id=None)
    assert load(folder).config.id2label[399] == "zumba"


def test_a_bare_file_of_no_known_variant_asks_for_it(features: Path) -> None:
    (features / "config.json").unlink()
    with pytest.raises(
        ValueError, match=r"model\.safetensors: its tensors fit no known variant; pass variant= with one"
    ):
        HieraModel.from_pretrained(features)
    with pytest.raises(ValueError, match=r"model\.safetensors: 'hiera_medium' is no variant; variants are"):
        HieraModel.from_pretrained(features, variant="hiera_medium")


def test_the_named_variant_is_built(tmp_path: Path) -> None:
    with torch.device("meta"):
        torch.save(zeros(hierax.create_model("hiera_tiny_224"), "official"), tmp_path / "tiny.pth")
    load(tmp_path / "tiny.pth", variant="hiera_tiny_224", dtype="auto")
    with pytest.raises(ValueError, match=r"tiny\.pth: "):
        load(tmp_path / "tiny.pth", variant="hiera_small_224")
    with pytest.raises(ValueError, match=r"its tensors have 2 axes and hiera_base_16x224 has 3"):
        load(tmp_path / "tiny.pth", variant="hiera_base_16x224")


# -- sizes ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("method", ["bicubic", "window"])
@pytest.mark.parametrize("kind", ["image", "video", "line"])
def test_image_size_resizes_once_and_equals_the_unresized_model_at_that_size(
    kind: str, method: str, saved: Save
) -> None:
    config = CONFIGS[kind]()
    size = {"image": (96, 128), "video": (4, 96, 64), "line": (1024,)}[kind]
    folder = saved(HieraBackbone, config.replace(out_features=STAGES))
    plain = HieraBackbone.from_pretrained(folder, position_resize=method)
    resized = HieraBackbone.from_pretrained(folder, position_resize=method, image_size=size)
    before, after = ("x".join(map(str, config.token_grid(s))) for s in (config.image_size, size))
    assert report_of(resized).resized == [f"encoder.pos_embed {before} -> {after}"]
    assert resized.config.image_size == size
    x = pixels(config, size=size)
    assert max(relative(a, b) for a, b in zip(resized(x)[0], plain(x)[0], strict=True)) <= 1e-6


@torch.no_grad()
def test_image_size_resizes_a_decoder_too(mae: Path) -> None:
    plain, resized = (HieraForPreTraining.from_pretrained(mae, image_size=size) for size in (None, 128))
    assert report_of(resized).resized == ["encoder.pos_embed 16x16 -> 32x32", "decoder.pos_embed 4x4 -> 8x8"]
    x, noise = pixels(plain.config, size=(128, 128)), torch.rand(2, 16)
    assert relative(resized(x, noise=noise).logits, plain(x, noise=noise).logits) <= 1e-6


@torch.no_grad()
def test_abs_win_follows_image_size_without_a_resize(saved: Save) -> None:
    folder = saved(HieraForImageClassification, abs_win_config())
    model = HieraForImageClassification.from_pretrained(folder, image_size=96)
    assert (report_of(model).resized, report_of(model).changed) == ([], ["image_size (64, 64) -> (96, 96)"])
    x = pixels(model.config)
    assert torch.equal(model(x).logits, HieraForImageClassification.from_pretrained(folder)(x).logits)


def test_a_resized_model_is_saved_at_its_new_size_with_a_record_of_that_size(classifier: Path, tmp_path: Path) -> None:
    HieraForImageClassification.from_pretrained(classifier, image_size=96).save_pretrained(tmp_path / "m")
    again = HieraForImageClassification.from_pretrained(tmp_path / "m")
    assert again.config.image_size == (96, 96)
    assert again.preprocessing is not None
    assert again.preprocessing.crop_size == {"height": 96, "width": 96}


def test_an_image_size_with_another_number_of_axes_is_refused(classifier: Path) -> None:
    with pytest.raises(ValueError, match=r"patch_size is \(7, 7\); expected 3"):
        HieraForImageClassification.from_pretrained(classifier, image_size=(8, 64, 64))


# -- configuration ----------------------------------------------------------------------------------------------------


def test_an_override_of_an_unknown_field_is_refused_with_its_name(classifier: Path) -> None:
    for cls in (HieraForImageClassification, HieraBackbone):
        with pytest.raises(ValueError, match=r"'image_sizes' is no field of HieraConfig; fields are .*image_size"):
            cls.from_pretrained(classifier, image_sizes=3)
    with pytest.raises(ValueError, match="drop_path_rate is 2; expected"):
        load(classifier, drop_path_rate=2)


def test_overrides_are_reported(classifier: Path) -> None:
    model = HieraForImageClassification.from_pretrained(classifier, drop_path_rate=0.3, layer_norm_eps=1e-6)
    assert report_of(model).changed == ["drop_path_rate 0.0 -> 0.3"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("embed_dim", "8"),
        ("depths", 4),
        ("mlp_ratio", -1),
        ("image_size", "64"),
        ("id2label", ["a"]),
        ("num_heads", [3]),
    ],
)
def test_a_known_field_with_a_bad_value_is_refused_with_file_and_field(
    field: str, value: Any, classifier: Path
) -> None:
    edit(classifier, **{field: value})
    with pytest.raises(ValueError, match=rf"config\.json: {field} is ") as caught:
        HieraForImageClassification.from_pretrained(classifier)
    assert str(classifier) in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("q_pool", -1, "q_pool: num_query_pool is -1"),
        ("input_size", 64, "input_size is 64"),
        ("stages", "1232", "stages is '1232'"),
        ("num_heads", "1", "num_heads is '1'"),
        ("head_mul", 0, "head_mul is 0"),
        ("q_stride", [], r"q_stride is \[\]"),
        ("mask_unit_attn", 3, "mask_unit_attn: masked_unit_attention is 3"),
        ("q_stride", None, None),
    ],
)
def test_a_bad_official_argument_is_named_as_in_the_file(
    field: str, value: Any, named: str | None, saved: Save
) -> None:
    folder = saved(HieraForImageClassification, image_config(), dialect="official")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, field: value}))
    if named is None:  # null is the constructor's default
        HieraForImageClassification.from_pretrained(folder)
    else:
        with pytest.raises(ValueError, match=rf"config\.json: {named}"):
            HieraForImageClassification.from_pretrained(folder)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("architecture", "vit_base", "architecture is 'vit_base', which is no variant of Hiera"),
        ("architecture", ["hiera_tiny_224"], "architecture is "),
        ("model_args", [1], "model_args is "),
        ("model_args", {"embed_dim": "8"}, "embed_dim is '8'"),
        ("model_args", {"img_size": "8"}, "img_size is '8'"),
        ("pretrained_cfg", "x", "pretrained_cfg is 'x'"),
    ],
)
def test_a_bad_field_of_timm_is_named_with_the_file(field: str, value: Any, named: str, saved: Save) -> None:
    folder = saved(HieraForImageClassification, image_config(), dialect="timm")
    edit(folder, **{field: value})
    with pytest.raises(ValueError, match=rf"config\.json: {named}"):
        HieraForImageClassification.from_pretrained(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [("depths", [10**12, 1, 1, 1]), ("embed_dim", 10**30), ("image_size", [10**30] * 2), ("mlp_ratio", 1e300),
     ("embed_dim_multiplier", 1e300), ("num_labels", 10**12)],
)  # fmt: skip
def test_absurd_sizes_are_refused_at_once(field: str, value: Any, features: Path) -> None:
    edit(features, id2label=None, label2id=None, **{field: value})
    with pytest.raises(
        ValueError, match=r"(config\.json|safetensors): .*(is .*(expected|only)|beyond all bounds|shape)"
    ):
        HieraModel.from_pretrained(features)


def test_a_configuration_of_another_model_is_refused(classifier: Path) -> None:
    edit(classifier, model_type="vit")
    with pytest.raises(ValueError, match=r"config\.json: model_type is 'vit'; expected 'hiera'"):
        HieraForImageClassification.from_pretrained(classifier)


def test_a_class_that_does_not_go_with_the_file_says_so(classifier: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json: image_size is \(64, 64\)"):
        HieraForVideoClassification.from_pretrained(classifier)


# -- precision, device, mode ------------------------------------------------------------------------------------------


def test_models_come_in_eval_mode_and_single_precision(saved: Save, tmp_path: Path) -> None:
    folder = saved(HieraModel, image_config())
    HieraModel.from_pretrained(folder, dtype="float16").save_pretrained(tmp_path / "half")
    model = HieraModel.from_pretrained(tmp_path / "half")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any(part.training for part in model.modules())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", "torch.bfloat16"])
def test_a_precision_may_be_a_dtype_or_its_name(dtype: Any, classifier: Path) -> None:
    model = HieraForImageClassification.from_pretrained(classifier, dtype=dtype, num_labels=3)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_auto_is_the_precision_of_the_file_for_new_parts_too(classifier: Path, tmp_path: Path) -> None:
    HieraForImageClassification.from_pretrained(classifier, dtype="float16").save_pretrained(tmp_path / "half")
    model = HieraForImageClassification.from_pretrained(tmp_path / "half", dtype="auto", num_labels=3)
    assert {p.dtype for p in model.parameters()} == {torch.float16}


@pytest.mark.parametrize("dtype", ["int8", "nn", "half precision", torch.int64, 16])
def test_what_is_no_precision_is_refused(dtype: Any, classifier: Path) -> None:
    with pytest.raises(ValueError, match=r"dtype is .*; expected a floating-point dtype, its name, or 'auto'"):
        HieraForImageClassification.from_pretrained(classifier, dtype=dtype)


def test_a_device_is_where_all_weights_are(classifier: Path) -> None:
    model = HieraForImageClassification.from_pretrained(classifier, device="meta", num_labels=3)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    with pytest.raises(ValueError, match="device is 'gpu'; "):
        HieraForImageClassification.from_pretrained(classifier, device="gpu")


# -- how it is done ---------------------------------------------------------------------------------------------------


def test_loading_runs_no_initialiser(classifier: Path, mae: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("an initialiser ran")

    for name in (n for n in dir(torch.nn.init) if n.endswith("_") and not n.startswith("_")):
        monkeypatch.setattr(torch.nn.init, name, refuse)
    for name in ("normal_", "uniform_", "fill_", "zero_"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    HieraForImageClassification.from_pretrained(classifier)
    HieraForPreTraining.from_pretrained(mae)
    HieraModel.from_pretrained(classifier)


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)


def test_loading_prints_nothing_and_imports_neither_sympy_nor_the_hubs_client(classifier: Path) -> None:
    code = """
import sys
from hierax import HieraForImageClassification
model = HieraForImageClassification.from_pretrained(sys.argv[1])
assert "sympy" not in sys.modules and "torch._dynamo" not in sys.modules
assert "huggingface_hub" not in sys.modules and "transformers" not in sys.modules
"""
    done = run(code, str(classifier))
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("file", ["model.safetensors", "model.pth"])
def test_weights_are_mapped_from_the_file_and_not_copied(file: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        model = hierax.create_model("hiera_tiny_224")
    tensors = {name: torch.zeros(t.shape) for name, t in named_tensors(model, "official").items()}
    save_file(tensors, tmp_path / file) if file.endswith("safetensors") else torch.save(tensors, tmp_path / file)
    code = """
import sys, torch
from hierax import HieraForImageClassification
def private():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) // 1024
import hierax.checkpoint.load, safetensors, hierax.processing, hierax.models
before = private()
model = HieraForImageClassification.from_pretrained(sys.argv[1])
grown = private() - before
maps = [line.split()[0].split("-") for line in open("/proc/self/maps") if sys.argv[1] in line]
inside = [any(int(a, 16) <= p.data_ptr() < int(b, 16) for a, b in maps) for p in model.parameters()]
print(all(inside), grown)
"""
    inside, grown = run(code, str(tmp_path / file)).stdout.split()
    assert inside == "True"
    assert int(grown) < 40  # MiB; the file has 107


def test_training_a_mapped_model_does_not_change_the_file(classifier: Path) -> None:
    before = (classifier / "model.safetensors").read_bytes()
    model = HieraForImageClassification.from_pretrained(classifier).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(pixels(model.config), labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    assert (classifier / "model.safetensors").read_bytes() == before
    again = HieraForImageClassification.from_pretrained(classifier)
    assert not torch.equal(again.head.weight, model.head.weight)


def test_every_parameter_of_a_loaded_model_gets_a_gradient(mae: Path) -> None:
    model = HieraForPreTraining.from_pretrained(mae).train()
    model(pixels(model.config)).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@torch.no_grad()
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_loaded_models_can_be_pickled_and_copied(copied: Callable[[Any], Any], classifier: Path) -> None:
    model = HieraForImageClassification.from_pretrained(classifier)
    x = pixels(model.config)
    before = model(x).logits
    again = copied(model)
    assert torch.equal(again(x).logits, before)
    assert (again.config, again.preprocessing) == (model.config, model.preprocessing)
    assert again.head.weight.data_ptr() != model.head.weight.data_ptr()


# -- preprocessing ----------------------------------------------------------------------------------------------------


def test_the_record_of_a_folder_arrives_with_the_model(classifier: Path) -> None:
    record = {"crop_size": {"height": 50, "width": 60}, "image_mean": [0.1, 0.2, 0.3], "their_key": 1}
    (classifier / "preprocessor_config.json").write_text(json.dumps(record))
    model = HieraForImageClassification.from_pretrained(classifier)
    assert model.preprocessing == hierax.AutoImageProcessor.from_pretrained(classifier).record
    assert model.preprocessing is not None
    assert model.preprocessing.image_mean == (0.1, 0.2, 0.3)
    assert model.preprocessing.extra == {"their_key": 1}


def test_a_bad_record_is_named_with_its_file(classifier: Path) -> None:
    (classifier / "preprocessor_config.json").write_text('{"image_std": "x"}')
    for read in (HieraForImageClassification.from_pretrained, hierax.AutoImageProcessor.from_pretrained):
        with pytest.raises(ValueError, match=r"preprocessor_config\.json: image_std is 'x'"):
            read(classifier)


@pytest.mark.parametrize("dialect", ["transformers", "official"])
def test_without_a_record_the_convention_of_its_kind_is_taken_at_the_native_size(dialect: str, saved: Save) -> None:
    image = saved(HieraForImageClassification, image_config(image_size=(96, 64)), dialect=dialect)
    clips = saved(HieraForVideoClassification, video_config(), dialect=dialect)
    for folder, mean, crop, frames in ((image, 0.485, (96, 64), None), (clips, 0.45, (64, 64), 8)):
        record = hierax.AutoImageProcessor.from_pretrained(folder).record
        assert record == load(folder).preprocessing
        assert (record.image_mean[0], record.num_frames) == (mean, frames)
        assert tuple(record.crop_size.values()) == crop


@pytest.mark.parametrize("config", [image_config(num_channels=4), CONFIGS["line"](), CONFIGS["volume"]()])
def test_there_is_no_convention_for_other_inputs(config: HieraConfig, saved: Save) -> None:
    folder = saved(HieraForImageClassification, config)
    assert load(folder).preprocessing is None
    with pytest.raises(ValueError, match="has no preprocessing record"):
        hierax.AutoImageProcessor.from_pretrained(folder)


def test_the_published_record_is_unchanged_at_224_pixels(saved: Save) -> None:
    folder = saved(HieraForImageClassification, image_config(image_size=224))
    assert load(folder).preprocessing == hierax.Preprocessing()
