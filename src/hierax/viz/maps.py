"""Drawings of feature maps, mask units, attention and reconstructions. All functions take arrays and return images.

Nothing here runs a model, reads a file or changes its arguments. Arrays may be numpy's or torch's; only the functions
that take a model's tensors import torch. The cells of a map are drawn as squares (nearest neighbor), because a smooth
image would suggest detail that the map does not have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from hierax.principal import principal_scores
from hierax.processing.arrays import is_tensor
from hierax.processing.record import IMAGENET, Preprocessing

if TYPE_CHECKING:
    from torch import Tensor


def finite_array(values: np.ndarray | Tensor) -> np.ndarray:
    """The values as a float32 array of numpy.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    array = values.detach().float().cpu().numpy() if is_tensor(values) else np.asarray(values)  # type: ignore[union-attr]
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError("values are not finite; expected numbers to draw, without NaN and infinity")
    return array


# -- pixels and feature maps --------------------------------------------------------------------------------------


def to_image(pixels: np.ndarray | Tensor, *, record: Preprocessing = IMAGENET) -> Image.Image:
    """The image of a model's input `[C, H, W]`: undoes the rescaling and normalization of `record`.

    Of more than three channels, the first three are shown as red, green and blue; of two, the first as gray.
    """
    levels = np.moveaxis(finite_array(pixels), 0, -1)
    if record.do_normalize:
        levels = levels * np.array(record.image_std, np.float32) + np.array(record.image_mean, np.float32)
    if record.do_rescale:
        levels = levels / record.rescale_factor
    levels = levels[..., :3] if levels.shape[-1] >= 3 else levels[..., :1].repeat(3, axis=-1)
    return Image.fromarray(np.rint(levels.clip(0, 255)).astype(np.uint8))


def principal_components(feature_map: np.ndarray | Tensor, *, count: int = 3) -> np.ndarray:
    """Scores `[H, W, count]` of a map `[C, H, W]` on its first principal components; missing components are 0.

    Every cell is one observation of C values; see `hierax.principal`.
    """
    array = finite_array(feature_map)
    channels, height, width = array.shape
    return principal_scores(array.reshape(channels, -1).T, count=count).reshape(height, width, count)


def robust_scale(values: np.ndarray, *, percent: float = 1.0) -> np.ndarray:
    """Each entry of the last axis stretched to 0..1, with the lowest and highest `percent` cut off; 0.5 if all are
    equal.

    Vision transformers often have a few extreme cells, which would leave the other cells without contrast.
    """
    flat = values.reshape(-1, values.shape[-1])
    low, high = np.percentile(flat, (percent, 100 - percent), axis=0)
    span = high - low
    scaled = (values - low) / np.where(span > 0, span, 1)
    return np.where(span > 0, scaled.clip(0, 1), 0.5).astype(np.float32)


def enlarge(cells: np.ndarray, *, stride: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """Cells `[rows, columns, …]` enlarged to an image of `size` (height, width) pixels.

    Every cell fills `stride` (vertical, horizontal) pixels; parts outside of the image are cut off.
    """
    pixels = cells.repeat(stride[0], axis=0).repeat(stride[1], axis=1)
    if pixels.shape[0] < size[0] or pixels.shape[1] < size[1]:
        raise ValueError(
            f"cells is {cells.shape[0]}x{cells.shape[1]} at stride {tuple(stride)}; too few for {tuple(size)}"
        )
    return pixels[: size[0], : size[1]]


def pca_image(feature_map: np.ndarray | Tensor, *, stride: Sequence[int], size: Sequence[int]) -> Image.Image:
    """A map `[C, H, W]` as colors: its first three principal components are red, green and blue.

    Within a map, equal colors mean similar features. Colors of different maps cannot be compared.
    """
    colors = robust_scale(principal_components(feature_map))
    return Image.fromarray(enlarge(np.rint(colors * 255).astype(np.uint8), stride=stride, size=size))
