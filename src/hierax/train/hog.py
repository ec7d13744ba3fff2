"""Histograms of oriented gradients as the target of a masked autoencoder (paper, table 3c; as in masked feature
prediction, Wei et al., CVPR 2022).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from hierax.model.config import HieraConfig

ORIENTATIONS = 9
CELL = 8


def hog(pictures: Tensor) -> Tensor:
    """Histograms `[B, C, 9, H / 8, W / 8]` of images `[B, C, H, W]`, each of length 1.

    Every pixel adds the length of its gradient (central differences, mirrored edges) to one of nine orientations of 20
    degrees; opposite directions count as one. Sums are over cells of 8 x 8 pixels, separately for each channel. The
    published code of masked feature prediction smooths gradients over three rows or columns. The plain gradients here
    are those of Dalal and Triggs (CVPR 2005), who found them best.
    """
    x = F.pad(pictures, (1, 1, 1, 1), mode="reflect")
    across, down = x[..., 1:-1, 2:] - x[..., 1:-1, :-2], x[..., 2:, 1:-1] - x[..., :-2, 1:-1]
    turned = torch.atan2(across, down) * (
        ORIENTATIONS / math.pi
    )  # -9 to 9; an orientation and its opposite are 9 apart
    place = turned.floor().long() % ORIENTATIONS
    counts = torch.zeros(*place.shape[:2], ORIENTATIONS, *place.shape[2:], dtype=x.dtype, device=x.device)
    counts = counts.scatter(2, place[:, :, None], torch.hypot(across, down)[:, :, None])
    cells = counts.unflatten(4, (-1, CELL)).unflatten(3, (-1, CELL)).sum((4, 6))
    return F.normalize(cells, dim=2)


def hog_width(config: HieraConfig) -> int:
    """The number of values per patch of `hog_targets`.

    Raises:
        ValueError: the model's patches are not whole cells of images or clips.
    """
    size = config.target_size
    flat = config.axes == 2 or (config.axes == 3 and config.target == "first_frame")
    if not flat or any(pixels % CELL for pixels in size[-2:]):
        shape = "x".join(map(str, size))
        raise ValueError(
            f"target is 'hog' and the model predicts {shape} pixels per patch; hog takes images and clips in whole "
            f"cells of {CELL}x{CELL} pixels"
        )
    rows, columns = size[-2] // CELL, size[-1] // CELL  # torch.compile does not support a generator here
    return config.num_channels * ORIENTATIONS * rows * columns


def hog_targets(pixels: Tensor, config: HieraConfig) -> Tensor:
    """Targets `[B, patches, hog_width]` of pixels `[B, channels, *size]`, patches row-major, in (channel, orientation,
    row, column); of clips the first frame of each token.
    """
    batch = len(pixels)
    if config.axes == 3:
        frames = pixels[:, :, :: config.stage_stride(config.stages - 1)[0]]
        pixels = frames.transpose(1, 2).flatten(0, 1)
    rows, columns = (length // CELL for length in config.target_size[-2:])
    cells = hog(pixels).unflatten(4, (-1, columns)).unflatten(3, (-1, rows))  # [B, C, 9, gy, rows, gx, columns]
    return cells.permute(0, 3, 5, 1, 2, 4, 6).flatten(3).flatten(1, 2).reshape(batch, -1, hog_width(config))
