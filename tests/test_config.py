import copy
import dataclasses
import json
import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hierax.model.config import HieraConfig, list_models, variant_config
from hierax.model.plan import plan
from hierax.model.registry import create_model
from small import CONFIGS, image_config, video_config


def test_the_plan_of_a_small_model_is_the_published_one() -> None:
    """Derived by hand from the paper's section 3 for stages of 1, 2, 3, 2 blocks at drop path 0.7."""
    blocks = [
        (b.stage, b.dim, b.dim_out, b.heads, b.window is not None, b.pool)
        for b in plan(image_config(drop_path_rate=0.7))
    ]
    assert blocks == [
        (0, 8, 8, 1, True, 1),
        (1, 8, 16, 2, True, 4),
        (1, 16, 16, 2, True, 1),
        (2, 16, 32, 4, True, 4),  # still within units: the keys are those of stage 2
        (2, 32, 32, 4, False, 1),
        (2, 32, 32, 4, False, 1),
        (3, 32, 64, 8, False, 4),
        (3, 64, 64, 8, False, 1),
    ]


def test_drop_path_rises_linearly_over_all_blocks() -> None:
    rates = [b.drop_path for b in plan(image_config(drop_path_rate=0.7))]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])


def test_a_single_block_has_no_drop_path() -> None:
    config = HieraConfig(
        depths=(1,), num_heads=(1,), masked_unit_attention=(True,), num_query_pool=0, drop_path_rate=0.5
    )
    assert [b.drop_path for b in plan(config)] == [0.0]


def test_query_pooling_stops_after_num_query_pool_stages() -> None:
    assert [b.pool for b in plan(image_config(num_query_pool=2))] == [1, 4, 1, 4, 1, 1, 1, 1]


def test_video_pools_rows_and_columns_but_not_time() -> None:
    assert max(b.pool for b in plan(video_config())) == 4
    assert video_config().stage_stride(3) == (2, 32, 32)


def test_what_follows_from_the_number_of_axes_is_filled_in() -> None:
    line, volume = CONFIGS["line"](), CONFIGS["volume"]()
    assert (line.axes, line.patch_size, line.patch_stride, line.masked_unit_size) == (1, (7,), (4,), (8,))
    assert (volume.axes, volume.query_stride, volume.unit_pixels) == (3, (2, 2, 2), (32, 32, 32))
    assert not volume.is_video


@pytest.mark.parametrize(
    ("kind", "target", "size"),
    [
        ("image", "all", (16, 16)),
        ("video", "first_frame", (1, 16, 16)),
        ("line", "all", (16,)),
        ("volume", "all", (16, 16, 16)),
    ],
)
def test_the_mae_target_follows_from_the_input(kind: str, target: str, size: tuple[int, ...]) -> None:
    config = CONFIGS[kind](num_query_pool=2)
    assert (config.target, config.target_size) == (target, size)


def test_one_integer_as_image_size_is_a_square() -> None:
    assert image_config(image_size=96).image_size == (96, 96)


def test_unit_grid_counts_partly_filled_units() -> None:
    config = image_config()
    assert config.unit_grid((64, 64)) == (2, 2)
    assert config.unit_grid((65, 1)) == (3, 1)
    assert config.token_grid((65, 1)) == (24, 8)


def test_widths_and_strides_by_stage() -> None:
    config = image_config(num_query_pool=2)
    assert config.dims == (8, 16, 32, 64)
    assert [config.stage_stride(s) for s in range(4)] == [(4, 4), (8, 8), (16, 16), (16, 16)]
    assert config.hidden_size == 64


@pytest.mark.parametrize(
    ("name", "value"), [("embed_dim", 3), ("num_labels", 7), ("depths", (1,)), ("out_indices", (1,))]
)
def test_what_a_model_is_built_from_stays(name: str, value: Any) -> None:
    config = image_config()
    with pytest.raises(AttributeError, match=rf"{name} cannot be changed .* config.replace\({name}=…\)"):
        setattr(config, name, value)
    assert config == image_config()


