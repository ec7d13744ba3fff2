"""Position embeddings: every kind of table, at its own grid and resized to others."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hierax.model.positions import (
    AbsolutePosition,
    DecoderPosition,
    PositionEmbedding,
    SeparablePosition,
    WindowPosition,
    position_embedding,
    resize_table,
    split_windows,
)
from hierax.model.tokens import UnitLayout
from position_tables import KINDS, OTHER, embedding
from small import CONFIGS, abs_win_config, image_config, line_config, randomize, video_config, volume_config


def on_grid(position: PositionEmbedding, grid: tuple[int, ...]) -> Tensor:
    """What `forward` gives, put back on its grid: `[1, *grid, C]`."""
    units = tuple(n // u for n, u in zip(grid, position.layout.size, strict=True))
    return position.layout.reroll(position(grid), units)


def bicubic(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """`[1, h, w, C]` -> `[1, *grid, C]` by PyTorch's own bicubic kernel."""
    resized = F.interpolate(table.permute(0, 3, 1, 2), grid, mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1)


# -- absolute ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["bicubic", "window"])
@pytest.mark.parametrize("kind", ["image", "line", "volume"])
def test_at_the_native_grid_the_table_itself_is_used(kind: str, method: str) -> None:
    position = embedding(CONFIGS[kind](position_resize=method))
    assert torch.equal(on_grid(position, position.grid).flatten(1, -2), position.weight)


def test_the_base_classes_of_the_kinds() -> None:
    assert isinstance(position_embedding(image_config()), AbsolutePosition)
    assert isinstance(position_embedding(video_config()), SeparablePosition)
    assert isinstance(position_embedding(abs_win_config()), WindowPosition)


@pytest.mark.parametrize("grid", [(112, 112), (56, 80), (24, 40)])
def test_bicubic_is_pytorchs_interpolation_of_the_table(grid: tuple[int, int]) -> None:
    position = embedding(image_config(image_size=(224, 224)))
    expected = bicubic(position.weight.unflatten(1, (56, 56)), grid)
    assert torch.equal(on_grid(position, grid), expected)


def test_a_table_that_is_not_square_is_resized_along_the_right_axes() -> None:
    position = embedding(image_config(image_size=(64, 128)))
    expected = bicubic(position.weight.unflatten(1, (16, 32)), (32, 16))
    assert torch.equal(on_grid(position, (32, 16)), expected)


def test_a_signals_table_is_resized_by_the_cubic_kernel() -> None:
    """Every channel as an image of equal rows: what is left of bicubic is the cubic kernel along the row."""
    position = embedding(line_config())
    rows = position.weight.permute(0, 2, 1)[:, :, None].expand(-1, -1, 3, -1)
    expected = F.interpolate(rows, (3, 64), mode="bicubic")[:, :, 1].permute(0, 2, 1)
    torch.testing.assert_close(on_grid(position, (64,)), expected)


def test_a_volumes_table_is_resized_along_all_axes() -> None:
    """A table that varies along one axis only must come out as the resized signal, whichever axis it is."""
    for axis in range(3):
        position = embedding(volume_config(image_size=(64, 64, 64)))
        signal = torch.randn(16)
        shape = [1, 1, 1, 1, 1]
        shape[1 + axis] = 16
        with torch.no_grad():
            position.weight.copy_(signal.reshape(shape).expand(1, 16, 16, 16, 8).flatten(1, 3))
        grid = tuple(24 if a == axis else 16 for a in range(3))
        expected = F.interpolate(signal.expand(1, 1, 3, 16), (3, 24), mode="bicubic")[0, 0, 1]
        shape[1 + axis] = 24
        torch.testing.assert_close(on_grid(position, grid), expected.reshape(shape).expand(1, *grid, 8))


# -- window -----------------------------------------------------------------------------------------------------------


def test_the_window_mean_of_a_tiled_table_is_the_tile() -> None:
    tile = torch.randn(1, 8, 8, 4)
    torch.testing.assert_close(split_windows(tile.repeat(1, 3, 2, 1), (8, 8))[0], tile)


