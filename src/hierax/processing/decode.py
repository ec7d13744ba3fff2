"""Decodes files and bytes to images. Every failure is an `ImageError`; warnings of Pillow are not shown."""

from __future__ import annotations

import io
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import BinaryIO, cast

import numpy as np
from PIL import IcoImagePlugin, Image, ImageFile

from hierax.processing.color import orientation, upright_array
from hierax.processing.errors import ImageError, NotAnImageError, RefusedError, TooLargeError
from hierax.processing.foreign import register_reader, unreadable_kind
from hierax.processing.frames import note_frames
from hierax.processing.jpeg import check_jpeg, check_scans, jpeg_array, simplejpeg
from hierax.processing.jpeg2000 import check_jpeg2000
from hierax.processing.paths import NotRegularError, opened_regular
from hierax.processing.png import SIGNATURE, check_chunks, check_png, check_rows, problem_of, without_metadata
from hierax.processing.tiff import check_tiff

DEFAULT_MAX_PIXELS = 178_956_970
"""Default limit for the number of pixels of an image. Above it, Pillow suspects a decompression bomb."""

# These lists do not contain formats without a signature (any text file might be a TGA), or formats that start other
# programs (EPS runs Ghostscript). A text may begin like an image of _UNSURE ("Python", "BMW"): a failure then means
# that the file is not an image.
_SURE = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF", "JPEG2000", "PSD", "QOI")
_UNSURE = ("BMP", "PPM", "ICO", "DDS", "DIB", "SGI", "SUN")
_JPEG = ("JPEG", "MPO")
_CHECKED = ("PNG", *_JPEG, "ICO", "TIFF", "JPEG2000")
_LONGEST = 1 << 20  # maximum pixels of a side
_LARGE = 1 << 26  # pixels; for larger images, fast decoding would need more than twice the memory of Pillow
_NOT_AN_IMAGE = "not an image (PNG, JPEG, WebP, … are read)"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:")


def decode(source: str | os.PathLike[str] | bytes, *, name: str, max_pixels: int | None) -> Image.Image:
    """The first frame of an image file or of its bytes, in the color mode of the file. It is not yet upright.

    Args:
        source: the path, or the bytes of a file.
        name: the name of the image in errors.
        max_pixels: maximum number of pixels; None: no limit.

    Raises:
        ImageError: the source is missing, or is a folder, a URL, not an image, damaged, truncated, or too large.
    """
    with open_source(source, name=name) as stream, pillow_is_quiet():
        image = read_header(stream, name=name, max_pixels=max_pixels)
        if image.format == "PNG":
            return _whole_png(stream, image, name=name, max_pixels=max_pixels)
        _check_file(stream, image, name=name, max_pixels=max_pixels)
        note_frames(image, stream, name=name)
        load(image, name=name)
        return image


def decode_fast(
    source: str | os.PathLike[str] | bytes, *, name: str, max_pixels: int | None
) -> Image.Image | np.ndarray:
    """Like `decode`, but if simplejpeg is installed, an RGB JPEG is an upright array [height, width, 3]."""
    if simplejpeg() is None:
        return decode(source, name=name, max_pixels=max_pixels)
    with open_source(source, name=name) as stream, pillow_is_quiet():
        image = read_header(stream, name=name, max_pixels=max_pixels)
        if image.format in _JPEG and image.mode == "RGB" and image.width * image.height <= _LARGE:
            stream.seek(0)
            data = stream.read()
            check_scans(data, name=name)
            array = jpeg_array(data, name=name)
            if array is not None:
                return upright_array(array, orientation(image))
    return decode(source, name=name, max_pixels=max_pixels)


def read_size(content: bytes, *, name: str) -> tuple[int, int]:
    """Width and height of an image, from its header alone; the EXIF orientation is not applied.

    Raises:
        ImageError: Pillow cannot read the header. Some files that are read in another way have none that it knows.
    """
    with pillow_is_quiet():
        return read_header(io.BytesIO(content), name=name, max_pixels=None).size


