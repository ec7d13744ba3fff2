"""Folders that exist whole or not at all, and are replaced in one step if the system supports this."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import secrets
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from hierax.atomic import make_folder, name_in_errors, sync_files, sync_folder
from hierax.locking import FolderTaken, Lock, NoLocks, hold_lock
from hierax.notices import notify

_SWAP, _HERE = 2, -100  # RENAME_EXCHANGE (RENAME_SWAP of macOS) and AT_FDCWD


@contextlib.contextmanager
def atomic_folder(target: Path, check: Callable[[], None]) -> Iterator[Path]:
    """An empty folder beside `target` (in folders made if missing). It takes the place of `target` on success; after an
    error it is deleted, and `target` is as before.

    Whenever the process is killed, the old or the new folder is at `target`. Only where the system cannot exchange two
    folders in one step, the old one may be left under a hidden name; `restore_folder` brings it back. The next call
    does so too, and deletes what else was left.

    Args:
        check: called just before `target` is replaced; its error leaves `target` unchanged.

    Raises:
        FolderTaken: another process writes to `target`.
        OSError: it cannot be written; names `target`.
    """
    given, target = target, target.resolve()
    with name_in_errors(given, _beside(target, "lock")):
        make_folder(target.parent)
        with _alone(given, target) as lock:
            own = "" if lock.is_real else f"{secrets.token_hex(4)}."  # without locks, there may be another process
            part, old = _beside(target, f"{own}new"), _beside(target, f"{own}old")
            _restore(target)
            for left in (part, old):
                shutil.rmtree(left, ignore_errors=True)
            with name_in_errors(given, part):
                try:
                    part.mkdir()
                    yield part
                    sync_files(part)
                    check()
                    _replace_folder(part, target, old)
                    sync_folder(target.parent)
                finally:
                    shutil.rmtree(part, ignore_errors=True)
                    if os.path.lexists(target):
                        shutil.rmtree(old, ignore_errors=True)


def make_room(path: Path, *, folder: bool = False) -> None:
    """Moves away a folder that is in the place of a cached file, or with `folder` what is in the place of a folder of
    cached files, so that the cache works again. It stays beside the place under another name, and a `Notice` tells it;
    an empty folder is deleted.

    Raises:
        OSError: it cannot be renamed.
    """
    if not os.path.lexists(path) or path.is_dir() == folder:
        return
    if not folder:
        with contextlib.suppress(OSError):  # it is not empty, or a link
            path.rmdir()
            return
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.moved")
    os.replace(path, aside)
    there, wanted = ("a file", "a folder of cached files") if folder else ("a folder", "a cached file")
    notify(f"{path}: {there} was in the place of {wanted}; it is now {aside.name}")


def restore_folder(target: Path) -> None:
    """Brings back the folder that was at `target` when a process was killed while it replaced it, see `atomic_folder`.

    Raises:
        OSError: it cannot be renamed.
    """
    target = target.resolve()
    if not os.path.lexists(target) and _former(target):
        with contextlib.suppress(FolderTaken), _alone(target, target):
            _restore(target)


def _beside(target: Path, kind: str) -> Path:
    """A hidden name beside a folder, always the same one; short, because that of the folder may be as long as the file
    system allows.
    """
    digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]
    return target.with_name(f".{target.name[:40]}.{digest}.{kind}")


@contextlib.contextmanager
def _alone(given: Path, target: Path) -> Iterator[Lock]:
    with contextlib.ExitStack() as stack:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NoLocks)
                lock = stack.enter_context(hold_lock(_beside(target, "lock")))
        except FolderTaken as error:
            raise FolderTaken(f"{given}: another process is writing it; wait until it has ended ({error})") from None
        yield lock


def _former(target: Path) -> list[Path]:
    """Folders that were at `target`."""
    start = _beside(target, "").name
    found = os.scandir(target.parent) if target.parent.is_dir() else ()
    return sorted(Path(entry.path) for entry in found if entry.name.startswith(start) and entry.name.endswith("old"))


def _restore(target: Path) -> None:
    former = [] if os.path.lexists(target) else _former(target)
    if former:
        os.replace(former[0], target)
        sync_folder(target.parent)


def _replace_folder(part: Path, target: Path, old: Path) -> None:
    """Moves a folder to `target`; what was there is then at `part` or `old`."""
    if os.path.lexists(target):
        if _exchange(part, target):
            return
        os.replace(target, old)
    try:
        os.replace(part, target)
    except BaseException:
        if os.path.lexists(old) and not os.path.lexists(target):
            os.replace(old, target)
        raise


def _exchange(one: Path, other: Path) -> bool:
    """Gives two folders each other's names in one step. Returns False where the system or the disk cannot do it."""
    names = os.fsencode(one), os.fsencode(other)
    try:
        library = ctypes.CDLL(None)
        if sys.platform == "darwin":
            return library.renamex_np(*names, _SWAP) == 0
        return library.renameat2(_HERE, names[0], _HERE, names[1], _SWAP) == 0
    except (AttributeError, OSError, TypeError):  # another system, or an older one
        return False
