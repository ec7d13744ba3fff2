import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hierax.model.tokens import UnitLayout, gather_units, kept_units, pool, published_order
from small import CONFIGS, image_config, pixels, video_config


def numbered(*grid: int) -> Tensor:
    """`[1, *grid, axes]`: every token holds its own coordinates."""
    axes = [torch.arange(float(n)) for n in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)[None]


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("pools", [2, 3])
def test_reroll_is_the_inverse_of_unroll(kind: str, stage: int, pools: int) -> None:
    config = CONFIGS[kind](num_query_pool=pools)
    layout = UnitLayout.of(config, stage)
    units = (2, 3, 4)[: config.axes]
    grid = pixels(config, size=[n * u for n, u in zip(units, layout.size, strict=True)]).movedim(1, -1)
    tokens = layout.unroll(grid)
    assert tokens.shape == (2, torch.Size(units).numel(), layout.positions, config.num_channels)
    assert torch.equal(layout.reroll(tokens, units), grid)


@pytest.mark.parametrize("kind", CONFIGS)
def test_units_are_counted_row_by_row_and_rerolled_alone_as_on_the_grid(kind: str) -> None:
    layout = UnitLayout.of(CONFIGS[kind]())
    units = (2, 3, 4)[: len(layout.size)]
    grid = numbered(*(n * u for n, u in zip(units, layout.size, strict=True)))
    alone = layout.reroll_units(layout.unroll(grid))
    for index, corner in enumerate(numbered(*units).reshape(-1, len(units)).long().tolist()):
        place = tuple(slice(c * u, (c + 1) * u) for c, u in zip(corner, layout.size, strict=True))
        assert torch.equal(alone[0, index], grid[(0, *place)])


def test_positions_inside_a_unit_have_the_finest_offset_first() -> None:
    """By hand for a unit of 8 x 8 pooled three times: the index is (y0 x0, y1 x1, y2 x2), y0 the lowest bit."""
    places = UnitLayout.of(image_config()).unroll(numbered(8, 8))[0, 0].tolist()
    expected = {0: [0, 0], 1: [0, 4], 2: [4, 0], 3: [4, 4], 4: [0, 2], 8: [2, 0], 16: [0, 1], 32: [1, 0], 63: [7, 7]}
    assert {p: places[p] for p in expected} == expected


def test_the_order_does_not_depend_on_how_many_stages_pool() -> None:
    grid = numbered(16, 8)
    three, two = (UnitLayout.of(image_config(num_query_pool=n)).unroll(grid) for n in (3, 2))
    assert torch.equal(three, two)


def test_positions_of_a_signal_are_bit_reversed() -> None:
    places = UnitLayout.of(CONFIGS["line"]()).unroll(numbered(8))[0, 0, :, 0].tolist()
    assert places == [0, 4, 2, 6, 1, 5, 3, 7]


def test_a_video_unit_is_one_frame_of_tokens() -> None:
    places = UnitLayout.of(video_config()).unroll(numbered(2, 8, 8))
    assert places.shape[1:3] == (2, 64)
    assert set(places[0, 1, :, 0].tolist()) == {1.0}
    assert places[0, 1, 1].tolist() == [1, 0, 4]


@pytest.mark.parametrize("kind", CONFIGS)
def test_pooling_is_max_pooling_of_neighbors_on_the_map(kind: str) -> None:
    config = CONFIGS[kind]()
    max_pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[config.axes]
    units = (2, 3, 4)[: config.axes]
    layout = UnitLayout.of(config)
    grid = pixels(config, size=[n * u for n, u in zip(units, layout.size, strict=True)]).movedim(1, -1)
    tokens, expected = layout.unroll(grid), grid.movedim(-1, 1)
    for stage in (1, 2, 3):
        tokens = pool(tokens, torch.Size(config.query_stride).numel())
        expected = max_pool(expected, config.query_stride)
        assert torch.equal(UnitLayout.of(config, stage).reroll(tokens, units).movedim(-1, 1), expected)


def test_pooling_by_one_changes_nothing() -> None:
    tokens = torch.randn(1, 2, 4, 3)
    assert torch.equal(pool(tokens, 1), tokens)


def test_the_published_order_is_position_major() -> None:
    tokens = torch.arange(2 * 3 * 4).reshape(2, 3, 4, 1)
    published = published_order(tokens)
    assert published.shape == (2, 12, 1)
    for u in range(3):
        for p in range(4):
            assert torch.equal(published[:, p * 3 + u], tokens[:, u, p])


def test_after_the_last_pooling_the_published_order_is_the_raster() -> None:
    config = image_config()
    grid = numbered(2, 3)
    assert torch.equal(published_order(UnitLayout.of(config, 3).unroll(grid)), grid.flatten(1, 2))


def test_kept_units_are_in_ascending_order() -> None:
    keep = torch.tensor([[False, True, True, False], [True, False, False, True]])
    assert kept_units(keep, 2).tolist() == [[1, 2], [0, 3]]


def test_many_kept_units_stay_in_ascending_order() -> None:
    """A sort that is not stable only shows it on long rows."""
    keep = torch.rand(3, 2000) < 0.5
    counts = keep.sum(1)
    for row in range(3):
        kept = kept_units(keep[row : row + 1], int(counts[row]))
        assert torch.equal(kept[0], keep[row].nonzero()[:, 0])


def test_gathering_takes_whole_units() -> None:
    tokens = torch.randn(2, 4, 3, 5)
    gathered = gather_units(tokens, torch.tensor([[1, 3], [0, 2]]))
    assert torch.equal(gathered, torch.stack([tokens[0, [1, 3]], tokens[1, [0, 2]]]))


def test_one_position_table_serves_every_image_of_a_batch() -> None:
    table = torch.randn(1, 4, 3, 5)
    gathered = gather_units(table, torch.tensor([[1, 3], [0, 2]]))
    assert torch.equal(gathered, torch.stack([table[0, [1, 3]], table[0, [0, 2]]]))
