"""The home folder of the user. In a container, there may be none: the user has no entry, and `$HOME` is not set."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def home() -> Path:
    """The home folder of the user; if there is none, a folder for temporary files of this user."""
    try:
        return Path.home()
    except (RuntimeError, KeyError):
        own = os.getuid() if os.name == "posix" else "user"
        return Path(tempfile.gettempdir()) / f"hierax-{own}"


def expand_home(path: str) -> Path:
    """Replaces `~` in a path by the home folder. The path is not changed if the user has no home folder."""
    return Path(os.path.expanduser(path))
