"""The reconstruction of an MAE model as pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from torch import Tensor

    from hierax.model.config import HieraConfig

Statistics = Literal["visible", "true"]
_HIDDEN = (222, 222, 226)
_FRAMES = ((255, 255, 255, 215), (0, 0, 0, 50))  # colors of the border of a mask unit, from outside to inside


def draw_units(
    picture: Image.Image, *, unit: Sequence[int], keep: Sequence[bool] | np.ndarray | None = None
) -> Image.Image:
    """The image with the borders of its mask units, of `unit` (height, width) pixels each.

    `keep` has one boolean per unit, row by row. Units that are False, which a masked model does not see, are covered.
    """
    drawn = picture.convert("RGB")
    draw = ImageDraw.Draw(drawn, "RGBA")
    tops, lefts = range(0, drawn.height, unit[0]), range(0, drawn.width, unit[1])
    if keep is not None and len(keep) != len(tops) * len(lefts):
        raise ValueError(f"keep has {len(keep)} entries; expected {len(tops)}x{len(lefts)} mask units")
    corners = [(left, top) for top in tops for left in lefts]
    for number, (left, top) in enumerate(corners):
        right, bottom = min(left + unit[1], drawn.width) - 1, min(top + unit[0], drawn.height) - 1
        if keep is not None and not keep[number]:
            draw.rectangle((left, top, right, bottom), fill=_HIDDEN)
        # a dark frame within a bright one is visible on any image
        for inset, color in enumerate(_FRAMES):
            if right - left >= 2 * inset and bottom - top >= 2 * inset:
                draw.rectangle((left + inset, top + inset, right - inset, bottom - inset), outline=color)
    return drawn


def hidden_statistics(patches: Tensor, visible: Tensor, grid: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation `[B, patches, 1]` of every patch, estimated from the visible patches.

    Both are averages over the visible patches `[B, patches]`, weighted by one over the fourth power of the distance on
    the `grid`. Near patches dominate; a patch in a wide hole gets a mix of the patches around the hole.
    """
    import torch

    axes = [torch.arange(n, dtype=torch.float32) for n in grid]
    places = torch.cartesian_prod(*axes).view(math.prod(grid), len(grid)).to(patches.device)
    near = torch.cdist(places, places).clamp(min=0.5) ** -4
    weight = near * visible[:, None, :]
    weight = weight / weight.sum(-1, keepdim=True)
    variance, mean = torch.var_mean(patches.float(), dim=-1, keepdim=True)
    return weight @ mean, weight @ (variance + 1e-6).sqrt()


def reconstruct_pixels(
    pixels: Tensor, logits: Tensor, visible: Tensor, *, config: HieraConfig, statistics: Statistics = "visible"
) -> Tensor:
    """The pixels `[B, C, *size]`: hidden patches as an MAE predicts them, visible patches unchanged.

    With `normalize_pixel_loss`, an MAE predicts patches of mean 0 and standard deviation 1, so their brightness and
    contrast are unknown. "visible" estimates them from the visible patches (`hidden_statistics`). "true" takes them
    from the hidden patches, as in many published images: this shows part of the answer.

    Args:
        pixels: the model's input.
        logits, visible: fields `logits` and `bool_masked_pos` of `PreTrainingOutput`.
        config: configuration of the model.
        statistics: "visible" or "true"; not used without `normalize_pixel_loss`.

    Raises:
        ValueError: `statistics` is neither "visible" nor "true".
    """
    import torch

    from hierax.model.mae import patchify, unpatchify
    from hierax.model.positions import decoder_grid

    if statistics not in ("visible", "true"):
        raise ValueError(f"statistics is {statistics!r}; expected 'visible' or 'true'")
    size = tuple(pixels.shape[2:])
    patches, predicted = patchify(pixels.float(), config), logits.float()
    if config.normalize_pixel_loss and statistics == "visible":
        mean, deviation = hidden_statistics(patches, visible, decoder_grid(config, size))
        predicted = predicted * deviation + mean
    elif config.normalize_pixel_loss:
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        predicted = predicted * (variance + 1e-6).sqrt() + mean
    return unpatchify(torch.where(visible[..., None], patches, predicted), config, size)


def statistics_note(config: HieraConfig, statistics: Statistics) -> str:
    """The caption's note on the brightness and contrast of a reconstruction."""
    if not config.normalize_pixel_loss:
        return "the model predicts unnormalized pixels"
    if statistics == "visible":
        return "brightness and contrast estimated from visible patches"
    return "brightness and contrast taken from the hidden patches, so part of the answer is given"
