"""From gray levels to the model's input: rescaled and normalized float32."""

from __future__ import annotations

import numpy as np

from hierax.processing.record import Preprocessing


def normalise(values: np.ndarray, record: Preprocessing, *, channel: int, unit: float = 1.0) -> np.ndarray:
    """Pixels of one channel in float32, from values of `unit` gray levels each.

    Rescaled in double precision, rounded to float32, then normalized in float32: the order decides the last bit.
    """
    pixels = values.astype(np.float32)
    if record.do_rescale:
        pixels = (values * np.float64(unit * record.rescale_factor)).astype(np.float32)
    if record.do_normalize:
        pixels = (pixels - np.float32(record.image_mean[channel])) / np.float32(record.image_std[channel])
    return pixels


def levels_table(record: Preprocessing) -> np.ndarray:
    """The value of each of the 256 gray levels in each channel, [channels, 256] float32."""
    return np.stack([normalise(np.arange(256), record, channel=c) for c in range(record.num_channels)])


def write_pixels(region: np.ndarray, out: np.ndarray, record: Preprocessing, table: np.ndarray) -> None:
    """Put `region` [h, w, channels] into `out` [channels, h, w] as pixels.

    uint8 goes by `table`; float is 0..1 if the record rescales, else in gray levels.
    """
    for c, plane in enumerate(out):
        if region.dtype == np.uint8:
            # "clip" spares numpy a copy of the result; nothing is out of range.
            np.take(table[c], region[:, :, c], out=plane, mode="clip")
        elif record.do_rescale:
            # Bicubic overshoots; floats are clipped like 8-bit images.
            plane[...] = normalise(np.clip(region[:, :, c], 0, 1), record, channel=c, unit=255)
        else:
            plane[...] = normalise(region[:, :, c], record, channel=c)
