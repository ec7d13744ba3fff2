"""A folder for the sockets of worker processes, whose path is short enough for a socket."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import util

_LONGEST = 104 if sys.platform == "darwin" else 108
"""Bytes of the name of a socket, with the zero at its end."""
_NAMES = len("/pymp-12345678/listener-12345678") + 8
"""Bytes of the folder and the name that multiprocessing adds to the folder for temporary files."""
_OTHERS = ("/tmp", "/var/tmp", "/dev/shm", "/run/shm")


def shorten_socket_folder() -> None:
    """Call it before worker processes are started. If the folder for temporary files (`TMPDIR`) has a long name, their
    sockets are put in another one, which is removed at the end of the process.

    multiprocessing puts them in the former. Without this, the processes would end with "AF_UNIX path too long", or a
    loader would wait for their results forever. Python 3.14 does the same.
    """
    config = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    if os.name != "posix" or config.get("tempdir") is not None or _fits(tempfile.gettempdir()):
        return
    for folder in _OTHERS:
        if os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
            made = config["tempdir"] = tempfile.mkdtemp(prefix="pymp-", dir=folder)
            util.Finalize(None, _remove, args=(shutil.rmtree, made), exitpriority=-100)
            return


def _fits(folder: str) -> bool:
    return len(os.fsencode(folder)) + _NAMES <= _LONGEST


def _remove(remove: Callable[..., None], folder: str) -> None:
    """`remove` is `shutil.rmtree`, which is kept until the end of Python."""
    remove(folder, ignore_errors=True)