def test_attributes_that_are_no_fields_are_kept_beside_and_not_saved() -> None:
    config: Any = image_config()
    config.use_cache = False
    assert config.use_cache is False
    assert config == image_config()
    assert hash(config) == hash(image_config())
    assert "use_cache" not in config.to_dict()
    assert not hasattr(config.replace(mask_ratio=0.5), "use_cache")
    assert copy.deepcopy(config).use_cache is pickle.loads(pickle.dumps(config)).use_cache is False


def test_labels_and_objectives_can_be_assigned() -> None:
    config = image_config(num_labels=2)
    config.id2label = {0: "cat", 1: "dog"}
    assert config.label2id == {"cat": 0, "dog": 1}
    config.label2id = {"ape": 1, "bee": 0}
    assert config.id2label == {0: "bee", 1: "ape"}
    config.problem_type, config.mask_ratio = "multi_label_classification", 0.3
    assert config == image_config(
        id2label={0: "bee", 1: "ape"}, problem_type="multi_label_classification", mask_ratio=0.3, num_labels=2
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("id2label", {0: "cat"}, "id2label has 1 labels; this model has 5"),
        ("label2id", {"cat": 4}, "id2label is .*expected names for the indices"),
        ("label2id", ["cat"], "label2id is .*expected an object of name: index"),
        ("problem_type", "ranking", "problem_type is 'ranking'"),
        ("mask_ratio", 60, "mask_ratio is 60; expected a number from 0 to below 1"),
    ],
)
def test_assigned_values_are_checked(name: str, value: Any, message: str) -> None:
    config = image_config()
    with pytest.raises(ValueError, match=message):
        setattr(config, name, value)
    assert config == image_config()


def test_labels_and_maps_can_be_given_the_other_way_round() -> None:
    assert HieraConfig(label2id={"cat": 0, "dog": 1}) == HieraConfig(id2label={0: "cat", 1: "dog"})
    assert HieraConfig(out_indices=[0, 2]) == HieraConfig(out_features=("stem", "stage2"))
    assert HieraConfig(out_indices=[-1]).out_indices == (4,)
    assert image_config(out_features=("stage1",)).replace(out_indices=(2, 3)).out_features == ("stage2", "stage3")
    assert image_config().replace(label2id={"cat": 0}).id2label == {0: "cat"}
    assert HieraConfig().out_indices is None
    with pytest.raises(ValueError, match=r"out_features is .*'stage1'.* but out_indices says .*'stage2'"):
        HieraConfig(out_features=("stage1",), out_indices=(2,))
    with pytest.raises(ValueError, match=r"out_indices is .*expected numbers from 0 to 4"):
        HieraConfig(out_indices=(5,))


def test_equal_configurations_are_equal_and_hash_alike() -> None:
    assert image_config() == image_config()
    assert hash(image_config()) == hash(image_config())
    assert image_config() != image_config(embed_dim=16)


def test_replace_checks_names_and_values() -> None:
    with pytest.raises(ValueError, match=r"'embed_dims' is not a field.*embed_dim"):
        image_config().replace(embed_dims=3)
    with pytest.raises(ValueError, match="embed_dim is 0"):
        image_config().replace(embed_dim=0)


def test_replacing_the_number_of_labels_replaces_their_names() -> None:
    named = image_config(num_labels=2, id2label={0: "cat", 1: "dog"})
    assert named.replace(num_labels=3).id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert named.replace(num_labels=2).id2label == {0: "cat", 1: "dog"}
    assert named.replace(id2label={0: "a", 1: "b", 2: "c"}).num_labels == 3


