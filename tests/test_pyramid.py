"""The neck of SAM 2's image encoder: the maps `p1`, `p2`, … of a backbone, and their position encoding."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hierax
from hierax.model.pyramid import sine_position_encoding
from small import image_config, randomize

LEVELS = ("p1", "p2", "p3")


def backbone(out_features: Any = None, **changes: Any) -> Any:
    model = hierax.HieraBackbone(image_config(fpn_hidden_size=16, **changes), out_features=out_features)
    randomize(model)
    return model.eval()


def test_the_maps_of_the_neck_are_the_default_of_a_model_that_has_one() -> None:
    model = backbone()
    assert model.out_features == list(LEVELS)
    assert (model.channels, model.strides) == ([16, 16, 16], [4, 8, 16])
    assert model.out_indices == [5, 6, 7]
    assert model.stage_names == ["stem", "stage1", "stage2", "stage3", "stage4", *LEVELS]
    assert model.num_features == [8, 8, 16, 32, 64, 16, 16, 16]
    assert [m.shape[2:] for m in model(torch.randn(1, 3, 100, 130)).feature_maps] == [(25, 33), (13, 17), (7, 9)]


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_levels_are_laterals_and_the_coarser_level(size: tuple[int, int]) -> None:
    model, x = backbone(("stage1", "stage2", "stage3", "stage4", *LEVELS)), torch.randn(2, 3, *size)
    with torch.no_grad():
        *stages, p1, p2, p3 = model(x).feature_maps
        laterals = [model.pyramid.laterals[str(i)](stage) for i, stage in enumerate(stages)]
    torch.testing.assert_close(p1, laterals[0])
    torch.testing.assert_close(p2, laterals[1])
    torch.testing.assert_close(p3, laterals[2] + laterals[3].repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_a_size_that_fills_no_unit_cuts_the_enlarged_level() -> None:
    model, x = backbone(("stage3", "stage4", "p3")), torch.randn(1, 3, 72, 72)  # 5 and 3 cells
    with torch.no_grad():
        stage3, stage4, p3 = model(x).feature_maps
        coarse = model.pyramid.laterals["3"](stage4).repeat_interleave(2, 2).repeat_interleave(2, 3)
        torch.testing.assert_close(p3, model.pyramid.laterals["2"](stage3) + coarse[:, :, :5, :5])


def test_all_levels_may_be_kept_and_joined() -> None:
    model = backbone(num_feature_levels=4, fpn_top_down_levels=(0, 1, 2))
    with torch.no_grad():
        maps = model(torch.randn(1, 3, 64, 64)).feature_maps
    assert [m.shape[2] for m in maps] == [16, 8, 4, 2]


@pytest.mark.parametrize(
    ("features", "blocks", "laterals"), [(("p1",), 1, ["0"]), (("p2",), 3, ["1"]), (("p3",), 8, ["2", "3"])]
)
def test_what_no_level_needs_is_not_built(features: Any, blocks: int, laterals: list[str], tmp_path: Any) -> None:
    whole, x = backbone(), torch.randn(1, 3, 64, 64)
    whole.save_pretrained(tmp_path)
    part: Any = hierax.HieraBackbone.from_pretrained(tmp_path, out_features=features)
    assert len(part.encoder.blocks) == blocks
    assert list(part.pyramid.laterals) == laterals
    with torch.no_grad():
        expected = whole(x).feature_maps[LEVELS.index(features[0])]
        assert torch.equal(part.eval()(x).feature_maps[0], expected)


def test_maps_of_stages_alone_need_no_neck(tmp_path: Any) -> None:
    backbone().save_pretrained(tmp_path)
    model: Any = hierax.HieraBackbone.from_pretrained(tmp_path, out_features=("stage2",))
    assert model.pyramid is None
    assert not any("pyramid" in name for name in model.state_dict())


def test_a_model_with_a_neck_is_saved_and_opened(tmp_path: Any) -> None:
    model, x = backbone(), torch.randn(1, 3, 64, 100)
    model.save_pretrained(tmp_path)
    again: Any = hierax.load(tmp_path, task="backbone").eval()
    with torch.no_grad():
        for ours, expected in zip(again(x).feature_maps, model(x).feature_maps, strict=True):
            assert torch.equal(ours, expected)


def test_levels_are_named_only_where_there_is_a_neck() -> None:
    with pytest.raises(ValueError, match=r"out_features is .* expected names of stem, stage1, stage2, stage3, stage4"):
        hierax.HieraBackbone(image_config(), out_features=("p1",))


def test_normalized_levels_have_a_norm_each() -> None:
    model = hierax.HieraBackbone(image_config(fpn_hidden_size=16), norms=True).eval()
    maps = model(torch.randn(1, 3, 64, 64)).feature_maps
    assert list(model.norms) == list(LEVELS)
    assert all(abs(m.mean().item()) < 0.05 and m.is_contiguous() for m in maps)


@pytest.mark.slow
def test_a_backbone_with_a_neck_compiles_and_is_exported() -> None:
    model, x = backbone(depths=(1, 1, 1, 1)), torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        expected = model(x).feature_maps
        compiled = torch.compile(model, backend="eager", fullgraph=True)(x).feature_maps
        exported = torch.export.export(model, (x,)).module()(x).feature_maps
    for maps in (compiled, exported):
        for ours, wanted in zip(maps, expected, strict=True):
            torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


def test_an_engine_runs_it(tmp_path: Any) -> None:
    model, x = backbone(window_sizes=(8, 4, 14, 7), global_blocks=(4,)), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = model(x).feature_maps
    with hierax.Engine(model, backend="torch", precision="fp32") as engine:
        for ours, wanted in zip(engine(x).feature_maps, expected, strict=True):
            torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


def test_the_neck_is_that_of_sam_2_in_transformers() -> None:
    from transformers import Sam2VisionConfig
    from transformers.models.sam2.modeling_sam2 import Sam2VisionNeck

    config = Sam2VisionConfig(backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=16)
    theirs, ours = Sam2VisionNeck(config).eval(), backbone()
    randomize(theirs)
    for level in range(4):
        ours.pyramid.laterals[str(level)].load_state_dict(theirs.convs[3 - level].state_dict())
    stages = {i: torch.randn(1, 8 * 2**i, 16 // 2**i, 16 // 2**i) for i in range(4)}
    with torch.no_grad():
        maps, encodings = theirs([stages[i].movedim(1, -1) for i in range(4)])
        levels = ours.pyramid(stages)
    for level, expected in zip(range(3), sorted(maps, key=lambda m: -m.shape[-1])[:3], strict=True):
        torch.testing.assert_close(levels[level], expected)
    for encoding in encodings:
        assert torch.equal(sine_position_encoding(encoding.shape[2:], 16), encoding[:1])


@pytest.mark.parametrize(
    ("grid", "width", "message"), [((4,), 8, "grid is"), ((0, 4), 8, "grid is"), ((4, 4), 6, "width is 6")]
)
def test_wrong_arguments_of_the_encoding_are_refused(grid: Any, width: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sine_position_encoding(grid, width)


@pytest.mark.parametrize("opened", [False, True], ids=["checkpoint", "model"])
def test_features_contain_the_levels_of_a_neck(tmp_path: Path, opened: bool) -> None:
    model = backbone()
    model.save_pretrained(tmp_path / "model")
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "image.png")
    (files,) = hierax.features(
        tmp_path / "image.png",
        tmp_path / "maps",
        model=model if opened else tmp_path / "model",
        precision="auto" if opened else "fp32",
        backend="auto" if opened else "torch",
    )
    assert files.arrays is not None
    found = np.load(files.arrays)
    assert sorted(found.files) == ["p1", "p2", "p3", "stage1", "stage2", "stage3", "stage4"]
    assert [found[name].shape for name in ("p1", "p2", "p3")] == [(16, 16, 16), (16, 8, 8), (16, 4, 4)]
    processor = hierax.AutoImageProcessor.from_pretrained(tmp_path / "model")
    every = hierax.HieraBackbone.from_pretrained(tmp_path / "model", out_features=model.config.feature_names[1:])
    with torch.inference_mode():
        maps = every(**processor(tmp_path / "image.png", return_tensors="pt")).feature_maps
    for name, expected in zip(every.out_features, maps, strict=True):
        np.testing.assert_allclose(found[name], expected[0].numpy(), atol=1e-5)
