"""From decoded images of any color mode to upright RGB or gray, 8 bits a channel."""

from __future__ import annotations

import numpy as np
from PIL import Image

from hierax.processing.errors import ImageError

_ORIENTATION_TAG = 0x0112
# What undoes each value of the EXIF orientation tag; 1 is upright.
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
    """The EXIF orientation tag, 1..8; 1 if there is none or it cannot be read. Call within `pillow_is_quiet`."""
    if not _has_metadata(image):
        return 1
    try:
        value = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # damaged metadata is no reason to refuse the pixels
        return 1
    return value if value in _UPRIGHT else 1


def _has_metadata(image: Image.Image) -> bool:
    # Spares images made in memory the parsing, and the attributes that getexif leaves behind on a user's image.
    return bool(image.info) or type(image) is not Image.Image


def upright(image: Image.Image) -> Image.Image:
    """The image with its EXIF orientation applied, without metadata if that changed it; else the same object."""
    method = _UPRIGHT.get(orientation(image))
    if method is None:
        return image
    turned = image.transpose(method)
    keep = image.info.get("transparency")
    # The result must not have the tag, or the next reader would turn it twice.
    turned.info = {} if keep is None else {"transparency": keep}
    return turned


def upright_array(array: np.ndarray, orientation: int) -> np.ndarray:
    """`upright` for an array [height, width, channels]: a view."""
    if orientation in (5, 6, 7, 8):
        array = array.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array


def to_rgb(image: Image.Image, *, name: str) -> Image.Image:
    """RGB, 8 bits a channel; the same object if it is that already.

    Transparency (alpha, a palette's or a key color) is laid over white, as documents and logos are shown. 16-bit
    gray is divided by 257. Mode F holds 0..1 or, as Pillow has it, 0..255; other ranges are stretched from minimum to
    maximum. CMYK is converted without its color profile. Raises `ImageError` for modes that Pillow cannot convert.
    """
    transparent = "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa")
    if image.mode == "RGB" and not transparent:
        return image
    if image.mode[0] == "I" or image.mode == "F":
        return Image.fromarray(_grey_levels(image)).convert("RGB")
    try:
        if not transparent:
            return image.convert("RGB")
        # La and RGBa hold colors already multiplied by alpha; Pillow converts them only to their straight twins.
        straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)
        layer = (image if straight == image.mode else image.convert(straight)).convert("RGBA")
    except ValueError as error:
        raise ImageError(name, f"color mode {image.mode} cannot be converted to RGB") from error
    page = Image.new("RGB", image.size, "white")
    page.paste(layer, mask=layer)
    return page


def _grey_levels(image: Image.Image) -> np.ndarray:
    """Modes I;16 (and kin), I and F as [height, width] uint8."""
    values = np.asarray(image)
    if values.dtype.kind != "f":
        # Mode I has 32 bits, but its sources (16-bit PNG and PGM) use 16.
        return ((np.clip(values, 0, 65535).astype(np.uint32) + 128) // 257).astype(np.uint8)
    finite = np.isfinite(values)
    low, high = (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 0.0)
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    if low >= 0 and high <= 1:
        values = values * 255
    elif low < 0 or high > 255:
        values = (values.astype(np.float64) - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    return np.rint(values).astype(np.uint8)


def to_grey(image: Image.Image, *, name: str) -> Image.Image:
    """Mode L (luma of ITU-R 601), otherwise as `to_rgb`."""
    if image.mode == "L" and "transparency" not in image.info:
        return image
    return to_rgb(image, name=name).convert("L")


def bands(image: Image.Image, channels: int, *, name: str) -> np.ndarray:
    """The image's channels as they are, [height, width, channels] uint8, for models that take neither 1 nor 3.

    Raises `ImageError` if the number of channels differs or they do not have 8 bits.
    """
    if image.mode not in ("LA", "RGBA", "RGBX", "CMYK") or len(image.getbands()) != channels:
        raise ImageError(name, f"color mode {image.mode}; expected {channels} channels of 8 bits")
    return np.asarray(image)
