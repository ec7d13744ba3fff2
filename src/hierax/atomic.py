"""Files that are there whole or not at all, also after a power cut; errors name the file that was asked for."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

_SYSTEM = re.compile(r"\(os error (\d+)\)")
"""As safetensors and others of Rust word an error of the system."""
_WRITERS = ("inline_container", "PytorchStreamWriter", "file write failed", "unexpected pos", "iostream error")
"""What the writers of PyTorch and OpenVINO say when they cannot write on."""


@contextlib.contextmanager
def replaced(path: Path, *, keep: bool = False) -> Iterator[Path]:
    """A file beside `path` that takes its place when it is written, on the disk, or is gone.

    Args:
        keep: a file that is there by then stays: of several processes that write it, the first one's counts.

    Raises:
        OSError: it cannot be written; names `path`.
    """
    part = path.with_name(f".{path.name[:40]}.{os.getpid()}.{secrets.token_hex(3)}.part")
    with naming(path, part):
        try:
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            if not (keep and _linked(part, path)):
                os.replace(part, path)
        finally:
            _remove(part)


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """A path to write to, in the same folder (made if missing), with the same suffix, that becomes `path` when all went
    well. Its name is short: that of `path` may be as long as the file system allows.

    Raises:
        OSError: it cannot be written; names `path`.
    """
    part = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    with naming(path, part):
        try:
            make_folder(path.parent)
            part.touch(exist_ok=False)  # what cannot be written says so here, in one way, whichever library writes
            mode = part.stat().st_mode  # of any new file; safetensors' writer makes its own readable by the owner only
            yield part
            os.chmod(part, mode)
            os.replace(part, path)
        finally:
            _remove(part)


def check_writable(path: Path) -> None:
    """Checks that a file can be written there, before the work whose result it is to hold; makes nothing.

    Raises:
        OSError: it cannot; names `path`.
    """
    folder = path.parent
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    probe = folder / f".{secrets.token_hex(8)}{path.suffix}"
    with naming(path, probe):
        with contextlib.suppress(FileNotFoundError):
            os.lstat(path)  # a name that is too long
        try:
            probe.touch(exist_ok=False)
        finally:
            _remove(probe)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it; errors of the system name none of them, for `naming` to name the path."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        number = errno.ENOTDIR if isinstance(error, FileExistsError) else error.errno
        raise OSError(number, os.strerror(number or 0)) from None


def _remove(part: Path) -> None:
    with contextlib.suppress(OSError):  # the error that is under way says more
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path, part: Path) -> Iterator[None]:
    """Errors of the system name `path`, in place of `part`, a file or folder that is written on the way, or of nothing.

    What libraries of C++ and Rust say when a disk is full becomes such an error, too.
    """
    try:
        yield
    except OSError as error:
        name = None if error.filename is None else str(error.filename)
        if error.errno is None or not (name is None or name == str(part) or name.startswith(f"{part}{os.sep}")):
            raise  # of another file, or not of the system
        raise OSError(error.errno, f"cannot be written: {os.strerror(error.errno)}", str(path)) from error
    except Exception as error:
        text = str(error)
        if found := _SYSTEM.search(text):
            raise OSError(int(found[1]), f"cannot be written: {os.strerror(int(found[1]))}", str(path)) from error
        if any(writer in text for writer in _WRITERS):
            raise OSError(errno.ENOSPC, "cannot be written; the disk may be full", str(path)) from error
        raise


def _linked(part: Path, path: Path) -> bool:
    """Gives a file a second name unless another has it; False where the file system cannot."""
    try:
        os.link(part, path)
    except FileExistsError:
        return True
    except OSError:
        return path.exists()
    return True
