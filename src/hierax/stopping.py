"""Long work that ends in order when it is asked to."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


class StopSignal(threading.Event):
    """SIGTERM and SIGINT ask for an end after what is in hand; a second SIGINT ends it at once.

    Attributes:
        number: of the first signal that came; None while there is none.
    """

    number: int | None = None

    def __call__(self) -> bool:
        """Whether this process was asked to stop."""
        return self.is_set()

    def _ask(self, number: int, _: object) -> None:
        if self.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = self.number or number
        self.set()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the signals while inside; only the main thread of a process can. One that is ignored (of a job in the
        background, say) stays so.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        taken = [n for n in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._ask) for number in taken}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)
