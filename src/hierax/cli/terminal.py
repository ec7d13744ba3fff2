"""What commands write to the terminal: results on stdout; errors, licenses, progress on stderr."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from hierax.cli.streams import give_up
from hierax.notices import Notice, printable

_Item = TypeVar("_Item")
_LONGEST = 1000
"""Characters of an error; compilers put all that they were given into theirs."""
_FEW = 4
"""So many inputs are done before a progress bar would have been read."""


class UserError(Exception):
    """Something was asked for that cannot be done; its text says what and what to do instead."""


def tell(line: str = "") -> None:
    """Writes one line of results to stdout."""
    print(printable(line), flush=True)


def say(message: str) -> None:
    """Writes one line to stderr, under the program's name. Where stderr cannot be written to, the line is lost."""
    try:
        print(f"hierax: {printable(message)}", file=sys.stderr, flush=True)
    except (OSError, ValueError):  # full, without a reader, or closed: no reason to leave the work undone
        give_up(sys.stderr)


def one_line(error: BaseException) -> str:
    """An error's text without line breaks, cut if very long; for errors of the system the file and the reason."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def percent(probability: float) -> str:
    """A probability in whole percent, or that it is less than one."""
    return f"{probability:.0%}".replace("%", " %") if probability >= 0.01 else "<1 %"


@contextmanager
def quiet_libraries(*, debug: bool = False) -> Iterator[None]:
    """Keeps what libraries warn of off the terminal, and says each notice once; not when debugging."""
    if debug:
        yield
        return
    said: set[str] = set()

    def say_once(message: Warning | str, *_: object, **__: object) -> None:
        if str(message) not in said:
            said.add(str(message))
            say(str(message))

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # of all loggers: libraries set the levels of theirs when they are imported
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", category=Notice)
            warnings.showwarning = say_once
            yield
    finally:
        logging.disable(before)


@contextmanager
def progress(results: Iterable[_Item], *, total: int, what: str) -> Iterator[Iterable[_Item]]:
    """The results, with a bar on stderr that follows them; none where stderr is no terminal or inputs are few."""
    if total <= _FEW or not sys.stderr.isatty():
        yield results
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Lines printed to the same terminal go above the bar; results that go to a file are left alone.
    bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty())
    with bar:
        yield bar.track(results, total=total, description=what)


class Tally:
    """Counts inputs that were done and that failed, and says why they failed."""

    def __init__(self) -> None:
        self.done = self.failed = 0

    def add(self, error: Exception | None) -> None:
        """Counts one input; an error is written to stderr."""
        if error is None:
            self.done += 1
        else:
            self.failed += 1
            say(one_line(error))

    @property
    def exit_code(self) -> int:
        """0 when nothing failed, 3 when some did, 2 when all did."""
        return 0 if not self.failed else 3 if self.done else 2
