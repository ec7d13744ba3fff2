"""Notices: warnings about things that are not errors. Commands show each as one line."""

from __future__ import annotations

import re
import warnings
from collections import Counter

_MOST = 5


class Notice(UserWarning):
    """A warning about something that users may not expect, such as files that were left out."""


def notify(message: str) -> None:
    """Gives a `Notice` with this text. Commands write it to stderr."""
    warnings.warn(message, Notice, stacklevel=2)


class LeftOut:
    """Counts files that are left out, by kind, and reports them in one sentence.

    Args:
        name: the name of the folder, shard or list that contains them.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, kind: str, *, example: str = "", count: int = 1) -> None:
        """Counts files of a kind, such as ".heic". An `example` is shown after it."""
        self.counts[kind] += count
        if example:
            self._examples.setdefault(kind, f" ({example})")

    def tell(self) -> None:
        """Gives a notice about the files, the most frequent kinds first. Does nothing if there are none."""
        if self.counts:
            notify(f"{self.name}: {self.summary()}")

    def summary(self) -> str:
        """The files as text, such as `3 files left out: 2 .heic, 1 .jxl`; "" if there are none."""
        total = sum(self.counts.values())
        if not total:
            return ""
        kinds = self.counts.most_common()
        told = [f"{count:,} {kind}{self._examples.get(kind, '')}" for kind, count in kinds[:_MOST]]
        others = sum(count for _, count in kinds[_MOST:])
        listed = ", ".join([*told, f"{others:,} others"] if others else told)
        return f"{total:,} {'file' if total == 1 else 'files'} left out: {listed}"


_ESCAPED = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Text as one line that is safe to print. Control characters, and characters that change the writing direction,
    are escaped (`\x1b`, `\n`), and so are bytes of a file name that are not valid text (`\xff`).
    """
    return _ESCAPED.sub(lambda found: escaped(found[0]), text)


def valid_text(text: str) -> str:
    """Text that UTF-8 can encode: halves of surrogate pairs, which JSON and file names may contain, are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def escaped(character: str) -> str:
    r"""A character as an escape in ASCII: `\xe9`, `\u2028`. Python stands for the byte `\xff` of a file name with the
    character U+DCFF; the escape shows the byte.
    """
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
