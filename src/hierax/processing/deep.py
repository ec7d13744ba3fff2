"""Reads images with more than 8 bits per channel, or with signed or floating-point values."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import BinaryIO, cast

import numpy as np
from PIL import Image, PngImagePlugin

from hierax.processing.color import upright_array
from hierax.processing.errors import ImageError
from hierax.processing.frames import FIRST_ONLY, PAGES
from hierax.processing.jpeg2000 import read_bands
from hierax.processing.png import without_metadata
from hierax.processing.tiff import Layout, check_compression, describe_layout, read_layout, read_samples

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
JPEG_2000 = (b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
"""The first bytes of a JPEG 2000 file, with or without boxes."""
_ORIENTATION = 274
_COLORS = {
    4: "a mask",
    6: "YCbCr",
    8: "CIE Lab",
    9: "ICC Lab",
    10: "ITU Lab",
    32803: "the mosaic of a camera's sensor",
}
_LUMA = np.array([299, 587, 114]) / 1000  # ITU-R 601, as in Pillow


@dataclass(frozen=True)
class Deep:
    """The values of an image.

    Attributes:
        values: `[height, width, channels]` in the dtype of the file: gray, RGB, or bands that are not colors.
        top: the value of white; None if it is unknown.
        alpha: `[height, width]` from 0 to 1, or None.
        multiplied: whether colors are multiplied by alpha.
        bands: all samples unchanged, for models with this number of channels.
        colored: whether `values` are gray or RGB.
    """

    values: np.ndarray
    top: float | None = None
    alpha: np.ndarray | None = None
    multiplied: bool = False
    bands: np.ndarray | None = None
    colored: bool = True

    def raw(self, channels: int, *, name: str) -> np.ndarray:
        """The values, `[height, width, channels]`: uint8 unchanged, other dtypes as float32. Raises `ImageError`."""
        if self.bands is not None and channels == self.bands.shape[2] != 3:
            return _plain(self.bands, name)
        values = self._colors(channels, name)
        if self.alpha is not None and self.alpha.min() < 1:
            raise ImageError(name, "is partly transparent; this is not possible if values are not rescaled")
        return _plain(_with_channels(values, channels), name)

    def upright(self, orientation: int) -> Deep:
        """The values after rotation, according to the EXIF orientation tag."""
        if orientation == 1:
            return self
        alpha = None if self.alpha is None else upright_array(self.alpha[:, :, None], orientation)[:, :, 0]
        bands = None if self.bands is None else upright_array(self.bands, orientation)
        return replace(self, values=upright_array(self.values, orientation), alpha=alpha, bands=bands)

    def levels(self, channels: int, *, name: str) -> np.ndarray:
        """Gray levels, uint8 `[height, width, channels]`, drawn on white if transparent. Raises `ImageError`."""
        if channels not in (1, 3):
            if self.bands is None or self.bands.shape[2] != channels:
                have = self.values.shape[2] if self.bands is None else self.bands.shape[2]
                raise ImageError(name, f"an image of {have} bands; expected {channels}")
            return to_levels(self.bands, self.top)
        levels = to_levels(self._colors(channels, name), self.top)
        if self.alpha is not None:
            alpha = self.alpha[:, :, None]
            mixed = levels * (1 if self.multiplied else alpha) + 255 * (1 - alpha)
            levels = np.rint(mixed.clip(0, 255)).astype(np.uint8)
        return np.rint(_with_channels(levels, channels)).astype(np.uint8)

    def _colors(self, channels: int, name: str) -> np.ndarray:
        if not self.colored:
            count = self.values.shape[2]
            raise ImageError(
                name,
                f"an image of {count} bands that are not colors; expected {'RGB or gray' if channels == 3 else 'gray'} "
                f"(a model with num_channels={count} takes all of them)",
            )
        return self.values


def to_levels(values: np.ndarray, top: float | None) -> np.ndarray:
    """Converts values to gray levels in uint8: 0 to `top` become 0 to 255.

    If `top` is None, floats in 0 to 1 or 0 to 255 keep that range, int8 uses its full range, and other values are
    scaled from the smallest to the largest.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.int8:
        return (values.astype(np.int16) + 128).astype(np.uint8)
    if values.dtype == np.uint16 and top in (None, 65535):
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    finite = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
    low, high = (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 0.0)
    wide = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    if top is not None:
        low, high = 0.0, float(top)
    elif values.dtype.kind == "f" and low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    scaled = (wide - low) * (255 / (high - low)) if high > low else np.zeros_like(wide)
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)


