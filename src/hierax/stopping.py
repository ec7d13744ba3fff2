"""Long work that ends in order when it is asked to."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in signal.Signals.__members__)
"""Those that ask a program to end: Ctrl-C, `kill`, and a terminal that is closed (Windows has no such signal)."""
_last: int | None = None


def last_signal() -> int | None:
    """The signal that stopped the last work of this process that ends in order; None where it came to its end."""
    return _last


def take_signals(handler: Callable[[int, Any], object]) -> dict[int, Any]:
    """Has a function called for each of `SIGNALS`; returns the handlers before. A signal that is ignored (of a job in
    the background, or by `nohup`) stays so.
    """
    return {n: signal.signal(n, handler) for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN}


def give_back(before: dict[int, Any]) -> None:
    """The inverse of `take_signals`."""
    for number, handler in before.items():
        signal.signal(number, handler or signal.SIG_DFL)


class StopSignal(threading.Event):
    """SIGTERM, SIGHUP and SIGINT ask for an end after what is in hand; a SIGINT after that ends it at once.

    Args:
        asked: called when the first of them comes, by the handler of the signal.

    Attributes:
        number: of the first signal that came; None while there is none.
    """

    def __init__(self, asked: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self._asked = asked
        self._before: dict[int, Any] = {}
        self.number: int | None = None

    def __call__(self) -> bool:
        """Whether this process was asked to stop."""
        return self.is_set()

    def _ask(self, number: int, frame: Any) -> None:
        global _last
        if self.is_set() and number == signal.SIGINT:
            before = self._before.get(number)
            if callable(before):  # it may have ways of its own to end a program at once
                before(number, frame)
            raise KeyboardInterrupt
        first = not self.is_set()
        self.number = _last = self.number or number
        self.set()
        if first:
            self._asked()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the signals while inside; only the main thread of a process can."""
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
