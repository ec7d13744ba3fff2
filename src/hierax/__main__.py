"""`python -m hierax` and the command `hierax`: signals first, then the command line.

From the first moment to the last, Ctrl-C, SIGTERM and a terminal that is closed (SIGHUP) end the program in one line,
with exit code 130, 143 or 129. While a command runs, `hierax.cli.signals` takes them, which lets it take
away what is half written.
"""

import atexit
import os
import signal
import sys
from types import FrameType

_WORDS = {"SIGINT": b"interrupted", "SIGTERM": b"terminated", "SIGHUP": b"the terminal was closed"}
_TAKEN = {getattr(signal, name): word for name, word in _WORDS.items() if name in signal.Signals.__members__}


def _leave(number: int, _: FrameType | None) -> None:
    """Ends the process at once: no work has started yet, or all work is done."""
    try:  # noqa: SIM105  (contextlib is a long import, and signals are not taken yet)
        os.write(2, b"hierax: %b\n" % _TAKEN[number])
    except OSError:  # stderr may be closed
        pass
    os._exit(128 + number)


def _ignore_signals() -> None:
    """Ignores signals while the interpreter shuts down: handlers no longer run then, and the work is done."""
    for number in _TAKEN:
        signal.signal(number, signal.SIG_IGN)


def run() -> int:
    """Runs the command line of this process; returns its exit code."""
    for number in _TAKEN:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as of a job in the background
            signal.signal(number, _leave)
    atexit.register(_ignore_signals)  # the first to register is the last to be called
    try:
        from hierax.cli import main
        from hierax.memory import ENOUGH, is_limited_to_less_than
    except MemoryError:
        os.write(2, b"hierax: out of memory\n")
        return 1
    code = main()
    if code == 1 and is_limited_to_less_than(ENOUGH):  # libraries without memory may crash at the exit, too
        os._exit(1)
    return code


if __name__ == "__main__":
    sys.exit(run())