@contextmanager
def open_source(source: str | os.PathLike[str] | bytes, *, name: str) -> Iterator[BinaryIO]:
    """Opens the bytes of an image as a stream, which is closed at the end. Raises `ImageError` if this is
    impossible.
    """
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    if not os.fspath(source):
        raise ImageError(name or "image", "an empty path; expected the path of an image")
    if isinstance(source, str) and _URL.match(source):
        raise ImageError(name, "URLs are not downloaded; download the image and pass its path")
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(opened_regular(source))
        except NotRegularError as error:
            raise ImageError(name, "a folder, not an image" if os.path.isdir(source) else str(error)) from None
        except FileNotFoundError as error:
            raise ImageError(name, "no such file") from error
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise ImageError(name, f"cannot be opened ({getattr(error, 'strerror', None) or error})") from error
        if not os.fstat(stream.fileno()).st_size:  # files of the kernel also have size 0; they may never end
            raise ImageError(name, "an empty file")
        yield stream


def read_header(stream: BinaryIO, *, name: str, max_pixels: int | None) -> Image.Image:
    """Reads the size and mode of an image, without decoding its pixels. Call it inside `pillow_is_quiet`.

    It does not use `Image.open`, which applies a limit that is global to the process, and tries formats that run
    programs.

    Raises:
        ImageError: the file is not an image, or is damaged or too large.
    """
    start = stream.read(16)
    if not start:
        raise ImageError(name, "an empty file")
    for kind, factory, verdict in _plugins(start):
        if isinstance(verdict, str):
            raise RefusedError(name, f"a {kind} image; this build of Pillow cannot decode it")
        if kind == "PNG":
            check_chunks(stream, name, until=b"IDAT")
        stream.seek(0)
        try:
            image = _open_png(stream, factory) if kind == "PNG" else factory(stream, "")
        except Image.DecompressionBombError as error:  # some plugins check the global limit of Pillow
            raise ImageError(name, f"too large for PIL.Image.MAX_IMAGE_PIXELS ({error})") from error
        except Exception as error:
            if kind in _UNSURE:
                continue
            raise ImageError(name, f"a damaged {kind} file, or one of an unknown type ({problem_of(error)})") from error
        check_pixels(image.size, name=name, max_pixels=max_pixels)
        return image
    if kind := unreadable_kind(start):
        raise RefusedError(name, kind)
    raise NotAnImageError(name, _NOT_AN_IMAGE)


def _open_png(stream: BinaryIO, factory: Callable[..., ImageFile.ImageFile]) -> ImageFile.ImageFile:
    """Opens a PNG and reads its header, without metadata that Pillow refuses."""
    try:
        return factory(stream, "")
    except Exception:
        stream.seek(0)
        small = without_metadata(stream.read())
        return factory(io.BytesIO(small), "")


def _plugins(start: bytes) -> Iterator[tuple[str, Callable[..., ImageFile.ImageFile], bool | str]]:
    """Yields the format, the class and the verdict of each plugin that accepts a file. If the verdict is a text, the
    decoder is missing.
    """
    for find in (Image.preinit, Image.init, partial(register_reader, start)):  # Image.init takes 20 ms, once
        find()
        foreign = [kind for kind, (factory, _) in Image.OPEN.items() if not factory.__module__.startswith("PIL.")]
        for kind in (*_SURE, *_UNSURE, *foreign):
            factory, accepts = Image.OPEN.get(kind, (None, None))
            if factory is None or accepts is None:
                continue
            try:
                verdict = accepts(start)
            except Exception:  # the file is shorter than the bytes that the plugin checks
                continue
            if verdict:
                yield kind, factory, verdict


def check_pixels(size: tuple[int, int], *, name: str, max_pixels: int | None) -> None:
    """Raises `ImageError` if an image of this size (width, height) has no pixels, or more than `max_pixels`."""
    width, height = size
    if width <= 0 or height <= 0:
        raise ImageError(name, f"has no pixels ({width} x {height})")
    if max(width, height) > _LONGEST:  # after resizing, the other side would have too many pixels
        raise ImageError(name, f"a side of {max(width, height):,} pixels; expected at most {_LONGEST:,}")
    if max_pixels is not None and width * height > max_pixels:
        raise TooLargeError(
            name, f"larger than --max-pixels {max_pixels} ({width} x {height} pixels; in Python: max_pixels)"
        )


def load(image: Image.Image, *, name: str) -> None:
    """Decodes the pixels in place. Raises `ImageError` if they are damaged or do not fit into memory."""
    try:
        image.load()
    except MemoryError as error:
        raise ImageError(name, f"not enough memory for {image.width} x {image.height} pixels") from error
    except Exception as error:  # decoders raise all kinds of errors for damaged data
        raise ImageError(name, f"damaged or truncated ({problem_of(error)})") from error


