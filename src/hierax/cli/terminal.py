"""Output of commands. Results are written to stdout; errors, licenses and progress are written to stderr."""

from __future__ import annotations

from hierax.console import one_line, say


class UserError(Exception):
    """A command that cannot be carried out. The message says why, and what to do instead."""


_LISTED = 20


class Tally:
    """Counts successful and failed inputs, and reports the errors.

    Args:
        listed: whether the results also list the errors; if so, only the first errors are written to stderr.
    """

    def __init__(self, *, listed: bool = False) -> None:
        self.done = self.failed = 0
        self._listed = listed

    def add(self, error: Exception | None) -> None:
        """Counts one input, and writes its error, if any, to stderr."""
        if error is None:
            self.done += 1
        else:
            self.failed += 1
            if not self._listed or self.failed <= _LISTED:
                say(one_line(error))

    def end(self) -> int:
        """Writes how many errors were not shown, and returns the exit code."""
        if self._listed and self.failed > _LISTED:
            say(f"and {self.failed - _LISTED:,} more that cannot be read")
        return self.exit_code

    @property
    def exit_code(self) -> int:
        """0 if no input failed, 3 if some inputs failed, 2 if all failed."""
        return 0 if not self.failed else 3 if self.done else 2