def _plain(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise ImageError(name, "contains values that are not finite")
    return values


def _with_channels(values: np.ndarray, channels: int) -> np.ndarray:
    have = values.shape[2]
    if have == channels:
        return values
    return np.repeat(values, channels, axis=2) if have == 1 else (values @ _LUMA)[:, :, None]


# -- files -------------------------------------------------------------------------------------------------------------


def is_tiff(start: bytes) -> bool:
    """Whether a file with these first bytes is a TIFF."""
    return start[:4] in _TIFF


def deep_tiff(stream: BinaryIO, *, name: str = "") -> Layout | None:
    """The layout of a TIFF that Pillow would read wrongly; None for other files and for damaged files.

    If `name` is given, a TIFF with several pages is recorded in `FIRST_ONLY`, and an unsupported compression raises
    `ImageError`.
    """
    try:
        layout = read_layout(stream)
    except Exception:  # Pillow then raises the error
        return None
    if name:
        check_compression(layout, name=name)
    if layout.pages and name:
        FIRST_ONLY.add(PAGES, name)
    return None if layout.plain or min(layout.size) <= 0 else layout


def tiff_values(stream: BinaryIO, layout: Layout, *, name: str) -> Deep:
    """The values of the first page, upright. Raises `ImageError` if it is damaged or not supported."""
    samples = read_samples(stream, layout, name=name)
    samples = upright_array(samples, layout.one(_ORIENTATION, 1))
    kind, count, extra = layout.photometric, samples.shape[2], layout.extra
    limit = 2 ** layout.bits[0] - 1
    stated = layout.top if layout.top and layout.top < limit and samples.dtype.kind == "u" else None
    top = float(stated or limit) if samples.dtype.kind == "u" and layout.bits[0] <= 16 else stated
    if kind == 0:
        samples = (limit - samples if samples.dtype.kind == "u" else -samples.astype(np.float64)).astype(
            samples.dtype if samples.dtype.kind == "u" else np.float64
        )
    colors = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4}.get(kind)
    if colors is None or count < colors:
        raise ImageError(
            name,
            f"a TIFF of {describe_layout(layout)} in {_COLORS.get(kind, f'colors of kind {kind}')}, which is not read",
        )
    alpha = None
    if count > colors and extra[:1] in ((1,), (2,)):
        alpha = samples[:, :, colors] / (top or _highest(samples.dtype))
    elif count > colors and kind in (0, 1):
        return Deep(samples, top, bands=samples, colored=False)
    values = samples[:, :, :colors]
    if kind == 3:
        values, top = _apply_palette(values[:, :, 0], layout, name), 65535.0
    elif kind == 5:
        white = top or _highest(samples.dtype)
        rest = white - values.astype(np.float64).clip(0, white)
        values = (rest[:, :, :3] * rest[:, :, 3:] / white).astype(values.dtype)
    return Deep(values, top, alpha, multiplied=extra[:1] == (1,), bands=samples)


def _highest(dtype: np.dtype) -> float:
    return 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max)


def _apply_palette(indices: np.ndarray, layout: Layout, name: str) -> np.ndarray:
    table = np.array(layout.tags.get(320, ()), np.uint16)
    if len(table) < 3 or int(indices.max()) >= len(table) // 3:
        raise ImageError(name, "a damaged TIFF file (colors are missing from its palette)")
    return table.reshape(3, -1).T[indices]


def png_values(data: bytes, *, name: str) -> Deep | None:
    """The values of a PNG with 16 bits; None for other PNGs. Raises `ImageError`.

    Pillow reads only the upper 8 bits of colors. So the image is decoded a second time for the lower 8 bits.
    """
    data = without_metadata(data)
    image = PngImagePlugin.PngImageFile(io.BytesIO(data))
    mode = image.tile[0][3] if image.tile else None
    if mode in ("RGB;16B", "RGBA;16B"):
        parts = [np.asarray(_decode_by(data, image.mode, f"{image.mode};16{order}", name)) for order in "BL"]
        values = parts[0].astype(np.uint16) << 8 | parts[1]
    elif mode == "LA;16B":
        parts = np.asarray(_decode_by(data, "RGBA", "RGBA", name)).astype(np.uint16)  # has the same number of bytes
        values = parts[:, :, 0::2] << 8 | parts[:, :, 1::2]
    elif mode in ("I;16B", "I;16"):
        image.load()
        values = np.asarray(image).astype(np.uint16)[:, :, None]
    else:
        return None
    colors = 1 if values.shape[2] <= 2 else 3
    alpha = values[:, :, colors] / 65535 if values.shape[2] > colors else None
    return Deep(values[:, :, :colors], 65535, alpha, bands=values)


def jpeg2000_values(image: Image.Image, data: bytes, *, name: str) -> Deep | None:
    """The values of a JPEG 2000 image with more than 8 bits; None for other images.

    Pillow shifts gray values to 16 bits, and adds half the range to signed values. It reduces colors to 8 bits; these
    images raise `ImageError`.
    """
    bands = read_bands(data)
    bits = max((band.bits for band in bands), default=8)
    if bits <= 8:
        return None
    if not image.mode.startswith("I;16") or bits > 16:
        kind = "1 band" if len(bands) == 1 else f"{len(bands)} bands"
        raise ImageError(
            name,
            f"a JPEG 2000 image of {kind} of {bits} bits, which is not read (only gray up to 16 bits is); expected "
            "a PNG or TIFF of 16 bits, or .npy",
        )
    values = np.asarray(image)[:, :, None] >> 16 - bits
    if bands[0].signed:
        return Deep((values.astype(np.int32) - 2 ** (bits - 1)).astype(np.int16))
    return Deep(values, 2**bits - 1)


def _decode_by(data: bytes, mode: str, way: str, name: str) -> Image.Image:
    image = PngImagePlugin.PngImageFile(io.BytesIO(data))
    image._mode = mode
    image.tile = [image.tile[0]._replace(args=way)]
    image.info.pop("transparency", None)
    try:
        image.load()
    except Exception as error:
        raise ImageError(name, f"damaged or truncated ({error})") from error
    return cast("Image.Image", image)


def image_values(image: Image.Image) -> Deep | None:
    """The values of a decoded image with more than 8 bits; None for other images."""
    if image.mode[0] != "I" and image.mode != "F":
        return None
    values = np.asarray(image)
    if image.mode == "I" and values.min() >= 0 and values.max() <= 65535:
        values = values.astype(np.uint16)  # the mode has 32 bits, but its sources (PNG, PGM) use only 16
    return Deep(values[:, :, None], 65535 if values.dtype == np.uint16 else None)
