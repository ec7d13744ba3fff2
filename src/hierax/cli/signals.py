"""Signals during a command: the command cleans up and ends with exit code 130, 143 or 129, at any point of its work."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from hierax.stopping import give_back, take_signals

_RETRY_INTERVAL = 0.05  # seconds until an exception that was dropped is raised again


class Terminated(BaseException):
    """Raised when SIGTERM or SIGHUP arrives. Like KeyboardInterrupt, it lets functions delete unfinished files."""


class Interruptions:
    """Handles signals, and records the first one.

    Attributes:
        number: number of the first signal; None if no signal arrived.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._raise_count, self._is_active = 0, False

    def _raise(self, number: int, _: FrameType | None) -> None:
        if self.number is None:
            self.number = number
        self._raise_count += 1
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    def _unraisable(self, unraisable: Any) -> None:
        """Raises an exception again a little later if the interpreter dropped it (in a finalizer or a callback)."""
        if issubclass(unraisable.exc_type, (KeyboardInterrupt, Terminated)) and self.number is not None:
            threading.Thread(target=self._raise_again, args=(self.number, self._raise_count), daemon=True).start()
        else:
            sys.__unraisablehook__(unraisable)

    def _raise_again(self, number: int, count: int) -> None:
        """Repeats until the exception is raised: a signal just before a blocking system call does not end the call."""
        while self._raise_count == count and self._is_active:
            time.sleep(_RETRY_INTERVAL)
            if self._raise_count == count and self._is_active:
                _send_to_main_thread(number)

    @contextlib.contextmanager
    def handle(self) -> Iterator[None]:
        """Handles the signals inside the `with` block. Training has its own handler, which saves a checkpoint first."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        before, self._is_active = take_signals(self._raise), True
        try:
            yield
        finally:
            self._is_active = False
            give_back(before)
            sys.unraisablehook = hook


def _send_to_main_thread(number: int) -> None:
    """Sends a signal that also wakes the main thread from a blocking system call."""
    main = threading.main_thread().ident
    if sys.platform != "win32" and main is not None:
        signal.pthread_kill(main, number)
    else:
        signal.raise_signal(number)
