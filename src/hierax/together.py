"""Replaces files of a folder that belong together: whenever the process is killed, the old or the new ones are there.

A system can rename only one file in one step. So a small record in the folder says which files are about to get which
names. From then on the new files count: whoever opens the folder after a kill finishes what the record says. Programs
that do not know the record never find new files beside old ones: the first file, the weights, is missing meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hierax.atomic import atomic_write, name_in_errors, part_name, sync_file, sync_folder
from hierax.locking import NoLocks, hold_lock

_RECORD, _LOCK = ".replacing.json", ".replacing.lock"
_HIDDEN = re.compile(r"\.[0-9a-f]{16}\.part(\.\w+)?")


@dataclass(frozen=True)
class _Change:
    """The name of a file, of the new file that gets this name (None: no one does), and what the old one is called
    meanwhile.
    """

    name: str
    new: str | None
    old: str


class Together:
    """The files that are written; see `replace_together`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.news: dict[str, Path] = {}

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[Path]:
        """Yields the temporary path of the file that will be called `name`. Errors name the file."""
        path = self.folder / name
        part = self.news[name] = self.folder / part_name(path)
        with name_in_errors(path, part):
            part.touch(exist_ok=False)
            mode = part.stat().st_mode  # the mode of new files; the writer of safetensors sets another one
            yield part
            os.chmod(part, mode)
            sync_file(part)


@contextlib.contextmanager
def replace_together(folder: Path, *, without: Sequence[str] = ()) -> Iterator[Together]:
    """Writes files of a folder that belong together. At the end of the `with` block all of them get their names, the
    first one last; after an error the folder is as before.

    Args:
        without: names of files that are deleted, because they belong to the old ones.

    Raises:
        OSError: a file cannot be written; the message names it.
    """
    together = Together(folder)
    try:
        yield together
        with _alone(folder):
            _finish(folder)  # what was written before
            news = {**dict.fromkeys(without), **{name: part.name for name, part in together.news.items()}}
            _commit(folder, [_Change(name, new, part_name(folder / name)) for name, new in news.items()])
    finally:
        if not os.path.lexists(folder / _RECORD):  # otherwise the files are needed to finish
            for part in together.news.values():
                _delete(part)


def finish_replacement(folder: Path) -> None:
    """Gives files their names, if a process was killed while it did so; see `replace_together`. Waits for a process
    that does so now.

    Raises:
        OSError: the folder cannot be written to.
        ValueError: the record in the folder is damaged.
    """
    if not os.path.lexists(folder / _RECORD):
        return
    try:
        with _alone(folder):
            _finish(folder)
    except OSError as error:
        raise OSError(
            error.errno,
            f"saving a model here was interrupted, and cannot be finished ({os.strerror(error.errno or 0)}); "
            "open it once where the folder can be written to",
            str(folder),
        ) from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoLocks)
        with name_in_errors(folder, folder / _LOCK), hold_lock(folder / _LOCK, wait=True):
            yield


def _commit(folder: Path, changes: Sequence[_Change]) -> None:
    replaces = [change for change in changes if os.path.lexists(folder / change.name)]
    if not replaces or len(changes) == 1:  # one step, or nothing to keep: the first file comes last
        for change in reversed(changes):
            _rename(folder, change.new or change.name, change.name)
        return
    sync_folder(folder)  # no record without the files that it names
    try:
        with atomic_write(folder / _RECORD) as part:
            part.write_text(json.dumps([[c.name, c.new, c.old] for c in changes]), encoding="utf-8")
        _forward(folder, changes)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error says more; the next opening of the folder completes this
            _back(folder, changes)
            _forget(folder, ())
        raise
    _forget(folder, changes)


def _forward(folder: Path, changes: Sequence[_Change]) -> None:
    """Renames what is not renamed yet: first the old files, then, in reverse order, the new ones."""
    for change in changes:
        waits = change.new is None or os.path.lexists(folder / change.new)
        if waits and os.path.lexists(folder / change.name):
            _rename(folder, change.name, change.old)
    for change in reversed(changes):
        if change.new is not None and os.path.lexists(folder / change.new):
            _rename(folder, change.new, change.name)


def _back(folder: Path, changes: Sequence[_Change]) -> None:
    for change in changes:
        if change.new is not None and not os.path.lexists(folder / change.new):
            _rename(folder, change.name, change.new)
    for change in reversed(changes):
        if os.path.lexists(folder / change.old):
            _rename(folder, change.old, change.name)


def _rename(folder: Path, one: str, other: str) -> None:
    if one != other:
        with name_in_errors(folder / other, folder / one):
            os.replace(folder / one, folder / other)
            sync_folder(folder)


def _forget(folder: Path, changes: Sequence[_Change]) -> None:
    """Deletes the old files, and then the record."""
    for change in changes:
        _delete(folder / change.old)
    _delete(folder / _RECORD)
    sync_folder(folder)


def _finish(folder: Path) -> None:
    changes = _read(folder / _RECORD)
    if any(change.new and os.path.lexists(folder / change.new) for change in changes):
        _forward(folder, changes)
    if os.path.lexists(folder / _RECORD):
        _forget(folder, changes)


def _read(record: Path) -> list[_Change]:
    """The changes of a record; none if there is no record.

    Raises:
        ValueError: it is damaged, or names a file outside of its folder.
    """
    try:
        changes = [_Change(*change) for change in json.loads(record.read_text(encoding="utf-8"))]
        if all(_is_sound(change) for change in changes):
            return changes
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, RecursionError):
        pass
    raise ValueError(f"{record}: is damaged; expected the names of files that were about to be replaced. Delete it")


def _is_sound(change: _Change) -> bool:
    names = [name for name in (change.new, change.old) if name is not None]
    plain = re.fullmatch(r"[^./\\:][^/\\:]*", change.name) is not None
    return plain and all(_HIDDEN.fullmatch(name) for name in names)


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):  # a hidden file may stay
        path.unlink(missing_ok=True)
