"""Converts numpy arrays and torch tensors to [height, width, channels], with 8 bits per channel or float."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from hierax.notices import notify
from hierax.processing.errors import ImageError

if TYPE_CHECKING:
    import torch

SHAPES = "[height, width, channels] or [channels, height, width]"


def is_tensor(value: object) -> bool:
    """Whether `value` is a torch tensor. Does not import torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def read_array(value: np.ndarray | torch.Tensor, *, channels: int, unit: bool, name: str) -> np.ndarray:
    """One image as [height, width, channels], in uint8 or float32.

    The channel axis, last or first, is found by its length. If both axes fit, it is the last axis of an array and the
    first axis of a tensor. An image without a channel axis, or with one channel, is repeated for a model that takes
    three. With `unit`, floats must be in 0..1, uint16 is divided by 65535, and other integers must be gray levels
    0..255. Otherwise, values are not changed.

    Raises:
        ImageError: the shape, the type or the values do not fit; the message names them.
    """
    tensor = is_tensor(value)
    try:
        array = to_numpy(value)
    except (RuntimeError, TypeError) as error:  # for example, of a meta tensor or a sparse tensor
        raise ImageError(name, f"a tensor with values that cannot be read; expected a dense one ({error})") from None
    array = _to_channels_last(array, channels, first_before_last=tensor, name=name)
    if 0 in array.shape:
        raise ImageError(name, f"no pixels (shape {list(array.shape)})")
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind in "iu":
        return _integers(array, name=name) if unit else array.astype(np.float32)
    if array.dtype.kind != "f":
        raise ImageError(name, f"dtype {array.dtype}; expected integers or a floating-point dtype")
    return _check_floats(array.astype(np.float32, copy=False), unit=unit, name=name)


def to_numpy(value: Any) -> np.ndarray:
    """An array or a torch tensor as a numpy array."""
    if not is_tensor(value):
        return np.asarray(value)
    tensor = value.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()  # numpy has no bfloat16
    return tensor.numpy()


def _to_channels_last(array: np.ndarray, channels: int, *, first_before_last: bool, name: str) -> np.ndarray:
    counts = (3, 1) if channels == 3 else (channels,)
    if array.ndim == 2 and 1 in (channels, counts[-1]):
        array = array[:, :, None]
    elif array.ndim == 3:
        axes = (0, 2) if first_before_last else (2, 0)
        found = [(count, axis) for count in counts for axis in axes if array.shape[axis] == count]
        if not found:
            wanted = " or ".join(str(count) for count in counts)
            raise ImageError(name, f"shape {list(array.shape)}; expected channels as the first or last axis ({wanted})")
        array = np.moveaxis(array, found[0][1], 2)
    else:
        raise ImageError(name, f"shape {list(array.shape)}; expected {SHAPES}")
    return array if array.shape[2] == channels else np.repeat(array, channels, axis=2)


def _integers(array: np.ndarray, *, name: str) -> np.ndarray:
    """Gray levels: uint16 becomes float32 divided by 65535, others become uint8."""
    low, high = int(array.min()), int(array.max())
    if array.dtype == np.uint16:
        if 1 < high <= 255:
            notify(
                "an array of uint16 has no value above 255: it is nearly black, since 65535 is white; gray levels "
                "0..255 must be uint8"
            )
        return array.astype(np.float32) / 65535
    if low < 0 or high > 255:
        raise ImageError(name, f"{array.dtype} values from {low} to {high}; expected gray levels 0..255")
    return array.astype(np.uint8)


def _check_floats(array: np.ndarray, *, unit: bool, name: str) -> np.ndarray:
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(name, "contains values that are not finite")
    # After interpolation, values may be a little outside of the range; larger values have other units.
    if unit and (low < -0.1 or high > 1.1):
        raise ImageError(
            name, f"float values from {low:g} to {high:g}; expected 0..1 (gray levels 0..255 must be integers)"
        )
    return np.clip(array, 0, 1) if unit else array
