"""Whether a mask fits its image: the same size, and turned the same way."""

from __future__ import annotations

import os
from typing import Any

from PIL import Image

from hierax.data.segmentation.dataset import size_error
from hierax.data.segmentation.masks import Mask
from hierax.processing import ImageError
from hierax.processing.color import orientation, stored_size
from hierax.processing.decode import open_source, pillow_is_quiet, read_header

_REMEDY = "save both upright, without an EXIF orientation (Pillow: ImageOps.exif_transpose(image).save(path))"


def check_pair(content: Any, mask: Mask, *, name: str) -> None:
    """Checks by its header that an image has the size of its mask, and that both are turned the same way.

    Args:
        content: a path, the bytes of a file, or a Pillow image; nothing is checked for other contents.
        mask: its mask, upright.
        name: the name of the image in errors.

    Raises:
        ImageError: the header cannot be read, the sizes differ, or only one of the two has an EXIF orientation and the
            sizes do not show whether the other one is turned too.
    """
    found = _header(content, name)
    if found is None:
        return
    stored, tag = found
    upright = stored[::-1] if tag >= 5 else stored
    if mask.size != upright:
        if tag >= 5 and mask.orientation == 1 and mask.size == stored:
            raise ImageError(
                name, f"the image is turned by its EXIF orientation ({tag}), but its mask is not; {_REMEDY}"
            )
        raise size_error(name, upright, mask.size)
    turned = [one for one in (tag, mask.orientation) if one != 1]
    # a quarter turn of one that is not square would have another size
    if len(turned) == 1 and (turned[0] < 5 or stored[0] == stored[1]):
        which = ("image", "mask") if tag != 1 else ("mask", "image")
        raise ImageError(
            name,
            f"the {which[0]} is turned by its EXIF orientation ({turned[0]}), but the {which[1]} states none, and its "
            f"size does not show whether it is turned too; {_REMEDY}",
        )


def _header(content: Any, name: str) -> tuple[tuple[int, int], int] | None:
    """Height and width as stored, and the EXIF orientation."""
    if isinstance(content, Image.Image):
        return _rows_and_columns(content), orientation(content)
    if not isinstance(content, (str, bytes, os.PathLike)):
        return None
    with open_source(content, name=name) as stream, pillow_is_quiet():
        image = read_header(stream, name=name, max_pixels=None)
        return _rows_and_columns(image), orientation(image)


def _rows_and_columns(image: Image.Image) -> tuple[int, int]:
    width, height = stored_size(image)
    return height, width
