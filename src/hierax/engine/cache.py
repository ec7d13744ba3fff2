"""Compiled programs on disk: files are complete, checked when they are read, and limited in size.

An entry is one file: a header with the digests of its key and of its content, then the content. Any number of processes
may read and write the same entry. A file that is truncated, altered or renamed counts as missing, and is written again.

Compiled code determines the outputs of a model. Therefore only regular files are read that belong to this user (or to
root) and that nobody else can write. In a folder that several users share, each user reads only their own files.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import platform
import secrets
import stat
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from hierax.folders import make_room
from hierax.home import expand_home, home
from hierax.memory import is_out_of_memory

_T = TypeVar("_T")
_MAGIC = b"hierax-artifact-2\n"
_ABANDONED = 3600.0  # seconds after which an unfinished file is abandoned
_DIGEST = hashlib.sha256
_log = logging.getLogger("hierax.engine")


def default_folder() -> Path:
    """`$HIERAX_CACHE`, else `hierax` in the user's cache folder (`$XDG_CACHE_HOME` or `~/.cache`)."""
    named = os.environ.get("HIERAX_CACHE")
    if named:
        return expand_home(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else home() / ".cache") / "hierax"


class ArtifactCache:
    """Files by key in a folder. When they exceed `max_bytes` together, the least recently used are deleted.

    A folder that cannot be written to is not an error: nothing is cached, and the reason is logged once.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, *, max_bytes: int = 8 << 30) -> None:
        self.folder = Path(folder) if folder is not None else default_folder()
        self.max_bytes = max_bytes
        self._writable = True

    def path(self, key: str) -> Path:
        """The path of the entry of `key`, whether it exists or not."""
        return self.folder / f"{key}.artifact"

    def read(self, key: str) -> memoryview | None:
        """The content that was written under `key`, or None; a damaged entry is removed."""
        path = self.path(key)
        try:
            whole = _read_own(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            _log.warning("%s is not used, and will be made again: %s", path, error.strerror or error)
            return None
        start = len(_MAGIC) + _DIGEST().digest_size
        digest, content = whole[len(_MAGIC) : start], memoryview(whole)[start:]
        if not whole.startswith(_MAGIC) or _digest(key, content) != digest:
            _log.warning("%s is damaged and will be made again", path)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # marks it as the most recently used
        return content  # without a copy, because every start with a filled cache reads this

    def open(self, key: str, load: Callable[[memoryview], _T]) -> _T | None:
        """The result of `load` for the content under `key`; None if there is none, or if it cannot be loaded."""
        content = self.read(key)
        if content is None:
            return None
        try:
            return load(content)
        except Exception as error:  # the runtimes' errors have no common base class
            if is_out_of_memory(error):
                raise
            _log.warning("%s cannot be read and will be made again: %s", key, str(error).splitlines()[0])
            return None

    def write(self, key: str, content: bytes) -> None:
        """Writes `content` under `key`; replaces an earlier entry."""
        if not self._writable or len(content) > self.max_bytes:
            return
        path = self.path(key)
        part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                with open(part, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                    file.write(_MAGIC)
                    file.write(_digest(key, content))
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                make_room(path)
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
            self._bound()
        except OSError as error:
            self._writable = False
            _log.warning("compiled models are not cached: %s", error)

    def _bound(self) -> None:
        """Deletes the least recently used entries beyond `max_bytes`, and files that killed writers left."""
        for part in self.folder.glob(".*.artifact.*"):
            with contextlib.suppress(OSError):
                if part.stat().st_mtime < time.time() - _ABANDONED:
                    part.unlink()
        entries: list[tuple[float, int, Path]] = []
        for path in self.folder.glob("*.artifact"):
            with contextlib.suppress(OSError):  # another process may have deleted it
                entries.append(((found := path.lstat()).st_mtime, found.st_size, path))
        total = 0
        for _, size, path in sorted(entries, reverse=True):
            total += size
            if total > self.max_bytes:
                with contextlib.suppress(OSError):
                    path.unlink()


def cache_in(folder: str | os.PathLike[str] | bool | None) -> ArtifactCache | None:
    """The cache in a folder; None and True are the default folder, and False gives None (no cache)."""
    if isinstance(folder, bool):
        return ArtifactCache() if folder else None
    return ArtifactCache(folder)


def _digest(key: str, content: bytes | memoryview) -> bytes:
    digest = _DIGEST(f"{key}\n".encode())
    digest.update(content)
    return digest.digest()


def _read_own(path: Path) -> bytes:
    """Opens a regular file that only this user (or root) can have written.

    Raises:
        OSError: it is not a regular file (opening a pipe would wait for a writer), is a link, or belongs to another
            user.
    """
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # Windows has neither
    with open(path, "rb", opener=lambda name, given: os.open(name, given | flags)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if sys.platform != "win32":
            if found.st_uid not in (os.getuid(), 0):
                raise PermissionError(errno.EPERM, "it belongs to another user")
            if found.st_mode & 0o022:
                raise PermissionError(errno.EPERM, "others can write it")
        return file.read()


def artifact_key(parts: Mapping[str, Any]) -> str:
    """The key of a program that was compiled from `parts` (JSON values) on this kind of processor."""
    whole = {**parts, "code": _code_digest(), "torch": torch.__version__, "processor": processor_kind()}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:32]


@functools.cache
def _code_digest() -> str:
    """A digest of the source code of the model's computation, for releases and working copies."""
    digest, package = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted([*package.glob("model/*.py"), *package.glob("engine/**/*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def processor_kind() -> str:
    """The processor for which code is compiled: its architecture, and its model and features if the system
    states them.
    """
    kind = [platform.system(), platform.machine()]
    with contextlib.suppress(OSError):
        wanted = ("model name", "flags", "Features", "CPU part")
        seen: dict[str, str] = {}
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in wanted:
                seen.setdefault(name.strip(), value.strip())
        kind += [f"{name}={value}" for name, value in sorted(seen.items())]
    return "; ".join(kind)
