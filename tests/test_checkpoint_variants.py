"""Bare files, other sizes, overrides, and configurations that cannot be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import hierax
from folders import edit, fields, ones, report_of
from hierax import (
    HieraBackbone,
    HieraForImageClassification,
    HieraForPreTraining,
    HieraForVideoClassification,
    HieraModel,
    load,
)
from hierax.model.config import variant_config
from small import CONFIGS, abs_win_config, image_config, pixels, relative, video_config

Save = Callable[..., Path]
MAE = {"num_query_pool": 2}
STAGES = ("stage1", "stage2", "stage3", "stage4")


# -- bare files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "dialect", "suffix"),
    [("hiera_tiny_224", "official", ".pth"), ("mae_hiera_tiny_224", "transformers", ".safetensors"),
     ("hiera_small_abswin_256", "timm", ".bin")],
)  # fmt: skip
def test_a_bare_file_of_a_known_variant_is_recognized(variant: str, dialect: str, suffix: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        tensors = ones(hierax.create_model(variant), dialect)
    path = tmp_path / f"weights{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    model = load(path, dtype="auto")
    assert fields(model.config) == fields(variant_config(variant).replace(id2label=model.config.id2label))


def test_a_bare_file_of_another_size_and_head_tells_them(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = hierax.create_model("hiera_tiny_224", image_size=96, num_channels=4, num_labels=3)
    torch.save(ones(model, "official"), tmp_path / "tiny.pth")
    config = load(tmp_path / "tiny.pth", dtype="auto").config
    assert (config.image_size, config.num_channels, config.num_labels) == ((96, 96), 4, 3)


def test_a_bare_classifier_of_imagenet_gets_the_packaged_names(tmp_path: Path) -> None:
    with torch.device("meta"):
        torch.save(ones(hierax.create_model("hiera_tiny_224"), "official"), tmp_path / "tiny.pth")
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
        ValueError, match=r"model\.safetensors: its tensors fit no known variant; pass variant= with one.*--variant"
    ):
        HieraModel.from_pretrained(features)
    with pytest.raises(ValueError, match=r"model\.safetensors: 'hiera_medium' is not a variant; variants are"):
        HieraModel.from_pretrained(features, variant="hiera_medium")


def test_the_named_variant_is_built(tmp_path: Path) -> None:
    with torch.device("meta"):
        torch.save(ones(hierax.create_model("hiera_tiny_224"), "official"), tmp_path / "tiny.pth")
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


def test_a_record_that_was_not_made_for_the_native_size_is_left_alone(classifier: Path) -> None:
    (classifier / "preprocessor_config.json").write_text('{"crop_size": {"height": 50, "width": 50}, "size": 60}')
    model = HieraForImageClassification.from_pretrained(classifier, image_size=96)
    assert model.preprocessing is not None
    assert (model.preprocessing.crop_size, model.preprocessing.size) == (
        {"height": 50, "width": 50},
        {"shortest_edge": 60},
    )


def test_an_image_size_with_another_number_of_axes_is_refused(classifier: Path) -> None:
    with pytest.raises(ValueError, match=r"patch_size is \(7, 7\); expected 3"):
        HieraForImageClassification.from_pretrained(classifier, image_size=(8, 64, 64))


# -- configuration ----------------------------------------------------------------------------------------------------


def test_an_override_of_an_unknown_field_is_refused_with_its_name(classifier: Path) -> None:
    for cls in (HieraForImageClassification, HieraBackbone):
        with pytest.raises(ValueError, match=r"'image_sizes' .*did you mean image_size\?"):
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
        ("architecture", "vit_base", "architecture is 'vit_base', which is not a variant of Hiera"),
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
        ValueError, match=r"(config\.json|safetensors): .*(is .*(expected|only)|impossible sizes|shape)"
    ):
        HieraModel.from_pretrained(features)


def test_a_configuration_of_another_model_is_refused(classifier: Path) -> None:
    edit(classifier, model_type="vit")
    with pytest.raises(ValueError, match=r"config\.json: model_type is 'vit'; expected 'hiera'"):
        HieraForImageClassification.from_pretrained(classifier)


def test_a_class_that_does_not_go_with_the_file_says_so(classifier: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json: image_size is \(64, 64\)"):
        HieraForVideoClassification.from_pretrained(classifier)
