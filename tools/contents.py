"""Checks what is in a built wheel or source archive: the files of the project, all of them, and not too large."""

import re
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

MEGABYTE = 10**6
LIMITS = {".whl": 20 * MEGABYTE, ".gz": 30 * MEGABYTE}
"""The largest size of a file, in bytes, by its suffix."""
LARGEST = 8 * MEGABYTE
"""The largest size of a file in an archive, in bytes."""
NEEDED = (
    "hierax/__init__.py",
    "hierax/py.typed",
    "hierax/assets/femto/model.safetensors",
    "hierax/assets/femto.mae/model.safetensors",
    "hierax/assets/cat.jpg",
    "hierax/assets/gallery.jpg",
    "hierax/assets/CREDITS.md",
    "hierax/assets/serve/index.html",
    "hierax/assets/serve/app.js",
    "hierax/checkpoint/class_names/imagenet-1k.txt",
)
"""Files without which a part of an installed package does not work."""
LICENSES = (
    "licenses/LICENSE",
    "licenses/NOTICE",
    "licenses/src/hierax/assets/CREDITS.md",
    "licenses/src/hierax/checkpoint/class_names/NOTICE",
    "sboms/hierax.spdx.json",
)
METADATA = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", *LICENSES)
NOT_IN_SDIST = (".ci/", ".github/")
_JUNK = re.compile(
    r"(^|/)(__pycache__|\.[^/]*_cache|\.venv|\.git|\.ipynb_checkpoints|\.DS_Store|\.env)(/|$)|\.(pyc|pyo|orig|rej|swp)$|~$"
)


def in_wheel(path: Path) -> dict[str, int]:
    """The size in bytes of each file in a wheel."""
    with zipfile.ZipFile(path) as archive:
        return {info.filename: info.file_size for info in archive.infolist()}


def in_sdist(path: Path) -> dict[str, int]:
    """The size in bytes of each file in a source archive, by its path below the archive's only folder."""
    with tarfile.open(path) as archive:
        return {member.name.partition("/")[2]: member.size for member in archive if not member.isdir()}


def metadata(wheel: Path) -> Message:
    """The headers of a wheel's METADATA; some are there several times."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return HeaderParser().parsestr(archive.read(name).decode())


def problems_of_wheel(found: Mapping[str, int], tracked: Iterable[str], version: str) -> list[str]:
    """What is wrong with the files of a wheel, as sentences; none if it has the files of the package alone."""
    info = f"hierax-{version}.dist-info/"
    expected = {name.removeprefix("src/") for name in tracked if name.startswith("src/hierax/")}
    expected |= {f"{info}{name}" for name in METADATA}
    return [*_compared(found, expected | set(NEEDED)), *_bounds(found)]


def problems_of_sdist(found: Mapping[str, int], tracked: Iterable[str]) -> list[str]:
    """What is wrong with the files of a source archive, as sentences."""
    expected = {name for name in tracked if not name.startswith(NOT_IN_SDIST)} | {"PKG-INFO"}
    return [*_compared(found, expected), *_bounds(found)]


def problem_of_size(path: Path) -> list[str]:
    """A sentence if the archive is too large."""
    size, limit = path.stat().st_size, LIMITS[path.suffix]
    return [f"{path.name} has {size / MEGABYTE:.1f} MB; the limit is {limit / MEGABYTE:.0f} MB"] if size > limit else []


def listing(found: Mapping[str, int]) -> str:
    """Files and bytes by folder (two levels), and the five largest files."""
    files, sizes = Counter[str](), Counter[str]()
    for name, size in found.items():
        folder = "/".join(Path(name).parts[:-1][:2]) or "."
        files[folder] += 1
        sizes[folder] += size
    rows = [f"  {folder:<34} {files[folder]:>4} files {sizes[folder]:>11,} bytes" for folder in sorted(files)]
    largest = sorted(found, key=lambda name: -found[name])[:5]
    return "\n".join([*rows, "  largest: " + ", ".join(f"{name} ({found[name]:,})" for name in largest)])


def _compared(found: Mapping[str, int], expected: set[str]) -> list[str]:
    unexpected = [f"unexpected file: {name}" for name in sorted(set(found) - expected)]
    return [*(f"missing file: {name}" for name in sorted(expected - set(found))), *unexpected]


def _bounds(found: Mapping[str, int]) -> list[str]:
    junk = [f"a temporary file or a cache: {name}" for name in sorted(found) if _JUNK.search(name)]
    large = [f"{name} has {size:,} bytes" for name, size in sorted(found.items()) if size > LARGEST]
    return junk + large
