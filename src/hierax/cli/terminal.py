"""Output of commands. Results are written to stdout; errors, licenses and progress are written to stderr."""

from __future__ import annotations

from collections.abc import Sequence

from hierax.console import one_line, say


class UserError(Exception):
    """A command that cannot be carried out. The message says why, and what to do instead."""


_LISTED = 20  # errors that are written


class Tally:
    """Counts successful and failed inputs, and writes the first errors to stderr.

    Args:
        rest: what lists all errors, if the results do not; written with the number of errors that were not shown.
    """

    def __init__(self, rest: str = "") -> None:
        self.done = self.failed = 0
        self._rest = rest

    def add(self, error: Exception | None) -> None:
        """Counts one input, and writes its error, if any, to stderr."""
        if error is None:
            self.done += 1
        else:
            self.failed += 1
            if self.failed <= _LISTED:
                say(one_line(error))

    def end(self) -> int:
        """Writes how many errors were not shown, and returns the exit code.

        The code is 0 if no input failed, 3 if some inputs failed, 2 if all failed.
        """
        if self.failed > _LISTED:
            say(f"and {self.failed - _LISTED:,} more that cannot be read{self._rest and '; '}{self._rest}")
        return 0 if not self.failed else 3 if self.done else 2


def say_unreadable(found: Sequence[tuple[str, str]]) -> None:
    """Writes names and problems of what cannot be read: the first ones, and the number of the others."""
    tally = Tally()
    for name, problem in found:
        tally.add(ValueError(f"{name}: {problem}"))
    tally.end()
