"""Long work that ends in order when it is asked to."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


class StopSignal(threading.Event):
    """SIGTERM and SIGINT ask for an end after what is in hand; a second SIGINT ends it at once.

    Args:
        asked: called when the first of them comes, by the handler of the signal.

    Attributes:
        number: of the first signal that came; None while there is none.
    """

    def __init__(self, asked: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self._asked = asked
        self.number: int | None = None

    def __call__(self) -> bool:
        """Whether this process was asked to stop."""
        return self.is_set()

    def _ask(self, number: int, _: object) -> None:
        if self.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        first = not self.is_set()
        self.number = self.number or number
        self.set()
        if first:
            self._asked()

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
