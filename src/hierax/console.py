"""What is written to the terminal: results on stdout; errors, licenses and progress on stderr."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from hierax.notices import Notice, printable
from hierax.reprs.progress import NotebookBar, in_notebook
from hierax.streams import give_up

if TYPE_CHECKING:
    from rich.progress import Progress

_Item = TypeVar("_Item")


_LONGEST = 1000
"""Maximum length of an error in characters; errors of compilers contain their whole input."""


FEW = 4
"""Up to this number of inputs, no progress is shown: they are done before it can be read."""


_SAY_EVERY = (10.0, 60.0)
"""Seconds between lines of progress if stderr is not a terminal: at first, and after an hour."""


_WIDE, _NARROW = 80, 40
"""Columns of a terminal: a bar has the note of the work only from the first on, counts and times from the second on."""


_REDRAW, _REDRAW_IN_NOTEBOOK = 0.1, 0.5
"""Minimum seconds between two states of a bar, and before its first state in a notebook."""


def tell(line: str = "") -> None:
    """Writes one line of results to stdout."""
    print(printable(line), flush=True)


def say(message: str) -> None:
    """Writes one line to stderr, after the name of the program. If stderr cannot be written to, the line is lost.

    In a notebook it is stdout, because notebooks show stderr on red, as if it were an error.
    """
    with _may_be_lost():
        stream = sys.stdout if in_notebook() else sys.stderr
        print(f"hierax: {printable(message)}", file=stream, flush=True)


@contextmanager
def _may_be_lost() -> Iterator[None]:
    """Continues the work if stderr is full, closed, or has no reader."""
    try:
        yield
    except (OSError, ValueError):
        give_up(sys.stderr)


def one_line(error: BaseException) -> str:
    """The text of an error in one line, shortened if very long; for system errors, the file and the reason."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def percent(probability: float) -> str:
    """A probability in whole percent; "<1 %" if it is less than one percent."""
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


class ProgressDisplay:
    """Shows the progress of long work on stderr: a bar on a terminal; elsewhere a line every 10 seconds, after an hour
    every minute. A file and a terminal that can only append (`TERM=dumb`) get lines. A notebook gets one bar in the
    output of the cell; the count and the time stay when it is closed.

    No thread redraws the bar: one could wake in the middle of what is timed, and would be missing after a fork.

    Args:
        what: what is counted, or what is done: "image", "step", "classifying".
        done: how much was done before, when work is resumed.
        quiet: whether to show nothing.
        clock: returns the time in seconds.
    """

    def __init__(
        self, what: str = "", *, done: int = 0, quiet: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what, self._quiet, self._clock = what, quiet, clock
        self._first, self._step, self._count = done, "", ""
        self._total: int | None = None
        self._started = self._said = clock()
        self._bar: Progress | None = None
        self._notebook = NotebookBar() if not quiet and in_notebook() else None
        if not quiet and self._notebook is None and _is_terminal():
            with _may_be_lost():
                self._bar = _start_bar(what, done)

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, done: int, total: int, note: str = "") -> None:
        """Shows how much is done; with another `total`, other work has begun."""
        now = self._clock()
        if self._total not in (None, total):
            self._first, self._started = 0, now
        self._total = total
        self._count = count = f"{done:,} of {total:,}"
        note = f" · {note}" if note else ""
        if self._bar is not None:
            if now - self._said >= _REDRAW or done == total:
                self._said = now
                self._draw(done, total, self._what, count + note if self._bar.console.width >= _WIDE else count)
        elif self._notebook is not None:
            if now - self._said >= _REDRAW_IN_NOTEBOOK:
                self._said = now
                left = self._left(done, total, now)
                self._notebook.show(done / max(total, 1), f"{self._what} {count}{note} · {left} left".lstrip())
        elif not self._quiet and now - self._said >= min(max((now - self._started) / 60, _SAY_EVERY[0]), _SAY_EVERY[1]):
            self._said = now
            say(f"{self._what} {count}{note} · {self._left(done, total, now)} left".lstrip())

    def _left(self, done: int, total: int, now: float) -> str:
        """The time that is left."""
        return _clock_text((now - self._started) / max(done - self._first, 1) * (total - done))

    def step(self, text: str, share: float) -> None:
        """Shows the current step, and the share of the work that is done, from 0 to 1. Elsewhere than on a terminal, a
        step gets a line at once if its text before a colon is new: steps are few, and one can take minutes.
        """
        if self._bar is not None:
            self._draw(share, 1.0, printable(text), "")
        elif self._notebook is not None:
            self._step = text
            self._notebook.show(share, text)
        elif not self._quiet and (step := text.partition(": ")[0]) != self._step:
            self._step = step
            say(step)

    def report(self, text: str) -> None:
        """Shows a result of the work as a line above the bar. In a notebook, the last few are below it."""
        if self._notebook is not None:
            self._notebook.report(text)
        elif not self._quiet:
            say(text)

    def _draw(self, done: float, total: float, what: str, note: str) -> None:
        assert self._bar is not None
        with _may_be_lost():
            self._bar.update(self._bar.task_ids[0], completed=done, total=total, description=what, note=note)
            self._bar.refresh()

    def close(self) -> None:
        """Removes the bar; in a notebook, the count and the time stay."""
        if self._notebook is not None and self._notebook.shown:
            done = f"{self._what} {self._count}".strip() or self._step
            self._notebook.show(None, f"{done} · {_clock_text(self._clock() - self._started)}")
            self._notebook = None
        if self._bar is not None:
            with _may_be_lost():
                self._bar.stop()
            self._bar = None


def _clock_text(seconds: float) -> str:
    """Hours, minutes and seconds: `0:01:05`."""
    from datetime import timedelta

    return str(timedelta(seconds=round(seconds)))


def _is_terminal() -> bool:
    """Whether stderr is a terminal on which a line can be redrawn."""
    if sys.stderr is None or not sys.stderr.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
        return False
    return not in_notebook()  # the streams of some notebooks claim to be terminals


def _start_bar(what: str, done: int) -> Progress:
    from rich.console import Console, RenderableType
    from rich.constrain import Constrain
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    # A terminal writes ^C behind the bar; at its edge, this would begin another line, and the bar would not be removed.
    # Lines for the same terminal are printed above the progress bar; results for a file are not changed.
    same = sys.stdout is not None and sys.stdout.isatty()

    console = Console(stderr=True, force_terminal=True, force_jupyter=False)

    class Narrower(Progress):
        def get_renderables(self) -> Iterator[RenderableType]:
            for part in super().get_renderables():
                yield Constrain(part, max(console.width - len("^C") - 2, 1))

    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
    ]
    bar = Narrower(
        *columns[: 5 if console.width >= _NARROW else 3],
        console=console,
        auto_refresh=False,
        transient=True,
        expand=True,
        redirect_stdout=same,
    )
    bar.add_task(what, total=None, completed=done, note="")
    bar.start()
    return bar


@contextmanager
def progress(results: Iterable[_Item], *, total: int, what: str) -> Iterator[Iterable[_Item]]:
    """Yields the results and shows how many of them were taken; nothing is shown if there are few."""

    def followed(display: ProgressDisplay) -> Iterator[_Item]:
        for number, result in enumerate(results, 1):
            yield result
            display.update(number, total)

    with ProgressDisplay(what, quiet=total <= FEW) as display:
        yield followed(display)


def quantity(count: int, what: str) -> str:
    """A number with a noun: `1 image`, `2,000 images`, `2 classes`."""
    ending = "" if count == 1 else "es" if what.endswith("s") else "s"
    return f"{count:,} {what}{ending}"
