"""Windows that slide over an image: they cover it, and their weights merge to one result without seams."""

import math
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from hierax.predict.sliding import Box, axis, merged_rows

LENGTHS = [1, 4, 63, 64, 65, 66, 100, 127, 128, 129, 500, 2048]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.9, 0.999])
def test_windows_cover_an_axis_at_whole_cells_and_overlap_as_requested(length: int, overlap: float) -> None:
    found = axis(length, stride=4, window=64, overlap=overlap)
    if length <= 64:
        assert (found.starts, found.side) == ((0,), length)
        return
    assert found.starts[0] == 0
    assert 0 <= found.starts[-1] + 64 - length < 4
    steps = [after - before for before, after in zip(found.starts, found.starts[1:], strict=False)]
    assert all(0 < step <= max(64 * (1 - overlap), 4) and step % 4 == 0 for step in steps)
    assert max(steps) - min(steps) <= 4
    most = max(int(64 * (1 - overlap)) // 4, 1)  # cells from one window to the next
    assert len(found.starts) == 1 + math.ceil(math.ceil((length - 64) / 4) / most)


def test_a_window_of_a_fixed_size_reaches_over_the_edge_of_a_small_image() -> None:
    found = axis(30, stride=4, window=64, overlap=0.25, fixed=True)
    assert (found.starts, found.side, found.cells) == ((0,), 64, 8)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.9])
def test_the_weights_of_every_cell_have_the_sum_one_and_are_above_zero(length: int, overlap: float) -> None:
    found = axis(length, stride=4, window=64, overlap=overlap)
    total = torch.zeros(found.starts[-1] // 4 + -(-found.side // 4))
    for number, weight in enumerate(found.weights()):
        assert bool((weight > 0).all())
        assert bool((weight <= 1).all())
        total[found.first_cell(number) :][: len(weight)] += weight
    assert torch.allclose(total, torch.ones_like(total), atol=1e-6)


def test_a_weight_falls_towards_a_border_inside_of_the_image_only() -> None:
    first, second, third = axis(64 + 2 * 48, stride=4, window=64, overlap=0.25).weights()
    assert first[:12].tolist() == [1] * 12
    assert torch.allclose(first[12:], torch.tensor([0.875, 0.625, 0.375, 0.125]))
    assert torch.allclose(second[:4], first[12:].flip(0))
    assert third[4:].tolist() == [1] * 12


def merged(image: Tensor, window: int, overlap: float, noise: float = 0.0) -> tuple[Tensor, list[int]]:
    """The merged logits of windows whose logits are the cells of `image` `[C, rows, columns]`, and rows per band."""
    rows, columns = (axis(4 * n, stride=4, window=window, overlap=overlap) for n in image.shape[1:])

    def logits_of(boxes: Sequence[Box]) -> Iterator[Tensor]:
        for y, x in boxes:
            part = image[:, y.start // 4 : y.stop // 4, x.start // 4 : x.stop // 4]
            yield part + noise * torch.randn(len(part), 1, 1)

    bands = list(merged_rows(rows, columns, logits_of))
    assert [band.start for band, _ in bands] == [0, *(band.stop for band, _ in bands[:-1])]
    return torch.cat([logits for _, logits in bands], 1), [logits.shape[1] for _, logits in bands]


@pytest.mark.parametrize("shape", [(40, 30), (7, 90), (16, 16), (17, 16), (1, 1)])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.8])
def test_windows_that_agree_are_merged_to_what_they_agree_on(shape: tuple[int, int], overlap: float) -> None:
    image = torch.randn(3, *shape)
    found, _ = merged(image, 64, overlap)
    assert torch.allclose(found, image, atol=1e-5)


def test_windows_that_disagree_pass_into_each_other() -> None:
    """Each window is off by a constant: without an overlap, there are steps of that size; with it, small ones."""
    image = torch.zeros(1, 64, 64)
    torch.manual_seed(0)
    steps = [merged(image, 64, overlap, noise=1.0)[0].diff(dim=2).abs().max() for overlap in (0, 0.5)]
    assert steps[1] < steps[0] / 4


def test_the_logits_of_one_row_of_windows_are_in_memory() -> None:
    _, bands = merged(torch.zeros(1, 200, 20), 64, 0.25)
    assert max(bands) <= 16
    assert sum(bands) == 200
