"""What becomes of engines in a forked child, in which all threads but one are gone.

The threads that ONNX Runtime and OpenVINO compute on, and the engine's own, are not in the child: a call would wait for
them for ever, and giving back what they belong to as well. Hence what they belong to is left as it is, and made anew.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import weakref
from typing import Protocol

_openvino_user: int | None = None  # the process that compiled something with OpenVINO first


class Forked(Protocol):
    """What is told that it now lives in a forked child."""

    def after_fork(self) -> None:
        """Called in the child, before anything else runs there."""
        ...


_followed: weakref.WeakSet[Forked] = weakref.WeakSet()


def follow(engine: Forked) -> None:
    """Has `engine.after_fork` called in forked children, as long as the engine lives."""
    _register()
    _followed.add(engine)


@functools.cache
def _register() -> None:
    if sys.platform != "win32":  # which does not fork
        os.register_at_fork(after_in_child=_in_child)


def _in_child() -> None:
    for engine in list(_followed):
        engine.after_fork()


def keep_for_ever(thing: object) -> None:
    """Never frees `thing`, not even at the interpreter's end: it would wait there for threads that do not exist."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def note_openvino() -> None:
    """Remembers that OpenVINO's threads were started in this process."""
    global _openvino_user
    _openvino_user = _openvino_user or os.getpid()


def openvino_is_lost() -> bool:
    """Whether a parent of this process used OpenVINO before the fork.

    It keeps idle threads for the whole process and gives them to whatever is compiled next: also what is made in the
    child may wait for ever.
    """
    return _openvino_user not in (None, os.getpid())


def check_openvino() -> None:
    """Raises `RuntimeError` in a forked child of a process that used OpenVINO."""
    if openvino_is_lost():
        raise RuntimeError(
            "OpenVINO was used before this process was forked, and cannot be used in the child; take backend='torch', "
            "make the first engine after the fork, or start processes by 'spawn'"
        )