# every field, with values that cannot be: a bad one in a file must be named, whatever its type
BAD: list[tuple[str, Any]] = [
    *(("embed_dim", v) for v in (0, -8, "96", 9.5, True, None)),
    *(("image_size", v) for v in ((), (64, 64, 64, 64), (0, 64), (64.0, 64), "224", None, -3, (64, True))),
    *(("patch_size", v) for v in ((7,), "7", (7, 0))),
    *(("patch_stride", v) for v in (0, (4,), (4, "4"))),
    *(("patch_padding", v) for v in ((2, 2), (3,), (-1, 3))),
    *(("mlp_ratio", v) for v in (0, -1, "4", None, float("nan"), float("inf"), 1e9, [4])),
    *(("depths", v) for v in (5, (), (0, 1, 1, 1), "1234", None, (1.0, 1, 1, 1), (True, 1, 1, 1))),
    *(("num_heads", v) for v in (1, (1, 2, 4), (5, 2, 4, 8), (0, 2, 4, 8), "1248", None, (1.0, 2, 4, 8))),
    *(("embed_dim_multiplier", v) for v in (0, -1, "2", None, float("nan"), float("inf"), 0.1)),
    *(("num_query_pool", v) for v in (4, -1, "3", 2.0, None)),
    *(("query_stride", v) for v in (0, "2", (2,))),
    *(("masked_unit_size", v) for v in (4, 0, (8,), "8", (8, 6))),
    *(("masked_unit_attention", v) for v in ((True,), True, None, ("a", True, True, True), (1, 1, 0, 0))),
    *(("window_sizes", v) for v in (14, (8, 4, 14), (8, 4, 14, 7.0), (8, 4, -14, 7), (8, 4, 7, 7), "8")),
    *(("global_blocks", v) for v in (4, None, (99,), (-1,), (5, 4), (4, 4), ("4",), (4,))),
    *(("drop_path_rate", v) for v in (1, -0.1, "0", None, float("nan"))),
    *(("num_channels", v) for v in (0, "3", None)),
    *(("hidden_act", v) for v in ("tanh", None, ["gelu"])),
    *(("initializer_range", v) for v in ("a", -1, None)),
    *(("layer_norm_init", v) for v in ("a", None)),
    *(("layer_norm_eps", v) for v in (0, "a", None)),
    *(("decoder_hidden_size", v) for v in (0, "512")),
    *(("decoder_depth", v) for v in (0, "8")),
    *(("decoder_num_heads", v) for v in (0, 5)),
    *(("normalize_pixel_loss", v) for v in ("no", None)),
    *(("mask_ratio", v) for v in (1, -0.1, "0.6", None)),
    *(("dropout", v) for v in (1, "a")),
    *(("position_embedding", v) for v in ("relative", "separable", None, ["absolute"])),
    *(("position_resize", v) for v in ("linear", None)),
    *(("position_antialias", v) for v in ("no", None)),
    *(("global_position_size", v) for v in ("a", 0, (7,))),
    *(("layer_scale_init", v) for v in ("a", True)),
    *(("pooled_shortcut", v) for v in ("no", None)),
    *(("fpn_hidden_size", v) for v in (0, -1, "256", 2.0)),
    *(("fpn_top_down_levels", v) for v in (2, (3, 2), (2, 2), (-1,), ("2",), None)),
    *(("num_feature_levels", v) for v in (0, "3", None)),
    *(("segmentation_head", v) for v in ("upernet", None, ["fpn"])),
    *(("segmentation_hidden_size", v) for v in (0, "64", None)),
    *(("semantic_loss_ignore_index", v) for v in (None, "255", 255.0, True)),
    *(("target", v) for v in ("half", "first_frame", 3)),
    *(("num_labels", v) for v in (-1, "10", 2.0, True, 10**9)),
    *(("id2label", v) for v in (["a"], {1: "a"}, {"x": "a"}, {0: 5}, "abc", 5)),
    *(("problem_type", v) for v in ("ranking", 3)),
    *(("out_features", v) for v in ("stage1", ("stage9",), 5, ("stage2", "stage1"), ("stage1", "stage1"))),
    *(("license", v) for v in (5,)),
    *(("label2id", v) for v in (["a"], {"a": "b"}, 5, {"a": 0, "b": 0})),
    *(("id2label", v) for v in (["a", "b"], ("a",), {"0": "a", None: "b"})),
    *(("out_indices", v) for v in ((5,), "1", 5, (1.0,))),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=[f"{n}={v!r}" for n, v in BAD])
