"""Graceful shutdown: long work finishes its current step when a signal arrives."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in signal.Signals.__members__)
"""The signals that request the end of a program: Ctrl-C, `kill`, and a closed terminal (not on Windows)."""
_last: int | None = None


def last_signal() -> int | None:
    """The signal that stopped the last long work of this process; None if that work was finished."""
    return _last


def take_signals(handler: Callable[[int, Any], object]) -> dict[int, Any]:
    """Sets a handler for each of `SIGNALS`, and returns the previous handlers. An ignored signal (in a background job,
    or with `nohup`) stays ignored.
    """
    return {n: signal.signal(n, handler) for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN}


def give_back(before: dict[int, Any]) -> None:
    """Restores the handlers that `take_signals` returned."""
    for number, handler in before.items():
        signal.signal(number, handler or signal.SIG_DFL)


class StopSignal(threading.Event):
    """An event that is set by SIGTERM, SIGHUP or SIGINT, so that work can finish its current step. A second SIGINT
    raises KeyboardInterrupt.

    Args:
        asked: called by the signal handler when the first signal arrives.

    Attributes:
        number: number of the first signal that arrived; None if there was none.
    """

    def __init__(self, asked: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self._asked = asked
        self._before: dict[int, Any] = {}
        self.number: int | None = None

    def __call__(self) -> bool:
        """Whether a signal has arrived."""
        return self.is_set()

    def _ask(self, number: int, frame: Any) -> None:
        global _last
        if self.is_set() and number == signal.SIGINT:
            before = self._before.get(number)
            if callable(before):  # the previous handler may end the program in its own way
                before(number, frame)
            raise KeyboardInterrupt
        first = not self.is_set()
        self.number = _last = self.number or number
        self.set()
        if first:
            self._asked()

    @contextlib.contextmanager
    def handle(self) -> Iterator[None]:
        """Handles the signals inside the `with` block. This works only in the main thread."""
        global _last
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        _last = None
        self._before = take_signals(self._ask)
        try:
            yield
        finally:
            give_back(self._before)
