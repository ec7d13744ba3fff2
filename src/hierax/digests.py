"""SHA-256 of files, read in parts: one way for exports, training checkpoints and teachers."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

_PART = 1 << 22


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    add_file(digest, path)
    return digest.hexdigest()


def add_file(digest: Any, path: Path) -> None:
    """Adds a file's bytes to a digest of `hashlib`."""
    with path.open("rb") as file:
        while part := file.read(_PART):
            digest.update(part)
