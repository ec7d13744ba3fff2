"""Signals while a command runs: it ends in order, with 130 or the like, whatever it was in the middle of."""

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

_AGAIN = 0.05  # seconds until an exception that was dropped is raised again


class Terminated(BaseException):
    """SIGTERM or SIGHUP came; like Ctrl-C, it lets what is half written be taken away."""


class Interruptions:
    """What signals came.

    Attributes:
        number: of the first of them; None while there is none.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._raised, self._taken = 0, False

    def _raise(self, number: int, _: FrameType | None) -> None:
        if self.number is None:
            self.number = number
        self._raised += 1
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    def _unraisable(self, unraisable: Any) -> None:
        """Asks again, a little later, when the interpreter dropped the exception: in a finaliser or a callback."""
        if issubclass(unraisable.exc_type, (KeyboardInterrupt, Terminated)) and self.number is not None:
            threading.Thread(target=self._ask_again, args=(self.number, self._raised), daemon=True).start()
        else:
            sys.__unraisablehook__(unraisable)

    def _ask_again(self, number: int, raised: int) -> None:
        """Until the exception is raised: a signal that comes just before a system call waits does not end the wait."""
        while self._raised == raised and self._taken:
            time.sleep(_AGAIN)
            if self._raised == raised and self._taken:
                _send_to_main_thread(number)

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Takes the signals while inside; training, which saves and ends in order, has a way of its own."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        before, self._taken = take_signals(self._raise), True
        try:
            yield
        finally:
            self._taken = False
            give_back(before)
            sys.unraisablehook = hook


def _send_to_main_thread(number: int) -> None:
    """A signal that also wakes the main thread where it waits for the system."""
    main = threading.main_thread().ident
    if sys.platform != "win32" and main is not None:
        signal.pthread_kill(main, number)
    else:
        signal.raise_signal(number)
