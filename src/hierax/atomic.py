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
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(3)}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        if not (keep and _linked(part, path)):
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
