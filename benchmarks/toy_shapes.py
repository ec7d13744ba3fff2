"""Circles, squares and triangles of random colors on noise, for the scripts that train on drawn shapes."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

CLASSES = 3  # the background is one more, of number 0 in masks


@dataclass
class Shapes:
    """An image, its mask (0 is the background), and the corners and classes (from 0) of the shapes in it."""

    image: Image.Image
    mask: Image.Image
    boxes: list[tuple[int, int, int, int]]
    classes: list[int]


def draw(random: np.random.RandomState, size: int = 128) -> Shapes:
    """One to three shapes; a later one covers an earlier one."""
    coarse = np.kron(random.rand(8, 8, 3), np.ones((size // 8, size // 8, 1)))
    image = Image.fromarray((127 * (coarse + random.rand(size, size, 3))).astype(np.uint8))
    mask, boxes, classes = Image.new("L", (size, size)), [], []
    for _ in range(random.randint(1, 4)):
        kind, side = random.randint(CLASSES), random.randint(20, 50)
        x, y = random.randint(0, size - side, 2)
        box = (int(x), int(y), int(x + side), int(y + side))
        corners = [(box[0] + side // 2, box[1]), (box[0], box[3]), (box[2], box[3])]
        for target, fill in ((image, tuple(map(int, random.randint(0, 255, 3)))), (mask, kind + 1)):
            pen = ImageDraw.Draw(target)
            if kind == 2:
                pen.polygon(corners, fill=fill)
            else:
                (pen.ellipse, pen.rectangle)[kind](box, fill=fill)
        boxes.append(box)
        classes.append(kind)
    return Shapes(image, mask, boxes, classes)
