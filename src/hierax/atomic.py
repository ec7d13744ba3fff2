"""Files that exist whole or not at all, even after a power cut. Errors name the file that the caller asked for."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

_SYSTEM = re.compile(r"\(os error (\d+)\)")
"""How safetensors and other Rust libraries state an error of the system."""
_WRITERS = ("inline_container", "PytorchStreamWriter", "file write failed", "unexpected pos", "iostream error")
"""What the writers of PyTorch and OpenVINO say when a write fails."""


PARTS = ".*.part*"
"""A pattern for temporary files that a killed process left."""


@contextlib.contextmanager
def atomic_write(path: Path, *, sync: bool = True, keep: bool = False) -> Iterator[Path]:
    """A temporary path in the same folder (made if missing), with the same suffix. It becomes `path` on success; after
    an error it is deleted. Its name is short, because that of `path` may be as long as the file system allows.

    Args:
        sync: write file and folder to the disk, so that `path` is complete also after a power cut. Use False for many
            files that can be made again.
        keep: do not replace a file that exists by then: if several processes write it, the first one wins.

    Raises:
        OSError: it cannot be written; names `path`.
    """
    part = path.with_name(f".{secrets.token_hex(8)}.part{path.suffix}")
    with name_in_errors(path, part):
        try:
            make_folder(path.parent, sync=sync)
            part.touch(exist_ok=False)  # a write error is found here and worded alike, whichever library writes
            mode = part.stat().st_mode  # of any new file; safetensors' writer makes its own readable by the owner only
            yield part
            os.chmod(part, mode)
            if sync:
                _sync_file(part)
            if not (keep and _link(part, path)):
                os.replace(part, path)
            if sync:
                sync_folder(path.parent)
        finally:
            _remove(part)


@contextlib.contextmanager
def set_aside(paths: Iterable[Path]) -> Iterator[Callable[[], None]]:
    """A function that gives files which are about to be replaced together other names, in this order: so old and new
    files never stand side by side. After an error they get their names back, else they are deleted.
    """
    moved: dict[Path, Path] = {}

    def move() -> None:
        for path in paths:
            if path.is_file():
                aside = path.with_name(f".{secrets.token_hex(8)}.part{path.suffix}")
                os.replace(path, aside)
                moved[path] = aside
                sync_folder(path.parent)

    try:
        yield move
    except BaseException:
        for path, aside in moved.items():
            with contextlib.suppress(OSError):  # the error that is being raised says more
                os.replace(aside, path)
        raise
    for aside in moved.values():
        _remove(aside)


def sync_folder(folder: Path) -> None:
    """Writes the names of the files in a folder to the disk."""
    with contextlib.suppress(OSError):  # not every file system can do this to folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_files(folder: Path) -> None:
    """Writes everything below a folder to the disk: the content of the files, and the names in all its folders."""
    for place, _, names in os.walk(folder):
        for name in names:
            _sync_file(Path(place, name))
        sync_folder(Path(place))


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def check_writable(path: Path) -> None:
    """Checks that a file can be written to `path`, before the work starts; creates nothing.

    Raises:
        OSError: it cannot be written; names `path`.
    """
    folder = path.parent
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    probe = folder / f".{secrets.token_hex(8)}{path.suffix}"
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
    """Makes a folder and its parents, on the disk with `sync`. Its errors carry no file name, so that `name_in_errors`
    can add the path.
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
    """Makes errors of the system name `path` instead of `part` (a temporary file or folder) or instead of no file.

    Errors of C++ and Rust libraries about a full disk become an `OSError`, too.
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


def _link(part: Path, path: Path) -> bool:
    """Gives a file a second name, unless that name exists. Returns False where the file system has no links."""
    try:
        os.link(part, path)
    except FileExistsError:
        return True
    except OSError:
        return path.exists()
    return True
