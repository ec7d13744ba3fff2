"""Output of commands: results on stdout; errors, licenses and progress on stderr."""

from __future__ import annotations

from hierax.console import one_line, say


class UserError(Exception):
    """A request that cannot be done; the message says why and what to do instead."""


class Tally:
    """Counts successful and failed inputs, and reports the errors."""

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
