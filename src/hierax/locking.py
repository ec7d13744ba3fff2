"""Locks for folders that several processes write to. The system releases a lock when its owner ends, however it ends.

They are locks of the file system (`flock`): network disks have them too, unless they were mounted without. Where
there are none, `NoLocks` is the warning, and two processes must not be started in one folder at the same time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from hierax.notices import Notice

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"
"""Name of the lock file with which one process claims a folder."""

_TAKEN = (errno.EACCES, errno.EAGAIN)
_OPEN: set[int] = set()


class FolderTaken(ValueError):
    """Another process is writing to the folder."""


class NoLocks(Notice):
    """The file system has no locks."""


class Lock:
    """A file that this process has locked."""

    def __init__(self, path: Path, handle: int, *, real: bool) -> None:
        self.path, self.handle, self.is_real = path, handle, real

    def stands(self) -> bool:
        """Whether the locked file is still in place: its folder was neither deleted nor moved."""
        return _is_at(self.handle, self.path)

    def is_alone(self) -> bool:
        """Makes the lock exclusive if no other process shares it, and returns whether that worked."""
        if not self.is_real:
            return True
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[union-attr]
        except OSError:
            with contextlib.suppress(OSError):
                fcntl.flock(self.handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # type: ignore[union-attr]
            return False
        return True

    def release(self) -> None:
        """Releases the lock, and deletes the file unless other processes share it."""
        if self.handle not in _OPEN:  # in a process that was forked while it was held
            return
        with contextlib.suppress(OSError):  # the disk may have become read-only
            if self.stands() and self.is_alone():
                self.path.unlink()
        _OPEN.discard(self.handle)
        os.close(self.handle)


@contextlib.contextmanager
def hold_lock(
    path: Path, *, shared: bool = False, wait: bool = False, on_wait: Callable[[str], object] | None = None
) -> Iterator[Lock]:
    """Holds a lock file, made if it is missing. With `shared`, several processes can hold it at the same time.

    Threads exclude each other, too. A process that is forked meanwhile does not hold the lock.

    Args:
        wait: wait until the others release it; `on_wait` is called once with the owner ("process 7 on host a").

    Raises:
        FolderTaken: another process has it, and `wait` is False; names the process.
        OSError: the file cannot be written.
    """
    lock = _acquire(path, shared, wait, on_wait)
    try:
        if lock.is_real and not shared:
            _sign(lock.handle)
        yield lock
    finally:
        lock.release()


def _acquire(path: Path, shared: bool, wait: bool, on_wait: Callable[[str], object] | None) -> Lock:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        _OPEN.add(handle)
        try:
            real = _take(handle, shared=shared, wait=wait, on_wait=on_wait)
            if _is_at(handle, path):
                return Lock(path, handle, real=real)
        except BaseException:
            _OPEN.discard(handle)
            os.close(handle)
            raise
        _OPEN.discard(handle)  # its last owner deleted the file
        os.close(handle)


def _take(handle: int, *, shared: bool, wait: bool, on_wait: Callable[[str], object] | None) -> bool:
    """Locks an open file; returns False where there are no locks."""
    if fcntl is None:
        warnings.warn("this system has no file locks; run one process at a time", NoLocks, stacklevel=4)
        return False
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            owner = _owner(handle)
            if not wait:
                raise FolderTaken(owner) from None
            if on_wait is not None:
                on_wait(owner)
            fcntl.flock(handle, how)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        warnings.warn("this disk has no file locks; run one process at a time", NoLocks, stacklevel=4)
        return False
    return True


def _sign(handle: int) -> None:
    with contextlib.suppress(OSError):  # a full disk: the lock holds without a name on it
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)


def _owner(handle: int) -> str:
    """The owner of a lock, as far as it is known."""
    try:
        return os.pread(handle, 200, 0).decode("utf-8", "replace") or "another process"
    except OSError:
        return "another process"


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False


def _forget() -> None:
    """In a process that was forked: closing the copies leaves the locks with their owner."""
    for handle in _OPEN:
        with contextlib.suppress(OSError):
            os.close(handle)
    _OPEN.clear()


if fcntl is not None:
    os.register_at_fork(after_in_child=_forget)
