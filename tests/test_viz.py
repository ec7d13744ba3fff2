from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hierax import viz
from hierax.model.config import HieraConfig
from hierax.model.mae import normalize_patches, patchify
from hierax.model.tasks import HieraForPreTraining, HieraModel
from hierax.model.tokens import UnitLayout, published_order
from hierax.processing import HieraImageProcessor, Preprocessing
from small import image_config

SIZE = (64, 64)
MAE = {"num_query_pool": 2}


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# -- pixels and feature maps


def test_a_picture_comes_back_from_its_pixels() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8))
    record = Preprocessing(do_resize=False, do_center_crop=False)
    pixels = HieraImageProcessor(record)(picture).pixel_values[0]
    assert np.array_equal(np.asarray(viz.to_image(pixels, record=record)), np.asarray(picture))


@pytest.mark.parametrize(("channels", "shown"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (5, [0, 1, 2])])
def test_any_number_of_channels_is_shown_as_rgb(channels: int, shown: list[int]) -> None:
    levels = np.arange(channels, dtype=np.float32)[:, None, None] * np.ones((channels, 2, 2), np.float32)
    record = Preprocessing(do_normalize=False, do_rescale=False)
    assert np.asarray(viz.to_image(levels, record=record))[0, 0].tolist() == shown


def test_principal_components_are_those_of_the_covariance() -> None:
    values = noise(6, 9, 7) * np.array([9, 5, 3, 1, 1, 1], np.float32)[:, None, None]
    scores = viz.principal_components(values).reshape(-1, 3)
    largest = np.linalg.eigvalsh(np.cov(values.reshape(6, -1)))[::-1][:3]
    assert np.allclose(np.cov(scores.T), np.diag(largest), rtol=1e-4, atol=1e-4)


def test_principal_components_are_the_same_for_few_and_for_many_cells() -> None:
    few = noise(40, 5, 5)
    many = np.tile(few, (1, 2, 2))  # more cells than channels: the other way to compute them
    assert np.allclose(np.tile(viz.principal_components(few), (2, 2, 1)), viz.principal_components(many), atol=1e-3)


def test_the_sign_of_a_component_does_not_depend_on_a_constant() -> None:
    values = noise(8, 6, 6)
    assert np.allclose(viz.principal_components(values), viz.principal_components(values + 3), atol=1e-3)


def test_components_that_a_map_lacks_are_zero() -> None:
    line = noise(1, 4, 4) * np.ones((5, 1, 1), np.float32)
    assert not viz.principal_components(line)[..., 1:].any()


def test_a_constant_map_is_gray() -> None:
    picture = viz.pca_image(np.ones((4, 2, 2), np.float32), stride=(8, 8), size=(16, 16))
    assert picture.getcolors() == [(256, (128, 128, 128))]


def test_one_extreme_cell_leaves_contrast_to_the_others() -> None:
    values = np.linspace(0, 1, 400).reshape(20, 20, 1)
    values[0, 0] = 1e6
    assert np.ptp(viz.robust_scale(values)[1:]) > 0.9


def test_a_map_with_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        viz.pca_image(np.full((3, 2, 2), np.nan), stride=(4, 4), size=(8, 8))


def test_every_cell_covers_its_own_pixels_and_the_last_is_cut() -> None:
    cells = np.arange(6).reshape(2, 3)
    large = viz.enlarge(cells, stride=(4, 2), size=(7, 5))
    assert large.shape == (7, 5)
    assert large[3:5, 1:3].tolist() == [[0, 1], [3, 4]]


def test_too_few_cells_for_a_picture_are_refused() -> None:
    with pytest.raises(ValueError, match="2x3 at stride"):
        viz.enlarge(np.zeros((2, 3)), stride=(4, 4), size=(9, 9))


# -- mask units and attention


def test_hidden_units_are_painted_over_and_shown_ones_are_not() -> None:
    picture = Image.new("RGB", (64, 64), (10, 20, 30))
    drawn = viz.draw_units(picture, unit=(32, 32), keep=[True, False, False, True])
    centers = [drawn.getpixel(place) for place in ((16, 16), (48, 16), (16, 48), (48, 48))]
    assert [color == (10, 20, 30) for color in centers] == [True, False, False, True]


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (64, 65)])
def test_all_sides_of_a_mask_unit_have_the_same_border(size: tuple[int, int]) -> None:
    """Also at the edges of the image, and of units that it fills in part."""
    picture = Image.new("RGB", size, (90, 90, 90))
    drawn = np.asarray(viz.draw_units(picture, unit=(32, 32)))
    for top in range(0, size[1], 32):
        for left in range(0, size[0], 32):
            unit = drawn[top : top + 32, left : left + 32]
            assert np.array_equal(unit, unit[::-1])
            assert np.array_equal(unit, unit[:, ::-1])
            assert unit[0, 0, 0] > 200


