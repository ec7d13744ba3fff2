"""Images with masks for the tests of segmentation: colored squares on gray, whose color is their class."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hierax.data.segmentation.dataset import SegmentationDataset
from hierax.data.segmentation.masks import Mask
from hierax.data.segmentation.numbering import Numbering

COLORS = np.array([(120, 120, 120), (230, 30, 30), (30, 30, 230)])


def drawn(seed: int, *, height: int = 64, width: int = 80, ignored: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """An image `[H, W, 3]` with a square of each class, and the class of each pixel; with a strip that is `ignored`."""
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for number in (1, 2):
        side = int(random.integers(16, 28))
        top, left = int(random.integers(height - side)), int(random.integers(width - side))
        mask[top : top + side, left : left + side] = number
    noise = random.integers(-20, 21, (height, width, 3))
    pixels = (COLORS[mask] + noise).clip(0, 255).astype(np.uint8)
    if ignored:
        mask[:, :5] = 255
    return pixels, mask


def pairs(folder: Path, count: int = 8, *, seed: int = 0, ignored: bool = False) -> Path:
    """A folder of images and masks of equal names; images differ in size."""
    for place in ("images", "masks"):
        (folder / place).mkdir(parents=True)
    for number in range(count):
        pixels, mask = drawn(100 * seed + number, width=80 + 8 * (number % 3), ignored=ignored)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
    return folder


class _Images:
    """Drawn images and their masks, in memory."""

    def __init__(self, count: int, options: dict[str, Any]) -> None:
        self.count, self.options = count, options

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"s{index}"

    mask_name = name

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(drawn(index, **self.options)[0])

    def mask(self, index: int) -> Mask:
        return Mask(drawn(index, **self.options)[1])


def dataset(count: int = 4, **options: Any) -> SegmentationDataset:
    """A dataset of drawn images; `options` are those of `drawn`."""
    return SegmentationDataset(_Images(count, options), Numbering(count=3), ("ground", "red", "blue"))
