"""Histograms of oriented gradients: against ones written out by hand, and as targets of every patch."""

import math

import pytest
import torch

from hierax.train.hog import CELL, ORIENTATIONS, hog, hog_targets, hog_width
from small import image_config, line_config, pixels, video_config, volume_config


def by_hand(picture: list[list[float]]) -> list[float]:
    """The histogram of one 8 x 8 picture, pixel by pixel."""
    counts = [0.0] * ORIENTATIONS
    mirrored = [1, *range(8), 6]
    for y in range(8):
        for x in range(8):
            dx = picture[y][mirrored[x + 2]] - picture[y][mirrored[x]]
            dy = picture[mirrored[y + 2]][x] - picture[mirrored[y]][x]
            angle = math.atan2(dx, dy) % math.pi
            counts[min(int(angle / math.pi * ORIENTATIONS), 8)] += math.hypot(dx, dy)
    length = math.sqrt(sum(c * c for c in counts))
    return [c / length for c in counts]


def test_a_histogram_is_the_one_written_out_by_hand() -> None:
    picture = torch.rand(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = hog(picture[None, None])
    assert found.shape == (1, 1, ORIENTATIONS, 1, 1)
    assert found.flatten().tolist() == pytest.approx(by_hand(picture.tolist()), abs=1e-9)


def test_an_edge_and_its_opposite_are_one_orientation() -> None:
    ramp = torch.arange(16.0).expand(16, 16)
    for picture, place in ((ramp, 4), (-ramp, 4), (ramp.T, 0), (-ramp.T, 0)):
        found = hog(picture[None, None])
        assert (found[:, :, place] > 0.99).all()


def test_histograms_have_length_1_and_know_no_contrast() -> None:
    pictures = torch.rand(2, 3, 32, 48, dtype=torch.float64)
    found = hog(pictures)
    assert found.shape == (2, 3, ORIENTATIONS, 4, 6)
    torch.testing.assert_close(found.norm(dim=2), torch.ones(2, 3, 4, 6, dtype=torch.float64))
    torch.testing.assert_close(hog(5 * pictures - 3), found)


def test_a_flat_picture_has_no_orientation() -> None:
    assert not hog(torch.ones(1, 1, 16, 16)).any()


def test_targets_are_those_of_each_patch_row_by_row() -> None:
    config = image_config(num_query_pool=2, image_size=(64, 96))
    found = hog_targets(image := pixels(config), config)
    assert found.shape == (2, 4 * 6, hog_width(config)) == (2, 24, 3 * 9 * 4)
    cells = hog(image)
    for row, column in ((0, 0), (1, 4), (3, 5)):
        patch = cells[:, :, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(found[:, row * 6 + column], patch.flatten(1))


def test_targets_of_a_clip_are_those_of_the_first_frame_of_each_token() -> None:
    config = video_config(num_query_pool=2)
    clip = pixels(config)
    found = hog_targets(clip, config)
    still = image_config(num_query_pool=2)
    assert found.shape == (2, 4 * 16, hog_width(still))
    for token in range(4):
        expected = hog_targets(clip[:, :, 2 * token], still)
        assert torch.equal(found[:, token * 16 : token * 16 + 16], expected)


@pytest.mark.parametrize("make", [line_config, volume_config])
def test_signals_and_volumes_have_no_orientations(make: object) -> None:
    config = make(num_query_pool=2)  # type: ignore[operator]
    with pytest.raises(ValueError, match="target is 'hog' and the model predicts 16"):
        hog_width(config)


def test_patches_that_are_no_whole_cells_are_refused() -> None:
    with pytest.raises(ValueError, match=f"whole cells of {CELL}x{CELL} pixels"):
        hog_width(image_config(num_query_pool=0))
