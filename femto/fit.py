"""A linear layer for the categories, fitted on the features of a teacher (`femto/teacher.py --categories`)."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from hierax.processing import HieraImageProcessor, Preprocessing
from hierax.train.probe import DECAYS, logistic_regression

CROPS = 3  # of each training image, besides the whole image
CROP_SIDE, CROP_SCALE = 128, (0.3, 1.0)  # what the student sees in training
BATCH = 32

Features = Callable[[Tensor], Tensor]  # normalized pixels `[B, 3, side, side]` -> `[B, C]`


def fitted(pictures: Path, features: Features, record: Preprocessing) -> tuple[nn.Linear, list[str], float]:
    """Fits the layer on `pictures/labeled/train`.

    Of the decays of `hierax.train.probe`, the best one on the validation images is taken.

    Args:
        record: how the teacher normalizes images of its size. As in training, they are resized without cropping.

    Returns:
        The layer, the names of its outputs, and its share of right answers for the whole images of
        `pictures/labeled/val`.
    """
    names = sorted(folder.name for folder in (pictures / "labeled" / "train").iterdir() if folder.is_dir())
    processor = HieraImageProcessor(record.replace(size=record.crop_size, do_center_crop=False))
    training = _featured(pictures / "labeled" / "train", names, features, processor, crops=CROPS)
    validation = _featured(pictures / "labeled" / "val", names, features, processor, crops=0)
    mean, deviation = training[0].mean(0), training[0].std(0) + 1e-6
    scaled, tried = (training[0] - mean) / deviation, list[nn.Linear]()
    for decay in DECAYS:
        weight, bias = logistic_regression(scaled, training[1], classes=len(names), decay=decay)
        layer = nn.Linear(training[0].shape[1], len(names)).requires_grad_(False)
        layer.weight.copy_(weight.T / deviation)  # the scale of the features goes into the layer
        layer.bias.copy_(bias - layer.weight @ mean)
        tried.append(layer)
    shares = [float((layer(validation[0]).argmax(1) == validation[1]).double().mean()) for layer in tried]
    best = max(range(len(tried)), key=shares.__getitem__)
    return tried[best], names, shares[best]


def _featured(
    folder: Path, names: Sequence[str], features: Features, processor: HieraImageProcessor, *, crops: int
) -> tuple[Tensor, Tensor]:
    """Features `[N, C]` and labels `[N]` of whole images and of `crops` random crops of each."""
    files = [(path, index) for index, name in enumerate(names) for path in sorted((folder / name).iterdir())]
    found: list[Tensor] = []
    for first in range(0, len(files), BATCH):
        opened = [Image.open(path).convert("RGB") for path, _ in files[first : first + BATCH]]
        views = [view for number, image in enumerate(opened) for view in _views(image, crops, seed=first + number)]
        found.append(features(processor(views).pixel_values))
    return torch.cat(found), torch.tensor([index for _, index in files]).repeat_interleave(1 + crops)


def _views(image: Image.Image, crops: int, *, seed: int) -> Iterator[Image.Image]:
    """The image, and square crops of it at the resolution of the student."""
    yield image
    draw = random.Random(seed)
    for _ in range(crops):
        side = round(min(image.size) * draw.uniform(*CROP_SCALE) ** 0.5)
        left, top = draw.randint(0, image.width - side), draw.randint(0, image.height - side)
        crop = image.crop((left, top, left + side, top + side))
        yield crop.resize((CROP_SIDE, CROP_SIDE), Image.Resampling.BICUBIC)
