"""Keeps the results of a command that is not finished, so that the same command can be run again to resume."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from hierax.atomic import make_folder, name_in_errors

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

    It is a JSON Lines file: first the settings, then an object for each result, with the size and the time of the
    file that it is the result of. It is created with the first result. A line that a kill left incomplete is removed.

    Attributes:
        path: the file.
        count: number of results in it.

    Args:
        output: the file or the name that they belong to; see `unfinished_path`.
        settings: everything but the inputs that results depend on, as JSON values.
        overwrite: replace a file of other settings.

    Raises:
        ValueError: there is a file, but it has other settings and `overwrite` is False, or it has another content.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.path = unfinished_path(output)
        self._settings = json.loads(json.dumps(settings))
        self._found: dict[str, dict[str, Any]] = {}
        self._size = 0
        self._file: IO[bytes] | None = None
        if self.path.exists():
            self._read(overwrite=overwrite)
        self.count = len(self._found)

    def _read(self, *, overwrite: bool) -> None:
        with name_in_errors(self.path, self.path):
            content = self.path.read_bytes()
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
        self._size = len(complete)
        for line in others:
            found = _parsed(line)
            if isinstance(name := found.get("path"), str):
                self._found[name] = found

    def get(self, path: Path) -> dict[str, Any] | None:
        """The result for a file; None if there is none, or if the file has changed."""
        found = self._found.get(str(path))
        return found["result"] if found is not None and found.get("file") == _stamp(path) else None

    def add(self, path: Path, result: Mapping[str, Any]) -> None:
        """Adds the result for a file.

        Raises:
            OSError: it cannot be written.
        """
        line = json.dumps({"path": str(path), "file": _stamp(path), "result": result}) + "\n"
        with name_in_errors(self.path, self.path):
            if self._file is None:
                self._file = self._opened()
            self._file.write(line.encode())
        self.count += 1

    def _opened(self) -> IO[bytes]:
        make_folder(self.path.parent)
        file = self.path.open("r+b" if self.path.exists() else "wb", buffering=0)
        file.truncate(self._size)
        file.seek(self._size)
        if not self._size:
            file.write(f"{json.dumps({'settings': self._settings})}\n".encode())
        return file

    def close(self, *, delete: bool = False) -> None:
        """Closes the file; with `delete`, removes it, because the command is finished."""
        if self._file is not None:
            self._file.close()
        if delete:
            self.path.unlink(missing_ok=True)


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
