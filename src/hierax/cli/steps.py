"""Shows the current step of long work on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hierax.console import say

_WIDTH = 100


@contextmanager
def steps() -> Iterator[Callable[[str, float], None]]:
    """A function that shows a step and the share that is done. On a terminal, one line is overwritten; else each step
    whose text before a colon is new gets a line.

    Not a bar of rich: its thread would wake in the middle of what is timed.
    """
    terminal, shown = sys.stderr is not None and sys.stderr.isatty(), ""

    def show(text: str, done: float) -> None:
        nonlocal shown
        if terminal:
            print(f"\r\x1b[K{done:4.0%} {text}"[: _WIDTH + 4], end="", file=sys.stderr, flush=True)
        elif (step := text.partition(": ")[0]) != shown:
            shown = step
            say(step)

    try:
        yield show
    finally:
        if terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