def test_drawing_leaves_its_picture_alone() -> None:
    picture = Image.new("RGB", (64, 64))
    viz.draw_units(picture, unit=(32, 32), keep=[False] * 4)
    viz.heat_image(picture, np.ones((2, 2)), stride=(32, 32), at=(5, 5))
    assert picture.getcolors() == [(64 * 64, (0, 0, 0))]


def test_a_mask_of_another_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="2x2 mask units"):
        viz.draw_units(Image.new("RGB", (64, 64)), unit=(32, 32), keep=[True])


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("depths", [(1, 1, 1, 1), (2, 2, 2, 2)])
def test_attention_returns_to_the_place_of_its_keys(stage: int, depths: tuple[int, ...]) -> None:
    config = image_config(depths=depths)
    key_stage = max(stage - 1, 0) if depths[stage] == 1 else stage  # a block that pools has the keys before
    layout, units = UnitLayout.of(config, key_stage), config.unit_grid(SIZE)
    rows, columns = (64 // stride for stride in config.stage_stride(key_stage))
    wanted = torch.rand(1, rows, columns, 1)
    tokens = layout.unroll(wanted)
    within = config.masked_unit_attention[key_stage if depths[stage] == 1 else stage]
    keys = tokens[0, :, None, :, 0] if within else published_order(tokens)[:, None, :, 0]
    weights = keys[None].expand(3, -1, 5, -1)  # three heads and five queries that agree
    found, stride = viz.attention_map(weights, config=config, stage=stage, size=SIZE)
    assert stride == config.stage_stride(key_stage)
    assert np.allclose(found, wanted[0, ..., 0].numpy() * keys.shape[-1], rtol=1e-5)
    assert units == (2, 2)


def attentions(config: HieraConfig) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    model: Any = HieraModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
        return model(torch.randn(1, 3, *SIZE), output_attentions=True).attentions


def test_attention_of_a_token_in_a_unit_stays_in_its_unit() -> None:
    config = image_config()
    found, _ = viz.attention_map(attentions(config)[0][0], config=config, stage=0, size=SIZE, at=(40, 10))
    assert found[8:, :8].all()
    assert not found[:8].any()
    assert not found[:, 8:].any()


def test_attention_received_is_the_mean_over_the_tokens_that_attend() -> None:
    config = image_config()
    weights = attentions(config)[3][0]
    each = [
        viz.attention_map(weights, config=config, stage=3, size=SIZE, at=(y, x))[0] for y in (0, 32) for x in (0, 32)
    ]
    received, _ = viz.attention_map(weights, config=config, stage=3, size=SIZE)
    assert np.allclose(np.mean(each, axis=0), received, atol=1e-5)
    assert np.isclose(received.mean(), 1)


def test_attention_over_padding_is_not_drawn() -> None:
    config = image_config()
    weights = torch.rand(1, 6, 1, 64)
    found, _ = viz.attention_map(weights, config=config, stage=0, size=(33, 70))
    assert found.shape == (9, 18)


def test_even_attention_does_not_look_like_much() -> None:
    drawn = viz.heat_image(Image.new("RGB", (8, 8)), np.ones((2, 2)), stride=(4, 4))
    much = viz.heat_image(Image.new("RGB", (8, 8)), np.full((2, 2), 9.0), stride=(4, 4))
    assert np.asarray(drawn.convert("L")).mean() < 0.5 * np.asarray(much.convert("L")).mean()


# -- reconstructions


def masked(config: HieraConfig, *, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions that are zero everywhere, and visible patches in two of four mask units."""
    patches = patchify(pixels, config)
    visible = torch.zeros(patches.shape[:2], dtype=torch.bool)
    visible.view(-1, 4, 4)[:, :2, :2] = visible.view(-1, 4, 4)[:, 2:, 2:] = True
    return torch.zeros_like(patches), visible


def test_visible_patches_are_shown_as_they_are() -> None:
    config, pixels = image_config(**MAE), torch.rand(1, 3, *SIZE)
    logits, visible = masked(config, pixels=pixels)
    made = viz.reconstruct_pixels(pixels, logits, visible, config=config)
    assert torch.equal(made[..., :32, :32], pixels[..., :32, :32])
    assert torch.equal(made[..., 32:, 32:], pixels[..., 32:, 32:])


def test_nothing_of_the_hidden_patches_is_used_by_default() -> None:
    config, pixels = image_config(**MAE), torch.rand(1, 3, *SIZE)
    logits, visible = masked(config, pixels=pixels)
    logits = torch.randn_like(logits)
    changed = pixels.clone()
    changed[..., :32, 32:] = 7.0
    made = viz.reconstruct_pixels(pixels, logits, visible, config=config)
    again = viz.reconstruct_pixels(changed, logits, visible, config=config)
    assert torch.equal(made, again)


def test_true_statistics_make_a_perfect_prediction_perfect() -> None:
    config, pixels = image_config(**MAE), torch.rand(1, 3, *SIZE)
    _, visible = masked(config, pixels=pixels)
    logits = normalize_patches(patchify(pixels, config))
    made = viz.reconstruct_pixels(pixels, logits, visible, config=config, statistics="true")
    assert torch.allclose(made, pixels, atol=1e-5)


def test_statistics_of_a_plain_picture_are_guessed_exactly() -> None:
    config, pixels = image_config(**MAE), torch.full((1, 3, *SIZE), 0.25)
    logits, visible = masked(config, pixels=pixels)
    assert torch.allclose(viz.reconstruct_pixels(pixels, logits, visible, config=config), pixels, atol=1e-5)


def test_statistics_come_from_near_patches_more_than_from_far_ones() -> None:
    patches = torch.tensor([[[0.0, 0.0], [5.0, 5.0], [5.0, 5.0], [5.0, 5.0], [1.0, 1.0]]])
    visible = torch.tensor([[True, False, False, False, True]])
    mean, _ = viz.hidden_statistics(patches, visible, (5,))
    guessed = mean[0, 1:4, 0]
    assert (guessed.diff() > 0).all()
    assert torch.isclose(guessed[1], torch.tensor(0.5))
    assert guessed[0] < 0.02


def test_raw_predictions_need_no_statistics() -> None:
    config, pixels = image_config(**MAE, normalize_pixel_loss=False), torch.rand(1, 3, *SIZE)
    _, visible = masked(config, pixels=pixels)
    made = viz.reconstruct_pixels(pixels, patchify(pixels, config), visible, config=config)
    assert torch.allclose(made, pixels)
    assert "unnormalized" in viz.statistics_note(config, "true")


def test_other_statistics_are_refused() -> None:
    config, pixels = image_config(**MAE), torch.rand(1, 3, *SIZE)
    logits, visible = masked(config, pixels=pixels)
    with pytest.raises(ValueError, match="'visible' or 'true'"):
        viz.reconstruct_pixels(pixels, logits, visible, config=config, statistics="mean")  # type: ignore[arg-type]


def test_captions_say_that_true_statistics_leak() -> None:
    assert "part of the answer" in viz.statistics_note(image_config(**MAE), "true")
    assert "leaks" not in viz.statistics_note(image_config(**MAE), "visible")


def test_the_output_of_a_mae_model_is_reconstructed() -> None:
    config = image_config(**MAE)
    pixels = torch.rand(2, 3, *SIZE)
    out = HieraForPreTraining(config).eval()(pixels, keep=torch.tensor([[True, False, False, True]] * 2))
    made = viz.reconstruct_pixels(pixels, out.logits, out.bool_masked_pos, config=config)
    assert made.shape == pixels.shape
    assert torch.equal(made[..., :32, :32], pixels[..., :32, :32])


# -- sheets


def tile(width: int = 224, height: int = 100, note: str = "") -> viz.Tile:
    return viz.Tile(Image.new("RGB", (width, height), (200, 0, 0)), "title", note)


def test_a_sheet_holds_its_pictures_side_by_side() -> None:
    page = viz.sheet([[tile(), tile()], [tile()]], margin=10)
    assert page.width == 10 + 224 + 10 + 224 + 10
    colors = np.asarray(page)
    assert (colors == (200, 0, 0)).all(-1).sum() == 3 * 224 * 100


def test_long_captions_take_more_lines_not_more_width() -> None:
    short, long = viz.sheet([[tile(note="a")]]), viz.sheet([[tile(note="many words " * 20)]])
    assert long.width == short.width
    assert long.height > short.height + 50


@pytest.mark.parametrize(("width", "shown"), [(64, 256), (224, 224), (300, 300), (1000, 512)])
def test_pictures_are_brought_to_a_legible_width(width: int, shown: int) -> None:
    page = viz.sheet([[tile(width)]], margin=0)
    assert page.width == shown
