"""What the tools of the release read from the project: its files, its version, its changelog."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def tracked(root: Path = ROOT) -> list[str]:
    """Paths of the files of the project, relative to its folder: those that git tracks and that exist.

    Raises:
        RuntimeError: git does not know the folder.
    """
    done = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{root} is no folder of git: {done.stderr.strip()}")
    return [name for name in done.stdout.split("\0") if name and (root / name).is_file()]


def uncommitted(root: Path = ROOT) -> list[str]:
    """Files that differ from the last commit, or that git does not know, as lines of `git status`."""
    done = subprocess.run(["git", "-C", str(root), "status", "--porcelain"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def commit_time(root: Path = ROOT) -> str:
    """Seconds since 1970 of the last commit, for SOURCE_DATE_EPOCH."""
    done = subprocess.run(
        ["git", "-C", str(root), "log", "-1", "--format=%ct"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def version(root: Path = ROOT) -> str:
    """The version in pyproject.toml, which is the only place where it is set."""
    return _one(r'^version = "([^"]+)"$', root / "pyproject.toml")


def cited_version(root: Path = ROOT) -> str:
    """The version in CITATION.cff, which must be the same."""
    return _one(r"^version: (.+)$", root / "CITATION.cff")


def changelog(root: Path = ROOT) -> tuple[str, str, str]:
    """Version, date ("unreleased", or as 2026-11-29) and text of the newest entry of CHANGELOG.md.

    Raises:
        ValueError: the first heading of the second level has another form.
    """
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    first = re.search(r"^## (.*)$", text, re.MULTILINE)
    heading = first[1] if first else ""
    found = re.fullmatch(r"(\d+\.\d+\.\d+\S*) \((unreleased|\d{4}-\d\d-\d\d)\)", heading)
    if not first or not found:
        raise ValueError(
            f"CHANGELOG.md: the first heading must be '## VERSION (unreleased)' or with a date, not {heading!r}"
        )
    return found[1], found[2], text[first.end() :].partition("\n## ")[0]


def _one(pattern: str, file: Path) -> str:
    found = re.findall(pattern, file.read_text(encoding="utf-8"), re.MULTILINE)
    if len(found) != 1:
        raise ValueError(f"{file.name} has {len(found)} versions")
    return found[0]
