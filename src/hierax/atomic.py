"""Files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replaced(path: Path, *, keep: bool = False) -> Iterator[Path]:
    """A file beside `path` that takes its place when it is written, on the disk, or is gone.

    Args:
        keep: a file that is there by then stays: of several processes that write it, the first one's counts.
    """
    part = path.with_name(f".{path.name[:40]}.{os.getpid()}.{secrets.token_hex(3)}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        if not (keep and _linked(part, path)):
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """A path to write to, in the same folder (made if missing), with the same suffix, that becomes `path` when all went
    well. Its name is short: that of `path` may be as long as the file system allows.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _linked(part: Path, path: Path) -> bool:
    """Gives a file a second name unless another has it; False where the file system cannot."""
    try:
        os.link(part, path)
    except FileExistsError:
        return True
    except OSError:
        return path.exists()
    return True
