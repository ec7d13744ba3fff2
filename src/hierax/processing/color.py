"""Converts decoded images of any color mode to upright RGB or gray, with 8 bits per channel."""

from __future__ import annotations

import numpy as np
from PIL import Image, TiffImagePlugin

from hierax.processing.errors import ImageError

_ORIENTATION_TAG = 0x0112
_TIFF_WIDTH, _TIFF_HEIGHT = 0x0100, 0x0101
# The operation that makes an image upright, by the value of its EXIF orientation tag; 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation(image: Image.Image) -> int:
    """The EXIF orientation tag, 1..8; 1 if there is none or it cannot be read. Call it inside `pillow_is_quiet`."""
    if not _has_metadata(image):
        return 1
    try:
        value = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # an image with damaged metadata can still be used
        return 1
    return value if value in _UPRIGHT else 1


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an image as it is stored, before its EXIF orientation is applied."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # its size is that of the upright image
        tags = image.tag_v2
        return tags.get(_TIFF_WIDTH, image.width), tags.get(_TIFF_HEIGHT, image.height)
    return image.size


def _has_metadata(image: Image.Image) -> bool:
    # Images that were made in memory have no metadata. Without this check, getexif would add attributes to them.
    return bool(image.info) or type(image) is not Image.Image


def upright(image: Image.Image) -> Image.Image:
    """Applies the EXIF orientation. Returns a new image without metadata, or the same object if it is
    already upright.
    """
    method = _UPRIGHT.get(orientation(image))
    if method is None:
        return image
    turned = image.transpose(method)
    keep = image.info.get("transparency")
    # The result must not have the tag, otherwise the next reader would rotate the image again.
    turned.info = {} if keep is None else {"transparency": keep}
    return turned


def upright_array(array: np.ndarray, orientation: int) -> np.ndarray:
    """Like `upright`, for an array [height, width, channels]. Returns a view."""
    if orientation in (5, 6, 7, 8):
        array = array.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array


def to_rgb(image: Image.Image, *, name: str) -> Image.Image:
    """Converts an image to RGB with 8 bits per channel. Returns the same object if it is already RGB.

    A transparent image (alpha, a transparent palette entry or a key color) is drawn on white, as documents and logos
    are usually shown. 16-bit gray is divided by 257. Mode F contains values 0..1, or 0..255 as Pillow defines it; other
    ranges are scaled from minimum to maximum. CMYK is converted without its color profile.

    Raises:
        ImageError: Pillow cannot convert the color mode.
    """
    transparent = "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa")
    if image.mode == "RGB" and not transparent:
        return image
    if image.mode[0] == "I" or image.mode == "F":
        return Image.fromarray(_gray_levels(image)).convert("RGB")
    try:
        if not transparent:
            return image.convert("RGB")
        # In La and RGBa, colors are multiplied by alpha; Pillow converts these modes only to LA and RGBA.
        straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)
        layer = (image if straight == image.mode else image.convert(straight)).convert("RGBA")
    except ValueError as error:
        raise ImageError(name, f"color mode {image.mode} cannot be converted to RGB") from error
    page = Image.new("RGB", image.size, "white")
    page.paste(layer, mask=layer)
    return page


def _gray_levels(image: Image.Image) -> np.ndarray:
    """An image of mode I, F, or I;16 and similar as uint8 [height, width]."""
    values = np.asarray(image)
    if values.dtype.kind != "f":
        # Mode I has 32 bits, but the files that give this mode (16-bit PNG and PGM) use only 16.
        return ((np.clip(values, 0, 65535).astype(np.uint32) + 128) // 257).astype(np.uint8)
    finite = np.isfinite(values)
    low, high = (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 0.0)
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    if low >= 0 and high <= 1:
        values = values * 255
    elif low < 0 or high > 255:
        values = (values.astype(np.float64) - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    return np.rint(values).astype(np.uint8)


def to_gray(image: Image.Image, *, name: str) -> Image.Image:
    """Converts an image to mode L (luma of ITU-R 601). Transparency and errors are as in `to_rgb`."""
    if image.mode == "L" and "transparency" not in image.info:
        return image
    return to_rgb(image, name=name).convert("L")


def bands(image: Image.Image, channels: int, *, name: str) -> np.ndarray:
    """The unchanged channels of an image, uint8 [height, width, channels], for models that take neither 1 nor 3
    channels.

    Raises:
        ImageError: the image has another number of channels, or they do not have 8 bits.
    """
    if image.mode not in ("LA", "RGBA", "RGBX", "CMYK") or len(image.getbands()) != channels:
        raise ImageError(name, f"color mode {image.mode}; expected {channels} channels of 8 bits")
    return np.asarray(image)
