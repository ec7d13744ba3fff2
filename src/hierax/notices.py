"""What a person should know though nothing failed: a warning that commands show as a line."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

_MOST = 5


class Notice(UserWarning):
    """Something that is not as one may expect, such as files that were left out."""


def notify(message: str) -> None:
    """Warns of it; commands write it to stderr, once."""
    warnings.warn(message, Notice, stacklevel=2)


def left_out(name: str, counts: Mapping[str, int], *, why: str = "") -> None:
    """Says how many files of a folder, shard or list were not taken, by kind, the most frequent first."""
    total = sum(counts.values())
    if total:
        kinds = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        told = [f"{count:,} {kind}" for kind, count in kinds[:_MOST]]
        rest = sum(count for _, count in kinds[_MOST:])
        files = "file" if total == 1 else "files"
        listed = ", ".join([*told, f"{rest:,} others"] if rest else told)
        notify(f"{name}: {total:,} {files} left out: {listed}{why}")
