"""Output of commands: results on stdout; errors, licenses and progress on stderr."""

from __future__ import annotations

from hierax.console import one_line, say


class UserError(Exception):
    """A request that cannot be done; the message says why and what to do instead."""


_LISTED = 20


class Tally:
    """Counts successful and failed inputs, and reports the errors.

    Args:
        listed: whether the results list the errors too; then only the first ones are written to stderr.
    """

    def __init__(self, *, listed: bool = False) -> None:
        self.done = self.failed = 0
        self._listed = listed

    def add(self, error: Exception | None) -> None:
        """Counts one input; an error is written to stderr."""
        if error is None:
            self.done += 1
        else:
            self.failed += 1
            if not self._listed or self.failed <= _LISTED:
                say(one_line(error))

    def end(self) -> int:
        """Says how many errors were not written; returns the exit code."""
        if self._listed and self.failed > _LISTED:
            say(f"and {self.failed - _LISTED:,} more that cannot be read")
        return self.exit_code

    @property
    def exit_code(self) -> int:
        """0 when nothing failed, 3 when some did, 2 when all did."""
        return 0 if not self.failed else 3 if self.done else 2