def test_a_bad_value_is_refused_with_its_field_and_itself(name: str, value: Any) -> None:
    labels = {} if name in ("num_labels", "id2label", "label2id") else {"num_labels": 5}
    with pytest.raises(ValueError, match=f"^{name} is ") as caught:
        HieraConfig(**{**labels, "embed_dim": 8, "image_size": (64, 64), name: value})
    assert repr(value) in str(caught.value)
    assert "expected" in str(caught.value)


def test_a_long_value_is_cut_short_in_the_message() -> None:
    with pytest.raises(ValueError, match="id2label is") as caught:
        image_config(id2label={i + 1: f"label {i}" for i in range(1000)}, num_labels=1000)
    assert len(str(caught.value)) < 400


def test_every_field_but_the_unknown_ones_is_checked() -> None:
    assert {f.name for f in dataclasses.fields(HieraConfig)} - {name for name, _ in BAD} == {"extra"}


def test_abs_win_needs_the_size_of_its_global_table() -> None:
    with pytest.raises(ValueError, match="global_position_size is None"):
        image_config(position_embedding="abs_win")


def test_a_pooled_shortcut_needs_widths_that_double() -> None:
    with pytest.raises(ValueError, match="pooled_shortcut is True"):
        image_config(pooled_shortcut=True, embed_dim_multiplier=3.0)


@pytest.mark.parametrize("changes", [{"patch_size": (8, 8)}, {"patch_stride": (9, 9)}], ids=str)
def test_patches_that_do_not_tile_the_picture_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="patch_padding is") as caught:
        image_config(**changes)
    assert all(str(value) in str(caught.value) for value in changes.values())


def test_patches_without_overlap_are_allowed() -> None:
    config = image_config(patch_size=4, patch_padding=0)
    assert config.unit_pixels == (32, 32)


# -- JSON -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_models())
def test_every_variant_survives_json(name: str) -> None:
    config = variant_config(name)
    assert HieraConfig.from_dict(json.loads(config.to_json())) == config


def test_fields_that_were_changed_survive_json() -> None:
    config = CONFIGS["abs_win"](
        id2label={0: "Ä", 1: "b"},
        num_labels=2,
        out_features=("stem", "stage2"),
        license="cc-by-nc-4.0",
        problem_type="multi_label_classification",
        position_resize="window",
        drop_path_rate=0.2,
    )
    assert HieraConfig.from_dict(json.loads(config.to_json())) == config


def test_unknown_keys_are_kept_and_written_back() -> None:
    values = {**image_config().to_dict(), "model_type": "hiera", "their_field": {"a": [1, 2]}}
    config = HieraConfig.from_dict(values)
    assert config.extra == {"model_type": "hiera", "their_field": {"a": [1, 2]}}
    assert config.to_dict() == values


def test_label_names_are_in_the_order_of_the_logits_whatever_the_order_of_the_file() -> None:
    """JSON that is sorted by its keys has "10" before "2"."""
    names = {str(i): f"label {i}" for i in sorted(map(str, range(12)))}
    expected = [f"label {i}" for i in range(12)]
    for config in (
        image_config(num_labels=12, id2label=names),
        image_config(num_labels=12, label2id={name: int(i) for i, name in names.items()}),
    ):
        assert list(config.id2label.values()) == expected
        config.id2label = dict(sorted(config.id2label.items(), reverse=True))
        assert list(config.id2label.values()) == expected


def test_label_names_are_written_as_transformers_writes_them() -> None:
    written = image_config(num_labels=2, id2label={0: "cat", 1: "dog"}).to_dict()
    assert written["id2label"] == {"0": "cat", "1": "dog"}
    assert written["label2id"] == {"cat": 0, "dog": 1}
    assert "num_labels" not in written


def test_null_in_a_file_stands_for_the_default() -> None:
    config = HieraConfig.from_dict({"decoder_hidden_size": None, "decoder_depth": None, "embed_dim": 96})
    assert (config.decoder_hidden_size, config.decoder_depth) == (512, 8)
    unset: dict[str, Any] = dict.fromkeys(("decoder_hidden_size", "decoder_depth", "decoder_num_heads"))
    assert HieraConfig(**unset) == HieraConfig()


