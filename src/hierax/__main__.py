"""`python -m hierax` and the command `hierax`: sets signal handlers first, then runs the command line.

At any moment, Ctrl-C, SIGTERM and a closed terminal (SIGHUP) end the program with one line and exit code 130, 143 or
129. While a command runs, `hierax.cli.signals` handles the signals, so that unfinished files are deleted.
"""

import atexit
import os
import signal
import sys
from types import FrameType

_WORDS = {"SIGINT": b"interrupted", "SIGTERM": b"terminated", "SIGHUP": b"the terminal was closed"}
_TAKEN = {getattr(signal, name): word for name, word in _WORDS.items() if name in signal.Signals.__members__}


def _leave(number: int, _: FrameType | None) -> None:
    """Ends the process at once. No work has started yet, or all work is done."""
    try:  # noqa: SIM105  (contextlib is a long import, and signals are not taken yet)
        os.write(2, b"hierax: %b\n" % _TAKEN[number])
    except OSError:  # stderr may be closed
        pass
    os._exit(128 + number)


def _ignore_signals() -> None:
    """Ignores signals while the interpreter shuts down, because handlers no longer run and the work is done."""
    for number in _TAKEN:
        signal.signal(number, signal.SIG_IGN)


def run() -> int:
    """Runs the command line of this process; returns its exit code."""
    for number in _TAKEN:
        if signal.getsignal(number) is not signal.SIG_IGN:  # ignored signals stay ignored, as in a background job
            signal.signal(number, _leave)
    atexit.register(_ignore_signals)  # the function that is registered first is called last
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
