"""What is written to the terminal: results on stdout; errors, licenses and progress on stderr."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from hierax.notices import Notice, printable
from hierax.streams import give_up

_Item = TypeVar("_Item")


_LONGEST = 1000
"""Maximum length of an error in characters; errors of compilers contain their whole input."""


_FEW = 4
"""Up to this number of inputs, no progress bar is shown: they are done before it can be read."""


def tell(line: str = "") -> None:
    """Writes one line of results to stdout."""
    print(printable(line), flush=True)


def say(message: str) -> None:
    """Writes one line to stderr, under the program's name. Where stderr cannot be written to, the line is lost."""
    try:
        print(f"hierax: {printable(message)}", file=sys.stderr, flush=True)
    except (OSError, ValueError):  # full, without a reader, or closed: the work continues
        give_up(sys.stderr)


def one_line(error: BaseException) -> str:
    """An error's text in one line, cut if very long; for errors of the system the file and the reason."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def percent(probability: float) -> str:
    """A probability in whole percent, or that it is less than one."""
    return f"{probability:.0%}".replace("%", " %") if probability >= 0.01 else "<1 %"


@contextmanager
def quiet_libraries(*, debug: bool = False) -> Iterator[None]:
    """Hides warnings of libraries, and shows each notice once; does nothing when debugging."""
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
    """Yields the results and shows a bar on stderr; no bar if stderr is not a terminal or inputs are few."""
    if total <= _FEW or not sys.stderr.isatty():
        yield results
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Lines for the same terminal are printed above the progress bar; results for a file are not changed.
    bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty())
    with bar:
        yield bar.track(results, total=total, description=what)


def quantity(count: int, what: str) -> str:
    """`1 image`, `2,000 images`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def progress_reporter(every: float = 10.0) -> Callable[[int, int], None]:
    """A function for `on_progress`: writes the progress to stderr, once in so many seconds."""
    last = time.monotonic()

    def tick(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            last = time.monotonic()
            say(f"{done:,} of {total:,} done")

    return tick