def test_a_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: not a JSON file"):
        HieraConfig.from_json_file(path)
    path.write_text("[1]")
    with pytest.raises(ValueError, match=r"config\.json: holds a list"):
        HieraConfig.from_json_file(path)


@pytest.mark.parametrize(
    ("field", "value"), [("mlp_ratio", "4"), ("depths", 5), ("id2label", [1]), ("image_size", "x")]
)
def test_a_bad_field_in_a_file_is_named_with_the_file(tmp_path: Path, field: str, value: Any) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({field: value}))
    with pytest.raises(ValueError, match=rf"config\.json: {field} is"):
        HieraConfig.from_json_file(path)


# -- variants ---------------------------------------------------------------------------------------------------------


def test_the_table_holds_all_published_architectures() -> None:
    images = [f"hiera_{s}_224" for s in ("tiny", "small", "base", "base_plus", "large", "huge")]
    videos = [f"hiera_{s}_16x224" for s in ("base", "base_plus", "large", "huge")]
    expected = {*images, *videos, *(f"mae_{n}" for n in images + videos)}
    own = {"hiera_femto_160", "mae_hiera_femto_160"}
    own |= {f"sam2_hiera_{s}" for s in ("tiny", "small", "base_plus", "large")}
    assert set(list_models()) == expected | {"hiera_small_abswin_256", "hiera_base_abswin_256"} | own


@pytest.mark.parametrize("name", [n for n in list_models() if "224" in n])
def test_mask_units_are_32_pixels_and_mae_encoders_pool_twice(name: str) -> None:
    config = variant_config(name)
    video = "16x224" in name
    assert config.unit_pixels == ((2, 32, 32) if video else (32, 32))
    assert math.prod(config.unit_grid(config.image_size)) == (392 if video else 49)
    assert config.num_query_pool == (2 if name.startswith("mae") else 3)
    assert config.mask_ratio == (0.9 if video else 0.6)
    assert config.decoder_num_heads == 16


def test_head_dimensions_are_those_of_the_paper() -> None:
    widths = {"tiny": 96, "small": 96, "base": 96, "base_plus": 56, "large": 72, "huge": 64}
    for size, width in widths.items():
        blocks = plan(variant_config(f"hiera_{size}_224"))
        assert {b.dim_out // b.heads for b in blocks} == {width}, size


def test_femto_is_small_enough_to_come_with_the_package() -> None:
    for name in ("hiera_femto_160", "mae_hiera_femto_160"):
        with torch.device("meta"):
            model = create_model(name)
        assert 2 * model.num_parameters() < 8_000_000, name  # bytes in half precision


def test_only_the_small_abs_win_variant_has_the_pooled_shortcut() -> None:
    small, base = variant_config("hiera_small_abswin_256"), variant_config("hiera_base_abswin_256")
    assert (small.pooled_shortcut, small.global_position_size) == (True, (16, 16))
    assert (base.pooled_shortcut, base.global_position_size) == (False, (14, 14))
    assert small.layer_scale_init == base.layer_scale_init == 1e-5


def test_an_unknown_variant_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match=r"'hiera_medium_224' is not a variant.*hiera_tiny_224"):
        variant_config("hiera_medium_224")


def test_overrides_of_a_variant_are_checked() -> None:
    assert variant_config("hiera_tiny_224", num_channels=4).num_channels == 4
    with pytest.raises(ValueError, match="'channels' is not a field"):
        variant_config("hiera_tiny_224", channels=4)


def test_the_configuration_needs_no_torch() -> None:
    code = (
        "import sys, hierax.model.config as c; c.variant_config('hiera_huge_16x224'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_of_a_class_that_could_not_be_saved_is_refused() -> None:
    """Such as that of a folder in another encoding: the model could not be saved after training."""
    broken = b"L\xf6we".decode(errors="surrogateescape")
    with pytest.raises(ValueError, match=r"id2label has the name 'L\\udcf6we', which is not valid Unicode"):
        HieraConfig(id2label={0: "cat", 1: broken})
    assert HieraConfig(id2label={0: "Löwe", 1: "狮"}).num_labels == 2
