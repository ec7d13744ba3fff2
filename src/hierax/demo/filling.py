"""The demonstration of masked image modeling: a photo with hidden parts, how a model fills them in, and how far off it
is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from hierax.demo.inputs import pixels_of, preprocessing_at

if TYPE_CHECKING:
    from torch import Tensor

    from hierax.model.tasks import HieraForPreTraining

HIDDEN = 0.4  # share of the mask units that are hidden
_SMOOTH = 4  # pixels: the standard deviation of the blur over hidden parts, which removes the edges of their patches


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
    """Each photo, filled in, with `side` pixels; and a note with the number of visible units. Each photo gets another
    mask.

    Hidden parts are filled in at the model's own size, where it is best, and enlarged. Errors are of that size.
    """
    from hierax.predict.reconstruct import draw_keep
    from hierax.viz.maps import to_image
    from hierax.viz.reconstruction import draw_units

    size, found, keep = model.config.image_size, [], None
    record, unit = preprocessing_at(model, size[0]), [side * n // size[0] for n in model.config.unit_pixels]
    for number, picture in enumerate(pictures):
        before = pixels_of([picture], model, size[0])
        keep = draw_keep(model.config, size, mask_ratio=HIDDEN, seed=seed + number)
        truth, guess = (to_image(pixels[0], record=record) for pixels in (before, fill_in(model, before, keep)))
        guess = guess.filter(ImageFilter.GaussianBlur(_SMOOTH))
        error, flat = errors(truth, guess, _shown(keep, model, size[0]))
        large = to_image(pixels_of([picture], model, side)[0], record=record)
        made = Image.composite(
            large, guess.resize(large.size, Image.Resampling.BICUBIC), Image.fromarray(_shown(keep, model, side))
        )
        found.append(Filled(draw_units(large, unit=unit, keep=keep[0].numpy()), made, error, flat))
    return found, "" if keep is None else f"{int(keep.sum())} of {keep.numel()} parts are visible"


def fill_in(model: HieraForPreTraining, pixels: Tensor, keep: Tensor) -> Tensor:
    """The pixels `[1, C, H, W]`, with hidden parts as the model predicts them. `keep` `[1, U]` is True for visible mask
    units.
    """
    import torch

    from hierax.viz.reconstruction import reconstruct_pixels

    with torch.inference_mode():
        out = model(pixels, keep=keep)
        return reconstruct_pixels(pixels, out.logits, out.bool_masked_pos, config=model.config)


def errors(truth: Image.Image, guess: Image.Image, visible: np.ndarray) -> tuple[float, float]:
    """Root mean square errors on the pixels that are not `visible`: of `guess`, and of the mean color of the others."""
    before, after = (np.asarray(image, np.float32) for image in (truth, guess))
    hidden = before[~visible]

    def off(guessed: np.ndarray) -> float:
        return float(np.sqrt(np.mean((hidden - guessed) ** 2)))

    return off(after[~visible]), off(before[visible].mean(0))


def _shown(keep: Tensor, model: HieraForPreTraining, side: int) -> np.ndarray:
    """Which pixels `[side, side]` of an image are visible."""
    size = model.config.image_size
    units = keep.view(*model.config.unit_grid(size)).numpy()
    tall, wide = (side * pixels // length for pixels, length in zip(model.config.unit_pixels, size, strict=True))
    return units.repeat(tall, 0).repeat(wide, 1)
