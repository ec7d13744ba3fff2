"""Engines in a forked child, in which only one thread exists.

The threads of ONNX Runtime, of OpenVINO and of the engine do not exist in the child. A call, and freeing their owners,
would wait for them forever. Therefore the owners are never freed in the child, and new ones are made.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
import weakref
from typing import Protocol

_imported_by = os.getpid()
_openvino_user: int | None = None  # the first process that compiled something with OpenVINO


class ForkListener(Protocol):
    """An object that is notified in a forked child."""

    def after_fork(self) -> None:
        """Called in the child, before anything else runs there."""
        ...


_followed: weakref.WeakSet[ForkListener] = weakref.WeakSet()


def follow(engine: ForkListener) -> None:
    """Makes forked children call `engine.after_fork`, as long as the engine lives."""
    _register()
    _followed.add(engine)


@functools.cache
def _register() -> None:
    if sys.platform != "win32":  # Windows does not fork
        os.register_at_fork(after_in_child=_in_child)


def _in_child() -> None:
    for engine in list(_followed):
        engine.after_fork()


def keep_forever(thing: object) -> None:
    """Never frees `thing`, not even when the interpreter ends: that would wait for threads that do not exist."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def in_main_thread() -> bool:
    """Whether this is the main thread. In a forked child, no thread is: PyTorch's helpers of it do not exist there."""
    return threading.current_thread() is threading.main_thread() and os.getpid() == _imported_by


def note_openvino() -> None:
    """Records that OpenVINO's threads were started in this process."""
    global _openvino_user
    _openvino_user = _openvino_user or os.getpid()


def openvino_is_lost() -> bool:
    """Whether a parent of this process used OpenVINO before the fork.

    OpenVINO keeps idle threads for the whole process and gives them to the next compiled model. So even a model
    that is compiled in the child may wait forever.
    """
    return _openvino_user not in (None, os.getpid())


def check_openvino() -> None:
    """Raises `RuntimeError` in a forked child of a process that used OpenVINO."""
    if openvino_is_lost():
        raise RuntimeError(
            "OpenVINO was used before this process was forked, and cannot be used in the child; use backend='torch', "
            "make the first engine after the fork, or start processes by 'spawn'"
        )
