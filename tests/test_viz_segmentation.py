"""Class maps as images: colors, palette images, overlays, legends."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hierax import viz


def test_the_palette_is_that_of_pascal_voc() -> None:
    """As in its development kit: black, maroon, green, olive, navy, …, and the color of its borders at 255."""
    colors = viz.palette(256)
    assert colors[:5].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert colors[8].tolist() == [64, 0, 0]
    assert colors[20].tolist() == [0, 64, 128]
    assert colors[255].tolist() == [224, 224, 192]
    assert len(np.unique(colors, axis=0)) == 256


@pytest.mark.parametrize("count", [2, 16, 256])
def test_values_of_a_mask_are_its_classes_in_a_file_too(tmp_path: Path, count: int) -> None:
    """Pillow writes fewer bits per pixel for a short palette, which would change 255."""
    mask = np.array([[0, 1, count - 1, 255]], np.uint8)
    viz.paint(mask, viz.palette(count)).save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), mask)
        assert image.convert("RGB").getpixel((1, 0)) == (128, 0, 0)


def test_more_than_256_classes_become_an_image_of_16_bits(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 255, 256, 65535]], np.int32)
    viz.paint(mask).save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        assert np.array_equal(np.asarray(image), mask)


def test_an_overlay_mixes_the_image_and_the_colors() -> None:
    image = Image.new("RGB", (2, 1), (100, 100, 100))
    drawn = viz.overlay(image, np.array([[0, 1]], np.uint8), [(0, 0, 50), (200, 0, 50)], opacity=0.5)
    assert np.asarray(drawn).tolist() == [[[50, 50, 75], [150, 50, 75]]]
    assert np.asarray(viz.overlay(image, np.array([[1, 1]]), opacity=0)).tolist() == [[[100] * 3] * 2]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16"])
def test_an_overlay_takes_images_of_every_mode(mode: str) -> None:
    assert viz.overlay(Image.new(mode, (3, 2)), np.zeros((2, 3), np.uint8)).mode == "RGB"


def test_where_a_class_has_no_color_or_black_the_image_is_unchanged() -> None:
    image = Image.new("RGB", (3, 1), (100, 100, 100))
    drawn = viz.overlay(image, np.array([[1, 255, 0]], np.uint8), viz.palette(2))
    assert np.asarray(drawn).tolist() == [[[114, 50, 50], [100, 100, 100], [100, 100, 100]]]


@pytest.mark.parametrize(
    ("mask", "options", "said"),
    [
        ((3, 2), {}, r"mask has shape \[3, 2\]; expected \[2, 3\], as the image"),
        ((2, 3), {"opacity": 1.5}, "opacity is 1.5; expected a number from 0 to 1"),
        ((2, 3), {"colors": [(0, 0, 256)]}, r"colors has shape \[1, 3\]; expected \[classes, 3\], integers from 0 to"),
        ((2, 3), {"colors": [0, 1]}, "colors has shape"),
    ],
)
def test_what_cannot_be_drawn_is_refused(mask: tuple[int, int], options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        viz.overlay(Image.new("RGB", (3, 2)), np.zeros(mask, np.uint8), **options)


@pytest.mark.parametrize("width", [1, 40, 2048])
def test_a_legend_is_below_the_image_and_as_wide(width: int) -> None:
    image = Image.new("RGB", (width, 30), (9, 9, 9))
    entries = [("road", (128, 64, 128)), ("a very long name of a class " * 3, (0, 0, 142)), ("名", (70, 70, 70))]
    drawn = viz.with_legend(image, entries)
    assert drawn.width == width
    assert drawn.height > 30
    assert np.array_equal(np.asarray(drawn)[:30], np.asarray(image))
    colors = {tuple(color) for color in np.asarray(drawn)[30:].reshape(-1, 3).tolist()}
    assert width < 40 or {entries[0][1], entries[2][1]} <= colors
    assert viz.with_legend(image, []).size == image.size
