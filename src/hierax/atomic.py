"""Writes files completely or not at all, even after a power cut. Errors name the file that the caller requested."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

_SYSTEM = re.compile(r"\(os error (\d+)\)")
"""The form of system errors in safetensors and other Rust libraries."""
_WRITERS = ("inline_container", "PytorchStreamWriter", "file write failed", "unexpected pos", "iostream error")
"""Texts of errors of PyTorch and OpenVINO if a write fails."""


PARTS = ".*.part*"
"""A pattern for temporary files of killed processes."""


@contextlib.contextmanager
def atomic_write(path: Path, *, sync: bool = True, keep: bool = False) -> Iterator[Path]:
    """Yields a temporary path in the same folder (created if missing), with the same suffix. On success, it is renamed
    to `path`; after an error, it is deleted. Its name is short, because the name of `path` may have the maximum length.

    Args:
        sync: write file and folder to the disk, so that `path` is complete also after a power cut. Use False for many
            files that can be written again.
        keep: do not replace an existing file: if several processes write it, the first one is kept.

    Raises:
        OSError: the file cannot be written; the message names `path`.
    """
    part = path.with_name(part_name(path))
    with name_in_errors(path, part):
        try:
            make_folder(path.parent, sync=sync)
            part.touch(exist_ok=False)  # finds most write errors, with the same message for all libraries
            mode = part.stat().st_mode  # the mode of new files; the writer of safetensors sets another one
            yield part
            os.chmod(part, mode)
            if sync:
                sync_file(part)
            if not (keep and _link(part, path)):
                os.replace(part, path)
            if sync:
                sync_folder(path.parent)
        finally:
            _remove(part)


def part_name(path: Path) -> str:
    """A new name for the temporary file that becomes `path`."""
    return f".{_random_name()}.part{path.suffix}"


def _random_name() -> str:
    import secrets  # it loads OpenSSL, which `hierax --help` does not need

    return secrets.token_hex(8)


def sync_folder(folder: Path) -> None:
    """Writes the names of the files in a folder to the disk."""
    with contextlib.suppress(OSError):  # not every file system can do this to folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_files(folder: Path) -> None:
    """Writes everything in a folder to the disk: the content of all files, and the names in all subfolders."""
    for place, _, names in os.walk(folder):
        for name in names:
            sync_file(Path(place, name))
        sync_folder(Path(place))


def sync_file(path: Path) -> None:
    """Writes the content of a file to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def check_writable(path: Path) -> None:
    """Checks that a file can be written to `path`, before the work starts. It creates nothing.

    Raises:
        OSError: the file cannot be written; the message names `path`.
    """
    folder = path.parent
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    probe = folder / f".{_random_name()}{path.suffix}"
    with name_in_errors(path, probe):
        with contextlib.suppress(FileNotFoundError):
            os.lstat(path)  # a name that is too long
        if not _takes_files(folder):
            try:
                probe.touch(exist_ok=False)
            finally:
                _remove(probe)


def _takes_files(folder: Path) -> bool:
    """Whether a file without a name, of which a kill leaves nothing, can be made in a folder. Only Linux has them."""
    try:
        os.close(os.open(folder, os.O_WRONLY | os.O_TMPFILE))
    except (AttributeError, OSError):  # another system or disk; else the reason is found with a name
        return False
    return True


def make_folder(folder: Path, *, sync: bool = True) -> None:
    """Creates a folder and its parents; with `sync`, also writes them to the disk. Its errors have no file name, so
    that `name_in_errors` can add the path.
    """
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)] if sync else []
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        number = errno.ENOTDIR if isinstance(error, FileExistsError) else error.errno
        raise OSError(number, os.strerror(number or 0)) from None
    for path in made:
        sync_folder(path.parent)


def _remove(part: Path) -> None:
    with contextlib.suppress(OSError):  # the error that is being raised says more
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def name_in_errors(path: Path, part: Path) -> Iterator[None]:
    """Inside the `with` block, system errors name `path`. Without it, they name `part` (a temporary file or folder), or
    no file.

    Errors of C++ and Rust libraries about a full disk become an `OSError` too.
    """
    try:
        yield
    except OSError as error:
        name = None if error.filename is None else str(error.filename)
        if error.errno is None or not (name is None or name == str(part) or name.startswith(f"{part}{os.sep}")):
            raise  # an error about another file, or not a system error
        raise OSError(error.errno, f"cannot be written: {os.strerror(error.errno)}", str(path)) from error
    except Exception as error:
        text = str(error)
        if found := _SYSTEM.search(text):
            raise OSError(int(found[1]), f"cannot be written: {os.strerror(int(found[1]))}", str(path)) from error
        if any(writer in text for writer in _WRITERS):
            raise OSError(errno.ENOSPC, "cannot be written; the disk may be full", str(path)) from error
        raise


def _link(part: Path, path: Path) -> bool:
    """Gives a file a second name, unless that name exists. Returns False if the file system has no links."""
    try:
        os.link(part, path)
    except FileExistsError:
        return True
    except OSError:
        return path.exists()
    return True
