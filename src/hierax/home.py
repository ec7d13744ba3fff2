"""The user's home folder, also where there is none: in a container, a user may have no entry and no `$HOME`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def home() -> Path:
    """The user's home folder; a folder of this user among the temporary files if the system knows none."""
    try:
        return Path.home()
    except (RuntimeError, KeyError):
        own = os.getuid() if os.name == "posix" else "user"
        return Path(tempfile.gettempdir()) / f"hierax-{own}"


def expand_home(path: str) -> Path:
    """A path whose `~` stands for the home folder; unchanged for a user whom the system does not know."""
    return Path(os.path.expanduser(path))