@pytest.mark.parametrize("grid", [(32, 32), (24, 40), (8, 8)])
def test_the_window_method_keeps_a_tiled_table_tiled(grid: tuple[int, int]) -> None:
    tile = torch.randint(-8, 8, (1, 8, 8, 4)).float()  # whole numbers: means and differences are exact
    resized = resize_table(tile.repeat(1, 2, 2, 1), grid, method="window", unit=(8, 8))
    assert torch.equal(resized, tile.repeat(1, grid[0] // 8, grid[1] // 8, 1))


def test_bicubic_does_not_keep_a_tiled_table_tiled() -> None:
    """The fault that the window method is there for (arXiv 2311.05613)."""
    tile = torch.randn(1, 8, 8, 4)
    resized = resize_table(tile.repeat(1, 2, 2, 1), (32, 32), method="bicubic", unit=(8, 8))
    assert not torch.allclose(resized, tile.repeat(1, 4, 4, 1), atol=0.1)


def test_the_window_method_interpolates_what_the_windows_do_not_explain() -> None:
    table = torch.randn(1, 16, 16, 4)
    tile, _ = split_windows(table, (8, 8))
    expected = bicubic(table - tile.repeat(1, 2, 2, 1), (32, 24)) + tile.repeat(1, 4, 3, 1)
    torch.testing.assert_close(resize_table(table, (32, 24), method="window", unit=(8, 8)), expected)


def test_a_models_own_method_is_used() -> None:
    window, plain = embedding(image_config(position_resize="window")), embedding(image_config())
    plain.load_state_dict(window.state_dict())
    assert torch.equal(on_grid(window, (16, 16)), on_grid(plain, (16, 16)))
    assert not torch.allclose(on_grid(window, (32, 32)), on_grid(plain, (32, 32)), atol=1e-2)


# -- separable --------------------------------------------------------------------------------------------------------


def test_separable_is_the_sum_of_space_and_time() -> None:
    position = embedding(video_config())
    table = on_grid(position, (4, 16, 16))
    for t, y, x in [(0, 0, 0), (3, 0, 5), (1, 15, 2)]:
        assert torch.equal(table[0, t, y, x], position.spatial[0, 16 * y + x] + position.temporal[0, t])


def test_separable_tables_are_resized_apart() -> None:
    position = embedding(video_config())
    table = on_grid(position, (8, 24, 32))
    space = bicubic(position.spatial.unflatten(1, (16, 16)), (24, 32))
    time = F.interpolate(position.temporal.permute(0, 2, 1)[:, :, None].expand(-1, -1, 3, -1), (3, 8), mode="bicubic")
    torch.testing.assert_close(table, space[:, None] + time[:, :, 1].permute(0, 2, 1)[:, :, None, None])


def test_more_frames_leave_the_spatial_table_alone() -> None:
    position = embedding(video_config())
    with torch.no_grad():
        position.temporal.zero_()
    assert torch.equal(on_grid(position, (8, 16, 16))[0, 5].flatten(0, 1), position.spatial[0])


# -- abs-win ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(16, 16), (32, 24)])
def test_abs_win_is_the_interpolated_global_table_plus_the_tiled_window(grid: tuple[int, int]) -> None:
    position = embedding(abs_win_config())
    whole = F.interpolate(position.whole, grid, mode="bicubic", antialias=True)
    expected = whole + position.window.tile(1, 1, grid[0] // 8, grid[1] // 8)
    assert torch.equal(on_grid(position, grid), expected.movedim(1, -1))


def test_abs_win_antialiases_when_it_shrinks() -> None:
    position = embedding(abs_win_config(global_position_size=(16, 16)))
    shrunk = on_grid(position, (8, 8)) - position.window.movedim(1, -1)
    expected = F.interpolate(position.whole, (8, 8), mode="bicubic", antialias=True)
    torch.testing.assert_close(shrunk, expected.movedim(1, -1))


def test_abs_win_uses_the_global_table_itself_where_the_grid_is_its_own() -> None:
    position = embedding(abs_win_config(global_position_size=(16, 16)))
    expected = position.whole + position.window.tile(1, 1, 2, 2)
    assert torch.equal(on_grid(position, (16, 16)), expected.movedim(1, -1))


# -- resizing for good ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_resizing_for_good_gives_what_resizing_per_call_gave(kind: str) -> None:
    position = embedding(CONFIGS[kind]())
    before = position(OTHER[kind]).clone()
    position.resize_(OTHER[kind])
    assert torch.equal(position(OTHER[kind]), before)


@pytest.mark.parametrize("kind", KINDS)
def test_resized_parameters_are_leaves_in_memory_order_that_want_gradients(kind: str) -> None:
    position = embedding(CONFIGS[kind]())
    position.resize_(OTHER[kind])
    for parameter in position.parameters():
        assert parameter.is_leaf
        assert parameter.requires_grad
        assert parameter.is_contiguous()


def test_the_decoders_table_is_itself_at_the_native_grid() -> None:
    position = DecoderPosition(image_config(num_query_pool=2))
    assert position((4, 4)) is position.weight


def test_the_decoders_table_follows_the_size() -> None:
    position = DecoderPosition(image_config(num_query_pool=2))
    randomize(position, std=1.0)
    expected = bicubic(position.weight.unflatten(1, (4, 4)), (6, 8)).flatten(1, 2)
    assert torch.equal(position((6, 8)), expected)
    position.resize_((6, 8))
    assert torch.equal(position((6, 8)), expected)
    assert position.weight.is_contiguous()


def test_the_decoders_video_table_is_time_major() -> None:
    position = DecoderPosition(video_config(num_query_pool=2, image_size=(16, 64, 64)))
    assert position.weight.shape == (1, 8 * 4 * 4, 16)
    randomize(position, std=1.0)
    wider = position((8, 8, 4)).unflatten(1, (8, 8, 4))
    own = position.weight.unflatten(1, (8, 4, 4))
    for t in (0, 7):
        torch.testing.assert_close(wider[0, t], bicubic(own[:, t], (8, 4))[0])


# -- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["bicubic", "window"])
@pytest.mark.parametrize("kind", ["image", "line", "volume"])
@torch.no_grad()
def test_a_low_precision_table_is_resized_in_float32_and_rounded_once(
    kind: str, method: str, dtype: torch.dtype
) -> None:
    exact = embedding(CONFIGS[kind](position_resize=method)).to(dtype).float()
    low = copy.deepcopy(exact).to(dtype)
    assert torch.equal(low(OTHER[kind]), exact(OTHER[kind]).to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["video", "abs_win"])
@torch.no_grad()
def test_the_sum_of_two_low_precision_tables_is_near_that_in_float32(kind: str, dtype: torch.dtype) -> None:
    exact = embedding(CONFIGS[kind]()).to(dtype).float()
    low = copy.deepcopy(exact).to(dtype)(OTHER[kind])
    expected = exact(OTHER[kind])
    assert low.dtype == dtype
    torch.testing.assert_close(low.float(), expected, rtol=0, atol=float(expected.abs().max()) * torch.finfo(dtype).eps)


def test_the_layout_of_the_embedding_is_the_encoders() -> None:
    for kind in KINDS:
        config = CONFIGS[kind]()
        assert position_embedding(config).layout == UnitLayout.of(config)
