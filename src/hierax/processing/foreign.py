"""Image formats that Pillow reads only with another package."""

from __future__ import annotations

import contextlib
from importlib import import_module

from hierax.extras import install_line, is_installed

_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def register_reader(start: bytes) -> None:
    """Registers with Pillow the package that reads a file with these first bytes, if it is installed."""
    kind = _package(start)
    if kind is None or not is_installed(kind[1]):
        return
    with contextlib.suppress(ImportError):  # a broken package: the format then counts as not supported
        module = import_module(kind[1])
        if kind[1] == "pillow_heif":
            module.register_heif_opener()


def unreadable_kind(start: bytes) -> str | None:
    """The format of a file with these first bytes, and the package to install; None if the format is not known."""
    found = _package(start)
    if found is None:
        return None
    kind, package = found
    return f"{kind} image, which needs another package: {install_line(package)}"


def _package(start: bytes) -> tuple[str, str] | None:
    """The name of the format with an article, and the package that reads it."""
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF:
        return "a HEIF", "pillow_heif"
    if start.startswith((b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")):
        return "a JPEG XL", "pillow_jxl"
    return None