def load_opened(image: Image.Image, *, name: str, max_pixels: int | None) -> None:
    """Decodes an image that a caller opened with Pillow, in place. Call within `pillow_is_quiet`.

    If its file is still open, it is checked as a file is that `decode` reads. Pillow closes the file when it has
    decoded the image, and copies have none: of these nothing can be known any more. Raises `ImageError`.
    """
    data = _data_of(image)
    if data is None:
        load(image, name=name)
        return
    stream = io.BytesIO(data)
    if image.format == "PNG":
        check_chunks(stream, name)
        check_png(data, name=name)
        load(image, name=name)
        check_rows(data, image, name=name)
        return
    _check_file(stream, image, name=name, max_pixels=max_pixels)
    load(image, name=name)


def _data_of(image: Image.Image) -> bytes | None:
    """The bytes of the file that Pillow decodes an image from; None if they cannot be read now, or need no check."""
    # one that was unpickled has no attribute `fp`
    stream = getattr(image, "fp", None) if isinstance(image, ImageFile.ImageFile) else None
    if stream is None or stream.closed or image.format not in _CHECKED or image.tell():  # other frames lie elsewhere
        return None
    try:
        place = stream.tell()
        stream.seek(0)
        data = stream.read()
        stream.seek(place)
    except Exception:  # of any kind of stream; Pillow meets it again, and `load` tells it
        return None
    return data


def _check_file(stream: BinaryIO, image: Image.Image, *, name: str, max_pixels: int | None) -> None:
    """Raises `ImageError` for what Pillow accepts in a damaged file that is no PNG."""
    if image.format in _JPEG:
        _check_jpeg(stream, image, name)
    elif image.format == "ICO":
        _check_icon(stream, image, name=name, max_pixels=max_pixels)
    elif image.format == "TIFF":
        check_tiff(stream, name=name)
    elif image.format == "JPEG2000":
        check_jpeg2000(stream, name=name)


def _check_jpeg(stream: BinaryIO, image: Image.Image, name: str) -> None:
    """Raises `ImageError` if parts of a JPEG are missing, or it has too many scans."""
    place = stream.tell()
    stream.seek(0)
    data = stream.read()
    stream.seek(place)
    check_scans(data, name=name)
    check_jpeg(data, name=name, mode=image.mode)


def _whole_png(stream: BinaryIO, image: Image.Image, *, name: str, max_pixels: int | None) -> Image.Image:
    """Decodes a PNG, and checks what Pillow does not check: the checksums, and whether all rows are present. Raises
    `ImageError`.
    """
    stream.seek(0)
    data = stream.read()
    check_chunks(stream, name)
    check_png(data, name=name)
    small = without_metadata(data)
    if small is not data:
        image = read_header(io.BytesIO(small), name=name, max_pixels=max_pixels)
    note_frames(image, stream, name=name)
    load(image, name=name)
    check_rows(data, image, name=name)
    return image


def _check_icon(stream: BinaryIO, image: Image.Image, *, name: str, max_pixels: int | None) -> None:
    """Raises `ImageError` for an icon that contains a damaged PNG."""
    entry = cast("IcoImagePlugin.IcoImageFile", image).ico.entry[0]  # the largest image, which Pillow reads
    place = stream.tell()
    stream.seek(entry.offset)
    data = stream.read(entry.size)
    stream.seek(place)
    if data.startswith(SIGNATURE):
        decode(data, name=name, max_pixels=max_pixels)


_quiet_lock = threading.Lock()
_quiet_readers = 0
# The comment in the pattern identifies the filter of hierax, so that a filter of the user for Pillow is not removed.
_QUIET = r"PIL(\.|$)(?#hierax)"


@contextmanager
def pillow_is_quiet() -> Iterator[None]:
    """Ignores warnings of Pillow (about metadata and sizes) while any thread is inside the `with` block.

    It does not use `warnings.catch_warnings`, which replaces the filters of the whole process: with several threads,
    they may never be restored.
    """
    global _quiet_readers
    with _quiet_lock:
        _quiet_readers += 1
        warnings.filterwarnings("ignore", module=_QUIET)  # repeated calls add it only once
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_readers -= 1
            if not _quiet_readers:
                filters = cast("list[tuple[object, ...]]", warnings.filters)
                entry = ("ignore", None, Warning, re.compile(_QUIET), 0)
                if entry in filters:
                    filters.remove(entry)
