"""Which public names have changed since the last release, and whether the changelog mentions them."""

import re
import subprocess
from pathlib import Path

SURFACE = "tests/data/public_surface.txt"


def not_mentioned(root: Path, text: str) -> list[str]:
    """Public names that differ from the last release and that the changelog's entry does not mention, as sentences.

    Args:
        root: the project's folder. The last release is the newest tag whose name is `v` and a version.
        text: the changelog's newest entry.

    Returns:
        An empty list also if nothing was released before: then all names are new, and the entry describes the whole.
    """
    tag = _git(root, "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*")
    if not tag:
        return []
    before = _git(root, "show", f"{tag.strip()}:{SURFACE}")
    now = (root / SURFACE).read_text(encoding="utf-8")
    return [
        f"CHANGELOG.md does not mention {name}, which differs from {tag.strip()}"
        for name in changed(before, now)
        if not re.search(rf"\b{re.escape(name.rpartition('.')[2])}\b", text)
    ]


def changed(before: str, now: str) -> list[str]:
    """Names (`hierax.Index.search`) whose line is in one of two lists of public names and not in the other.

    If a class is new or removed, its members are left out.
    """
    lines = set(before.splitlines()) ^ set(now.splitlines())
    names = {_name(line) for line in lines}
    whole = {_name(line) for text in (before, now) for line in text.splitlines()}
    both = {_name(line) for line in before.splitlines()} & {_name(line) for line in now.splitlines()}
    return sorted(name for name in names if not ((owner := name.rpartition(".")[0]) in whole and owner not in both))


def _name(line: str) -> str:
    found = re.match(r"\s*(?:class )?([\w.]+)", line)
    return found[1] if found else ""


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    return "" if done.returncode else done.stdout
