"""Rescales and normalizes gray levels to the input of a model, in float32."""

from __future__ import annotations

import numpy as np

from hierax.processing.record import Preprocessing


def normalize(values: np.ndarray, record: Preprocessing, *, channel: int, unit: float = 1.0) -> np.ndarray:
    """The pixels of one channel in float32. One unit of `values` is `unit` gray levels.

    Values are rescaled in double precision, rounded to float32, and then normalized in float32. This order determines
    the last bit.
    """
    pixels = values.astype(np.float32)
    if record.do_rescale:
        pixels = (values * np.float64(unit * record.rescale_factor)).astype(np.float32)
    if record.do_normalize:
        pixels = (pixels - np.float32(record.image_mean[channel])) / np.float32(record.image_std[channel])
    return pixels


def levels_table(record: Preprocessing) -> np.ndarray:
    """The pixel value of each of the 256 gray levels in each channel, float32 [channels, 256]."""
    return np.stack([normalize(np.arange(256), record, channel=c) for c in range(record.num_channels)])


def write_pixels(region: np.ndarray, out: np.ndarray, record: Preprocessing, table: np.ndarray) -> None:
    """Writes `region` [h, w, channels] into `out` [channels, h, w] as pixels.

    uint8 values are looked up in `table`. Floats are in 0..1 if the record rescales, otherwise they are not rescaled.
    """
    for c, plane in enumerate(out):
        if region.dtype == np.uint8:
            # with "clip", numpy does not copy the result; no value is out of range
            np.take(table[c], region[:, :, c], out=plane, mode="clip")
        elif record.do_rescale:
            # bicubic interpolation overshoots; floats are clipped like 8-bit images
            plane[...] = normalize(np.clip(region[:, :, c], 0, 1), record, channel=c, unit=255)
        else:
            plane[...] = normalize(region[:, :, c], record, channel=c)
