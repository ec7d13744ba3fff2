"""Locks for folders to which several processes write. The system releases a lock when its process ends.

They are locks of the file system (`flock`). Most network disks have them too. If there are none, a `NoLocks` warning is
given, and two processes must not write to one folder at the same time.
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
"""The name of the lock file of a folder."""

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
        """Makes the lock exclusive if no other process shares it, and returns whether this was possible."""
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
        if self.handle not in _OPEN:  # this process was forked while the lock was held
            return
        with contextlib.suppress(OSError):  # the disk may have become read-only
            if self.stands() and self.is_alone():
                self.path.unlink()
        _OPEN.discard(self.handle)
        os.close(self.handle)


def try_lock(handle: int, path: Path) -> bool:
    """Locks the open file at `path` for this process. The lock ends when the file is closed.

    Returns:
        False if another process holds the lock, or has deleted the file. On a file system without locks, every process
        gets one.
    """
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                return False
    return _is_at(handle, path)


@contextlib.contextmanager
def hold_lock(
    path: Path, *, shared: bool = False, wait: bool = False, on_wait: Callable[[str], object] | None = None
) -> Iterator[Lock]:
    """Holds a lock file, which is created if it is missing. With `shared`, several processes can hold it at the same
    time.

    Threads also exclude each other. A process that is forked inside the `with` block does not hold the lock.

    Args:
        path: the lock file.
        shared: whether several processes may hold it.
        wait: wait until the others release it.
        on_wait: called once with the owner ("process 7 on host a") if it must wait.

    Raises:
        FolderTaken: another process holds it, and `wait` is False; the message names the process.
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
    """Locks an open file. Returns False if the system has no locks."""
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
    with contextlib.suppress(OSError):  # the disk may be full; the lock then has no name of an owner
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)


def _owner(handle: int) -> str:
    """The owner of a lock as text; "another process" if it is not known."""
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
    """Closes the copies of the files in a forked process. The locks stay with their owner."""
    for handle in _OPEN:
        with contextlib.suppress(OSError):
            os.close(handle)
    _OPEN.clear()


if fcntl is not None:
    os.register_at_fork(after_in_child=_forget)
