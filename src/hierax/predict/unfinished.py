"""Keeps the results of a command that is not finished, so that the same command can be run again to resume."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

from hierax.atomic import make_folder, name_in_errors
from hierax.locking import try_lock

SUFFIX = ".unfinished"
_LONGEST = 240  # bytes of a file name, which has at most 255 on most disks


def unfinished_path(output: Path) -> Path:
    """The file that keeps the results for an output: `labels.csv.unfinished` for `labels.csv`."""
    name = output.name
    if len(os.fsencode(name)) > _LONGEST - len(SUFFIX):
        import hashlib  # it loads OpenSSL, which `hierax --help` does not need

        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return output.with_name(name + SUFFIX)


class UnfinishedResults:
    """Results that are kept until a command is finished: `labels.csv.unfinished` until `labels.csv` is written.

    It is a JSON Lines file: first the settings, then an object for each result, with the size and the time that the
    file had before it was read. While the command runs, the file is locked. A line that a kill left incomplete is
    removed.

    Attributes:
        path: the file.
        count: number of results in it.

    Args:
        output: the file or the name that they belong to; see `unfinished_path`.
        settings: everything but the inputs that results depend on, as JSON values.
        inputs: the files whose results the command makes.
        overwrite: replace a file of other settings or inputs.

    Raises:
        ValueError: another command writes to the file; or it has another content; or `overwrite` is False, and it has
            other settings, or results of other files that are still there.
        OSError: it cannot be written.
    """

    def __init__(
        self, output: Path, settings: Mapping[str, Any], inputs: Iterable[Path], *, overwrite: bool = False
    ) -> None:
        self.path = unfinished_path(output)
        self._settings = json.loads(json.dumps(settings))
        self._stamps = {str(path): _stamp(path) for path in inputs}
        self._inputs = _digest(self._stamps)
        self._found: dict[str, dict[str, Any]] = {}
        self._size: int | None = 0  # bytes to keep; None when the rest is removed
        self._new_folders = list(takewhile(lambda folder: not folder.exists(), self.path.parents))
        with name_in_errors(self.path, self.path):
            make_folder(self.path.parent)
            self._file = self.path.open("a+b", buffering=0)
        try:
            if not try_lock(self._file.fileno(), self.path):
                raise ValueError(
                    f"{self.path}: another command is writing there; wait until it has finished, or choose another "
                    "output"
                )
            self._read(overwrite=overwrite)
        except BaseException:
            self._file.close()
            raise
        self.count = len(self._found)

    def _read(self, *, overwrite: bool) -> None:
        with name_in_errors(self.path, self.path):
            self._file.seek(0)
            content = self._file.read()
        complete = content[: content.rfind(b"\n") + 1]
        first, *others = complete.splitlines(keepends=True) or [b""]
        known = _parsed(first).get("settings")
        if not isinstance(known, dict):
            if overwrite or not complete:
                return
            raise ValueError(f"{self.path}: not written by an unfinished command; delete it, or pass --overwrite")
        if different := [name for name in {**known, **self._settings} if known.get(name) != self._settings.get(name)]:
            if overwrite:
                return
            raise ValueError(
                f"{self.path} has {len(others):,} results of other settings ({', '.join(different)}); use the same "
                "settings to resume, or pass --overwrite to begin again"
            )
        found = {name: line for line in map(_parsed, others) if isinstance(name := line.get("path"), str)}
        foreign = [name for name in found if name not in self._stamps and _stamp(Path(name)) is not None]
        if foreign:
            if overwrite:
                return
            raise ValueError(
                f"{self.path} has results of {len(foreign):,} other files, such as {foreign[0]}; run that command "
                "again to finish it, or choose another output, or pass --overwrite to begin again"
            )
        self._size, self._found = len(complete), found

    def get(self, path: Path) -> dict[str, Any] | None:
        """The result for a file; None if there is none, or if the file has changed."""
        found, stamp = self._found.get(str(path)), self._stamps.get(str(path))
        return found["result"] if found is not None and stamp is not None and found.get("file") == stamp else None

    def add(self, path: Path, result: Mapping[str, Any]) -> None:
        """Adds the result for a file.

        Raises:
            OSError: it cannot be written.
        """
        line = json.dumps({"path": str(path), "file": self._stamps.get(str(path)), "result": result}) + "\n"
        with name_in_errors(self.path, self.path):
            if self._size is not None:
                self._begin()
            self._file.write(line.encode())
        self.count += 1

    def _begin(self) -> None:
        """Removes what is not a part of the results; writes the settings if there are none."""
        self._file.truncate(self._size)
        if not self._size:
            self._file.write(f"{json.dumps({'settings': self._settings, 'inputs': self._inputs})}\n".encode())
        self._size = None

    def close(self, *, delete: bool = False) -> None:
        """Closes the file. It is deleted with `delete`, because the command is finished, or if it has no results."""
        if delete or not self.count:
            self.path.unlink(missing_ok=True)
        self._file.close()
        with suppress(OSError):  # they are not empty
            for folder in self._new_folders:
                folder.rmdir()


def written_by(output: Path, inputs: Iterable[Path]) -> Callable[[Path], bool]:
    """Returns a function that tells whether a file was written by the unfinished command for this output: any file, if
    that command had the same inputs; otherwise one that its results name.
    """
    try:
        with unfinished_path(output).open("rb") as file:
            if _parsed(file.readline()).get("inputs") == _digest(dict.fromkeys(map(str, inputs))):
                return lambda _: True
            results = [_parsed(line).get("result") for line in file]
    except OSError:
        return lambda _: False
    named = {name for result in results if isinstance(result, dict) for name in result.get("files", ())}
    return lambda path: str(path) in named


def _digest(names: Iterable[str]) -> str:
    from hashlib import blake2b  # it loads OpenSSL, which `hierax --help` does not need

    return blake2b("\0".join(names).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _stamp(path: Path) -> list[int] | None:
    """The size and the time of a file, which tell whether it has changed; None if it is gone."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return [found.st_size, found.st_mtime_ns]
