"""The classes of Cityscapes: 19 of the 34 numbers of its masks are used in training and evaluation."""

from __future__ import annotations

import numpy as np

from hierax.data.dataset import IGNORE
from hierax.data.segmentation.class_tables import Entry

_USED = {  # the number in masks ..._labelIds.png, the name, and the color of the class
    7: ("road", (128, 64, 128)),
    8: ("sidewalk", (244, 35, 232)),
    11: ("building", (70, 70, 70)),
    12: ("wall", (102, 102, 156)),
    13: ("fence", (190, 153, 153)),
    17: ("pole", (153, 153, 153)),
    19: ("traffic light", (250, 170, 30)),
    20: ("traffic sign", (220, 220, 0)),
    21: ("vegetation", (107, 142, 35)),
    22: ("terrain", (152, 251, 152)),
    23: ("sky", (70, 130, 180)),
    24: ("person", (220, 20, 60)),
    25: ("rider", (255, 0, 0)),
    26: ("car", (0, 0, 142)),
    27: ("truck", (0, 0, 70)),
    28: ("bus", (0, 60, 100)),
    31: ("train", (0, 80, 100)),
    32: ("motorcycle", (0, 0, 230)),
    33: ("bicycle", (119, 11, 32)),
}

ENTRIES = [Entry(name, number, color) for number, (name, color) in enumerate(_USED.values())]
"""The 19 classes, by their numbers in masks `…_labelTrainIds.png`."""

VALUES = np.full(256, IGNORE, np.int64)
"""The class of each number in masks `…_labelIds.png`."""
VALUES[list(_USED)] = np.arange(len(_USED))
