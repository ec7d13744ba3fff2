"""Shows the current step of long work on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hierax.console import say

_WIDTH = 100


@contextmanager
def steps() -> Iterator[Callable[[str, float], None]]:
    """Yields a function that shows a step and the fraction of the work that is done.

    On a terminal, it overwrites one line. Otherwise it writes a line when the text before the colon changes. It does
    not use a progress bar of rich, because its thread would disturb measurements of time.
    """
    terminal, last = sys.stderr is not None and sys.stderr.isatty(), ""

    def show(text: str, done: float) -> None:
        nonlocal last
        if terminal:
            print(f"\r\x1b[K{done:4.0%} {text}"[: _WIDTH + 4], end="", file=sys.stderr, flush=True)
        elif (step := text.partition(": ")[0]) != last:
            last = step
            say(step)

    try:
        yield show
    finally:
        if terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
