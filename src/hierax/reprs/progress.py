"""A bar in a notebook: one output that is replaced, not a line for each state."""

from __future__ import annotations

import sys
from collections import deque
from contextlib import suppress
from typing import Any

_RESULTS = 5
"""The number of results below a bar: the last ones."""


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook. Nothing is imported."""
    find = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return find is not None and getattr(find(), "kernel", None) is not None


class NotebookBar:
    """A bar in the output of the cell that runs, with the last few results of the work below it. It is drawn at the
    first `show`.
    """

    def __init__(self) -> None:
        self._handle: Any = None
        self._share: float | None = None
        self._text = ""
        self._results: deque[str] = deque(maxlen=_RESULTS)

    @property
    def shown(self) -> bool:
        """Whether it was drawn."""
        return self._handle is not None

    def show(self, share: float | None, text: str) -> None:
        """Replaces the bar: the share that is done, from 0 to 1, and a text. None leaves only the text."""
        self._share, self._text = share, text
        self._draw()

    def report(self, text: str) -> None:
        """Adds a result of the work."""
        self._results.append(text)
        self._draw()

    def _draw(self) -> None:
        with suppress(Exception):  # an error of the notebook never stops the work
            from IPython.display import display

            data = {"text/html": self._html(), "text/plain": "\n".join((self._text, *self._results))}
            if self._handle is None:
                self._handle = display(data, raw=True, display_id=True)
            else:
                self._handle.update(data, raw=True)

    def _html(self) -> str:
        from hierax.reprs.markup import bar, escaped

        style = "display:flex;gap:12px;align-items:center;line-height:1.4"
        drawn = "" if self._share is None else bar(self._share, width=200)
        results = "".join(f"<div style='opacity:.8'>{escaped(text)}</div>" for text in self._results)
        return f"<div style='{style}'>{drawn}<span>{escaped(self._text)}</span></div>{results}"
