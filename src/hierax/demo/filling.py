"""The demonstration of masked image modeling: a photo with hidden parts, how a model fills them in, and how far off it
is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from hierax.demo.inputs import pixels_of, preprocessing_at

if TYPE_CHECKING:
    from torch import Tensor

    from hierax.model.tasks import HieraForPreTraining

_TIMES = 2  # the size at which photos are filled in, divided by the model's own size: mask units are smaller then


@dataclass(frozen=True)
class Filled:
    """A photo with its mask units, the hidden ones covered; the reconstruction; errors in gray levels of 256.

    Attributes:
        masked, made: images of the same size.
        error: root mean square error of the reconstruction on the hidden pixels.
        flat: the same error if every hidden pixel gets the mean color of the visible pixels.
    """

    masked: Image.Image
    made: Image.Image
    error: float
    flat: float


def fill(
    model: HieraForPreTraining, pictures: Sequence[Image.Image], *, seed: int, side: int
) -> tuple[list[Filled], str]:
    """Each photo, filled in; and a note with the number of visible units.

    The photo and its mirror image are filled in with the same mask, and the two results averaged. The photo that is
    drawn with its mask units has `side` pixels; each photo gets another mask.
    """
    import torch

    from hierax.predict.reconstruct import draw_keep
    from hierax.viz.maps import to_image
    from hierax.viz.reconstruction import draw_units

    config = model.config
    size = tuple(_TIMES * length for length in config.image_size)
    record, unit = preprocessing_at(model, size[0]), [side * length // size[0] for length in config.unit_pixels]
    found, visible = [], ""
    for number, picture in enumerate(pictures):
        before = pixels_of([picture], model, size[0])
        keep = draw_keep(config, size, mask_ratio=None, seed=seed + number)
        with torch.inference_mode():
            after = fill_in(model, before, keep)
        shown, made = (to_image(pixels[0], record=record) for pixels in (before, after))
        large = shown.resize((side, side), Image.Resampling.LANCZOS)
        error, flat = errors(shown, made, _pixel_mask(keep, model, size))
        found.append(Filled(draw_units(large, unit=unit, keep=keep[0].numpy()), made, error, flat))
        visible = f"{int(keep.sum())} of {keep.numel()} parts are visible"
    return found, visible


def fill_in(model: HieraForPreTraining, pixels: Tensor, keep: Tensor) -> Tensor:
    """The pixels `[1, C, H, W]`; hidden parts as the model predicts them, from the photo and its mirror image."""
    from hierax.viz.reconstruction import reconstruct_pixels

    grid = model.config.unit_grid(pixels.shape[2:])
    mirrored = keep.view(1, *grid).flip(-1).reshape(keep.shape)
    made = []
    for given, shown in ((pixels, keep), (pixels.flip(-1), mirrored)):
        out = model(given, keep=shown)
        made.append(reconstruct_pixels(given, out.logits, out.bool_masked_pos, config=model.config))
    return (made[0] + made[1].flip(-1)) / 2


def _pixel_mask(keep: Tensor, model: HieraForPreTraining, size: Sequence[int]) -> np.ndarray:
    """Which pixels `[H, W]` are visible."""
    units = keep.view(*model.config.unit_grid(size)).numpy()
    return units.repeat(model.config.unit_pixels[0], 0).repeat(model.config.unit_pixels[1], 1)[: size[0], : size[1]]


def errors(before: Image.Image, after: Image.Image, visible: np.ndarray) -> tuple[float, float]:
    """Root mean square errors on hidden pixels: of `after`, and of the mean color of the visible pixels."""
    truth, guess = (np.asarray(image, np.float32) for image in (before, after))
    hidden = truth[~visible]

    def off(guessed: np.ndarray) -> float:
        return float(np.sqrt(np.mean((hidden - guessed) ** 2)))

    return off(guess[~visible]), off(truth[visible].mean(0))
