"""The formats of SAM 2's image encoders: what is read, what is written, and what is said of the rest."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import hierax
from hierax.checkpoint.dialects.sam2 import SAM_2
from hierax.checkpoint.parts import choose
from hierax.checkpoint.records import find_record, list_checkpoints
from hierax.checkpoint.save import save_model
from hierax.checkpoint.windowed import global_blocks
from hierax.model.config import HieraConfig, list_models, variant_config
from sam2_small import WINDOWS, sam_config
from small import image_config, randomize

FORMATS = ("transformers", "official", "timm")
FOREIGN = (
    "sam_prompt_encoder.point.weight",
    "memory_encoder.x.weight",
    "maskmem_tpos_enc",
    "obj_ptr_proj.layers.0.bias",
)


def backbone(**changes: Any) -> Any:
    return randomize(hierax.HieraBackbone(sam_config(**changes))).eval()


def maps_of(model: Any, x: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return model(x).feature_maps


def assert_same_maps(ours: Any, expected: Any, size: tuple[int, int] = (96, 64)) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, *size)
    for map_, other in zip(maps_of(ours, x), maps_of(expected, x), strict=True):
        assert torch.equal(map_, other)


# -- names and shapes of published files ---------------------------------------------------------------------------


def published_shapes(size: str, library: str) -> dict[str, tuple[int, ...]]:
    """The tensors of a published file, by the rule of its library; a few of the other parts stand for all."""
    config = variant_config(f"sam2_hiera_{size}")
    linear = {
        "official": ("mlp.layers.0", "mlp.layers.1", "norm1", "norm2"),
        "transformers": ("mlp.proj_in", "mlp.proj_out", "layer_norm1", "layer_norm2"),
        "timm": ("mlp.fc1", "mlp.fc2", "norm1", "norm2"),
    }[library]
    patch = "patch_embed.projection" if library == "transformers" else "patch_embed.proj"
    trunk: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, config.embed_dim, *(config.global_position_size or ())),
        "pos_embed_window": (1, config.embed_dim, 8, 8),
        f"{patch}.weight": (config.embed_dim, 3, 7, 7),
        f"{patch}.bias": (config.embed_dim,),
    }
    index, before = 0, config.embed_dim
    for depth, width in zip(config.depths, config.dims, strict=True):
        for layer in range(depth):
            dim = before if layer == 0 else width
            rows = {"attn.qkv": (3 * width, dim), "attn.proj": (width, width), linear[0]: (4 * width, width)}
            rows |= {linear[1]: (width, 4 * width)} | ({"proj": (width, dim)} if dim != width else {})
            for name, shape in rows.items():
                trunk |= {f"blocks.{index}.{name}.weight": shape, f"blocks.{index}.{name}.bias": shape[:1]}
            for name, channels in ((linear[2], dim), (linear[3], width)):
                trunk |= {f"blocks.{index}.{name}.{kind}": (channels,) for kind in ("weight", "bias")}
            index += 1
        before = width
    if library == "timm":
        return {**trunk, "head.norm.weight": (config.hidden_size,), "head.norm.bias": (config.hidden_size,)}
    front, inner = {
        "official": ("image_encoder.", "trunk."),
        "transformers": ("vision_encoder.", "backbone."),
    }[library]
    named = {f"{front}{inner}{name}": shape for name, shape in trunk.items()}
    for number, width in enumerate(reversed(config.dims)):
        conv = f"{front}neck.convs.{number}" + (".conv" if library == "official" else "")
        named |= {f"{conv}.weight": (256, width, 1, 1), f"{conv}.bias": (256,)}
    return {**named, **dict.fromkeys(FOREIGN, (4,))}


@pytest.mark.parametrize(("size", "trunk"), [("tiny", 154), ("small", 202), ("base_plus", 298), ("large", 586)])
@pytest.mark.parametrize("library", FORMATS)
def test_the_tensors_of_every_published_file_are_those_of_its_model(size: str, trunk: int, library: str) -> None:
    shapes = published_shapes(size, library)
    with torch.device("meta"):
        found = choose({"model": {name: torch.empty(shape) for name, shape in shapes.items()}}).weights
    dialect = next(d for d in SAM_2.values() if d.recognizes(tuple(found.tensors), None))
    assert dialect is SAM_2[library]
    depths = dialect.depths(tuple(found.tensors))
    ours = {dialect.ours(name, depths): tuple(t.shape) for name, t in found.tensors.items()}
    read = dialect.resolve_ambiguous({str(n): torch.empty(s, device="meta") for n, s in ours.items()}, None)
    config = dialect.config(None, {n: tuple(t.shape) for n, t in read.items()}, None)
    neck = None if library == "timm" else 256
    row = variant_config(f"sam2_hiera_{size}")
    assert config == row.replace(fpn_hidden_size=neck, extra={"architectures": ["HieraBackbone"]})
    with torch.device("meta"):
        model = hierax.HieraBackbone(config)
    assert {n: tuple(t.shape) for n, t in model.state_dict().items()} == {n: tuple(t.shape) for n, t in read.items()}
    assert sum(name.startswith("encoder.") for name in read) == trunk
    assert all(dialect.is_foreign(name) for name in found.beside)
    assert len(found.beside) == (0 if library == "timm" else len(FOREIGN))


def test_published_counts_of_parameters_are_those_of_the_models() -> None:
    for record in list_checkpoints(task="backbone"):
        neck = 256 if record.dialect == "transformers" else None
        with torch.device("meta"):
            model = hierax.HieraBackbone(variant_config(record.variant, fpn_hidden_size=neck))
        assert model.num_parameters() == record.parameters, record.hub_id


# -- reading and writing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "neck"), [("transformers", None), ("transformers", 16), ("official", 16), ("timm", None)]
)
def test_a_backbone_is_written_and_read_in_every_format(to: str, neck: int | None, tmp_path: Path) -> None:
    model = backbone(
        fpn_hidden_size=neck, license="Apache-2.0", out_features=("stage2", "stage4") if not neck else None
    )
    save_model(model, tmp_path, dialect=to)
    again = hierax.load(tmp_path)
    assert type(again) is hierax.HieraBackbone
    assert again.loading_report is not None
    assert again.loading_report.dialect == SAM_2[to].name
    assert again.config.replace(extra={}) == model.config
    assert_same_maps(again, model)


def test_the_neck_is_not_written_for_timm(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the timm SAM 2 format cannot express a neck"):
        save_model(backbone(fpn_hidden_size=16), tmp_path / "x", dialect="timm")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("to", FORMATS)
def test_the_trunk_alone_of_a_checkpoint_with_a_neck_is_converted(to: str, tmp_path: Path) -> None:
    model = backbone(fpn_hidden_size=16)
    model.save_pretrained(tmp_path / "with")
    hierax.convert(tmp_path / "with", tmp_path / "without", to=to, neck=False)
    again = hierax.load(tmp_path / "without", task="backbone", out_features=model.config.stage_names[1:])
    assert again.config.fpn_hidden_size is None
    stages = hierax.HieraBackbone.from_pretrained(tmp_path / "with", out_features=model.config.stage_names[1:])
    assert_same_maps(again, stages)
    with pytest.raises(ValueError, match="without has no neck; expected one to leave out"):
        hierax.convert(tmp_path / "without", tmp_path / "x", to=to, neck=False)


@pytest.mark.parametrize("neck", [None, 16])
def test_transformers_opens_what_was_saved_with_equal_maps(neck: int | None, tmp_path: Path) -> None:
    import transformers

    model = backbone(fpn_hidden_size=neck, out_features=None if neck else ("stage1", "stage2", "stage3", "stage4"))
    model.save_pretrained(tmp_path)
    cls: Any = transformers.Sam2VisionModel if neck else transformers.Sam2HieraDetModel
    theirs, info = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    x = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        out = theirs(x)
    maps = out.fpn_hidden_states if neck else [m.movedim(-1, 1) for m in out.intermediate_hidden_states]
    for ours, expected in zip(maps_of(model, x), maps, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_model_of_transformers_is_read_with_equal_maps(tmp_path: Path) -> None:
    from transformers import Sam2VisionConfig, Sam2VisionModel

    trunk = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 8, "embed_dim_per_stage": [8, 16, 32, 64],
        "blocks_per_stage": [1, 2, 3, 2], "global_attention_blocks": [4],
    }  # fmt: skip
    theirs: Any = randomize(
        Sam2VisionModel(
            Sam2VisionConfig(backbone_config=trunk, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=16)
        )
    ).eval()
    theirs.save_pretrained(tmp_path)
    ours = hierax.load(tmp_path)
    x = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        expected = theirs(x).fpn_hidden_states
    for map_, other in zip(maps_of(ours, x), expected, strict=True):
        torch.testing.assert_close(map_, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("to", FORMATS)
def test_the_trunk_of_a_checkpoint_with_a_neck_can_be_written_alone(to: str, tmp_path: Path) -> None:
    backbone(fpn_hidden_size=16).save_pretrained(tmp_path / "whole")
    trunk = hierax.HieraBackbone.from_pretrained(tmp_path / "whole", out_features=("stage1", "stage4"))
    save_model(trunk, tmp_path / "trunk", dialect=to)
    again = hierax.load(tmp_path / "trunk")
    assert again.config.fpn_hidden_size is None
    assert_same_maps(again, trunk)
    encoder = hierax.Hiera.from_pretrained(tmp_path / "whole")
    save_model(encoder, tmp_path / "encoder", dialect=to)
    names = load_file(tmp_path / "trunk" / "model.safetensors").keys()
    assert load_file(tmp_path / "encoder" / "model.safetensors").keys() == names
    assert not any("neck" in name for name in names)


@pytest.mark.parametrize("task", [hierax.HieraForImageClassification, hierax.HieraModel])
def test_other_tasks_are_saved_in_the_format_of_hierax(task: Any, tmp_path: Path) -> None:
    model: Any = randomize(task(sam_config(num_labels=3))).eval()
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "hierax"
    assert type(hierax.load(tmp_path)) is task


def test_a_classifier_is_saved_for_timm(tmp_path: Path) -> None:
    model: Any = randomize(hierax.HieraForImageClassification(sam_config(num_labels=3))).eval()
    save_model(model, tmp_path, dialect="timm")
    again, x = hierax.load(tmp_path), torch.randn(1, 3, 64, 64)
    assert type(again) is hierax.HieraForImageClassification
    with torch.no_grad():
        assert torch.equal(again(x).logits, model(x).logits)


def whole_model(model: Any, path: Path) -> None:
    """A file of the authors: the image encoder and some other parts."""
    save_model(model, path / "encoder", dialect="official")
    tensors = load_file(path / "encoder" / "model.safetensors")
    torch.save({"model": {**tensors, **{name: torch.ones(2) for name in FOREIGN}}}, path / "sam.pt")


def test_memory_prompts_and_masks_are_named_in_one_line_of_the_report(tmp_path: Path) -> None:
    whole_model(backbone(fpn_hidden_size=16), tmp_path)
    model = hierax.load(tmp_path / "sam.pt", config=sam_config(fpn_hidden_size=16))
    report = model.loading_report
    assert report is not None
    assert report.unexpected == []
    assert sorted(report.left_out) == sorted(FOREIGN)
    assert str(report).splitlines()[-1] == "  4 tensors of memory, prompts and masks are not part of the image encoder"


def test_a_classifier_is_made_from_the_trunk(tmp_path: Path) -> None:
    backbone(fpn_hidden_size=16).save_pretrained(tmp_path)
    model = hierax.HieraForImageClassification.from_pretrained(tmp_path, num_labels=5, reinit=("norm",))
    assert model(torch.randn(1, 3, 64, 64)).logits.shape == (1, 5)
    report = model.loading_report
    assert report is not None
    assert (report.reinitialized, report.ignored) == (["head", "norm"], ["pyramid"])


# -- configurations ------------------------------------------------------------------------------------------------


def written(tensors: Mapping[str, Tensor], values: Mapping[str, Any], folder: Path) -> Path:
    folder.mkdir()
    save_file(dict(tensors), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def opened(values: Mapping[str, Any]) -> HieraConfig:
    """The configuration of a folder of transformers, whose tensors are looked at for the neck alone."""
    return SAM_2["transformers"].config(values, {"encoder.patch_embed.proj.weight": (96, 3, 7, 7)}, None)


@pytest.mark.parametrize(
    ("values", "neck"),
    [
        ({"model_type": "sam2_video"}, 256),
        ({"model_type": "sam2", "vision_config": {"backbone_config": {}}}, 256),
        ({"model_type": "sam2_vision_model", "backbone_config": {"num_attention_heads": 1}}, 256),
        ({"model_type": "sam2_hiera_det_model", "window_size_per_stage": None}, None),
    ],
)
def test_a_configuration_may_state_only_differences_from_the_smallest_model(values: Any, neck: int | None) -> None:
    config = opened(values).replace(extra={})
    assert config == variant_config("sam2_hiera_tiny", fpn_hidden_size=neck)


@pytest.mark.parametrize("size", ["small", "base_plus", "large"])
def test_a_configuration_states_windows_and_widths(size: str) -> None:
    config = variant_config(f"sam2_hiera_{size}")
    trunk = {
        "hidden_size": config.embed_dim, "embed_dim_per_stage": list(config.dims), "num_attention_heads": 1,
        "blocks_per_stage": list(config.depths), "num_attention_heads_per_stage": list(config.num_heads),
        "window_size_per_stage": list(config.window_sizes or ()), "global_attention_blocks": list(config.global_blocks),
        "window_positional_embedding_background_size": list(config.global_position_size or ()),
    }  # fmt: skip
    values = {"model_type": "sam2_video", "vision_config": {"backbone_config": trunk}}
    assert opened(values).replace(extra={}) == config.replace(fpn_hidden_size=256)


@pytest.mark.parametrize(
    ("trunk", "message"),
    [
        ({"window_spec": [8, 4, 14, 7]}, "window_spec belongs to an early form of SAM 2's configuration"),
        ({"embed_dim_per_stage": [96, 192, 300, 768]}, "embed_dim_per_stage is .*; expected widths that double"),
        ({"window_size_per_stage": [8, 4, 14]}, "window_size_per_stage: window_sizes is .* expected 4 numbers"),
        ({"blocks_per_stage": [1, 10**12, 3, 2], "global_attention_blocks": [5, 5]}, "global_blocks is .* ascending"),
        ({"embed_dim_per_stage": 96}, "embed_dim_per_stage is 96; expected widths that double"),
        ({"image_size": "x"}, "image_size is 'x'; expected"),
        ({"num_attention_heads_per_stage": [5, 2, 4, 8]}, "num_heads is .* expected divisors of the widths"),
        ({"global_attention_blocks": [50]}, "global_attention_blocks: global_blocks is .* from 0 to 11"),
    ],
)
def test_a_wrong_configuration_is_named(trunk: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        opened({"model_type": "sam2", "vision_config": {"backbone_config": trunk}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "sam3"}, "model_type is 'sam3'; expected one of sam2_video, sam2, "),
        ({"model_type": "sam2", "vision_config": 4}, "vision_config is 4; expected an object of fields"),
        ({"model_type": "sam2", "vision_config": {"fpn_kernel_size": 3}}, "fpn_kernel_size is 3; expected 1"),
    ],
)
def test_a_configuration_of_another_model_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        opened(values)


def test_a_missing_neck_is_named(tmp_path: Path) -> None:
    model = backbone(fpn_hidden_size=16)
    model.save_pretrained(tmp_path / "whole")
    tensors = load_file(tmp_path / "whole" / "model.safetensors")
    values = json.loads((tmp_path / "whole" / "config.json").read_text())
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith("neck.convs.0.")}
    with pytest.raises(ValueError, match=r"2 tensors are missing: pyramid.laterals.3.weight"):
        hierax.load(written(rest, values, tmp_path / "part"))
    odd = {**tensors, "neck.convs.0.weight": torch.zeros(16, 8, 1, 1)}
    with pytest.raises(ValueError, match=r"neck.convs.0.weight has shape \[16, 8, 1, 1\]; expected \[16, 64, 1, 1\]"):
        hierax.load(written(odd, values, tmp_path / "odd"))


def test_a_trained_norm_of_timm_is_kept_and_an_untrained_one_is_not(tmp_path: Path) -> None:
    save_model(backbone(), tmp_path / "x", dialect="timm")
    tensors = load_file(tmp_path / "x" / "model.safetensors")
    assert torch.equal(tensors["head.norm.weight"], torch.ones(64))
    trained = {**tensors, "head.norm.bias": torch.full((64,), 0.5)}
    save_file(trained, tmp_path / "y.safetensors")
    assert hierax.open_checkpoint(tmp_path / "y.safetensors", config=sam_config()).parts == {"encoder", "norm"}
    assert hierax.open_checkpoint(tmp_path / "x").parts == {"encoder"}


# -- records -------------------------------------------------------------------------------------------------------


def test_the_eight_ids_and_those_of_timm_are_listed_with_their_license() -> None:
    records = list_checkpoints(task="backbone")
    sizes = ("tiny", "small", "base-plus", "large")
    assert {r.hub_id for r in records if r.dialect == "transformers"} == {
        f"facebook/{family}-hiera-{size}" for family in ("sam2", "sam2.1") for size in sizes
    }
    assert {r.hub_id for r in records if r.dialect == "timm"} == {
        f"timm/sam2_hiera_{size}.fb_r{1024 if size == 'large' else 896}{end}"
        for size in ("tiny", "small", "base_plus", "large")
        for end in ("", "_2pt1")
    }
    assert {r.license for r in records} == {"Apache-2.0"}
    assert all("weak at semantics" in r.note for r in records)
    assert list_models("sam2_*") == tuple(dict.fromkeys(r.variant for r in records))


def test_an_id_of_the_hub_opens_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    from hierax.processing.record import SAM_2 as RECORD

    name, commit = "facebook/sam2.1-hiera-tiny", "0" * 40
    assert find_record(name) is not None
    repository = tmp_path / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    model = backbone(fpn_hidden_size=16)
    model.save_pretrained(repository / "snapshots" / commit)
    sam = {"image_processor_type": "Sam2ImageProcessorFast", "size": {"height": 1024, "width": 1024}, "resample": 2}
    (repository / "snapshots" / commit / "preprocessor_config.json").write_text(
        json.dumps({**sam, "do_center_crop": None, "crop_size": None, "mask_size": {"height": 256, "width": 256}})
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    opened = hierax.open_checkpoint(name, cache_dir=tmp_path)
    again = opened.model()
    assert type(again) is hierax.HieraBackbone
    assert again.license == "Apache-2.0"
    assert_same_maps(again, model)
    record = again.preprocessing
    assert record is not None
    assert record.output_size == RECORD.output_size == (1024, 1024)
    same = ("size", "resample", "do_center_crop", "image_mean", "image_std", "do_rescale")
    assert [getattr(record, field) for field in same] == [getattr(RECORD, field) for field in same]


def test_without_a_record_images_are_resized_without_their_aspect_ratio(tmp_path: Path) -> None:
    backbone().save_pretrained(tmp_path)
    record = hierax.load(tmp_path).preprocessing
    assert record is not None
    assert (record.size, record.do_center_crop, record.resample) == ({"height": 64, "width": 64}, False, 2)


# -- classic weights with windows ----------------------------------------------------------------------------------


def classic(folder: Path, **changes: Any) -> Any:
    model: Any = randomize(hierax.HieraForImageClassification(image_config(image_size=(224, 224), **changes))).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("position", ["absolute", "abs_win"])
def test_a_classic_model_with_windows_is_the_same_at_224_pixels(position: str, tmp_path: Path) -> None:
    fields = {"position_embedding": position, "global_position_size": (14, 14)} if position == "abs_win" else {}
    model, x = classic(tmp_path, **fields), torch.randn(1, 3, 224, 224)
    windowed = hierax.load(tmp_path, windows="sam2")
    with torch.no_grad():
        ours, expected = (m(x, output_hidden_states=True) for m in (windowed, model))
    for map_, other in zip(ours.reshaped_hidden_states, expected.reshaped_hidden_states, strict=True):
        assert ((map_ - other).abs().max() / other.abs().max()).item() <= 1e-6
    torch.testing.assert_close(ours.logits, expected.logits, rtol=1e-5, atol=1e-6)


def test_windows_for_a_larger_size_are_reported(tmp_path: Path) -> None:
    model = classic(tmp_path)
    windowed: Any = hierax.HieraBackbone.from_pretrained(
        tmp_path, image_size=256, windows="sam2", out_features=("stage1", "stage3")
    )
    config = windowed.config
    assert (config.window_sizes, config.global_blocks, config.image_size) == ((8, 4, 14, 7), (4, 5), (256, 256))
    assert windowed.loading_report.changed == [
        "window_sizes None -> (8, 4, 14, 7)",
        "global_blocks () -> (4, 5)",
        "position_embedding absolute -> abs_win",
        "image_size (224, 224) -> (256, 256)",
    ]
    x = torch.randn(1, 3, 256, 256)
    plain: Any = hierax.HieraBackbone.from_pretrained(tmp_path, position_resize="window", out_features=("stage1",))
    torch.testing.assert_close(maps_of(windowed, x)[0], maps_of(plain, x)[0], rtol=1e-4, atol=1e-5)
    assert model.config.window_sizes is None


def test_the_preprocessing_of_a_classic_model_stays_with_windows(tmp_path: Path) -> None:
    classic(tmp_path)
    before, after = hierax.load(tmp_path).preprocessing, hierax.load(tmp_path, windows="sam2").preprocessing
    assert before is not None
    assert after == before


@pytest.mark.parametrize("size", ["tiny", "small", "base_plus", "large"])
def test_the_blocks_that_see_all_tokens_are_placed_as_in_sam_2(size: str) -> None:
    config = variant_config(f"sam2_hiera_{size}")
    assert global_blocks(config.depths) == config.global_blocks


def test_an_open_checkpoint_is_not_changed_by_windows(tmp_path: Path) -> None:
    model = classic(tmp_path)
    opened = hierax.open_checkpoint(tmp_path)
    windowed: Any = opened.model(windows="sam2")
    with torch.no_grad():
        windowed.encoder.blocks[0].attn.qkv.weight.zero_()
    again: Any = opened.model()
    assert again.config.window_sizes is None
    assert torch.equal(again.encoder.blocks[0].attn.qkv.weight, model.encoder.blocks[0].attn.qkv.weight)


def test_windows_are_written_by_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hierax.cli import main

    classic(tmp_path / "a")
    assert main(["convert", str(tmp_path / "a"), str(tmp_path / "b"), "--windows", "sam2"]) == 0
    assert "window_sizes None -> (8, 4, 14, 7)" in "".join(capsys.readouterr())
    again, direct = hierax.load(tmp_path / "b"), hierax.load(tmp_path / "a", windows="sam2")
    x = torch.randn(1, 3, 100, 130)
    with torch.no_grad():
        assert torch.equal(again(x).logits, direct(x).logits)


@pytest.mark.parametrize(
    ("changes", "windows", "message"),
    [
        ({}, "swin", "windows is 'swin'; expected 'sam2'"),
        (WINDOWS, "sam2", r"but the model already has windows of \(8, 4, 14, 7\)"),
        ({"depths": (1, 1), "num_heads": (1, 2), "masked_unit_attention": (True, False), "num_query_pool": 1}, "sam2",
         "but the model has 2 stages; expected 4"),
    ],
)  # fmt: skip
def test_windows_that_a_model_cannot_have_are_refused(
    changes: dict[str, Any], windows: str, message: str, tmp_path: Path
) -> None:
    classic(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        hierax.load(tmp_path, windows=windows)


def test_pretraining_has_no_windows(tmp_path: Path) -> None:
    hierax.HieraForPreTraining(image_config(num_query_pool=2)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="windows is 'sam2', but pretraining hides mask units"):
        hierax.load(tmp_path, windows="sam2")
