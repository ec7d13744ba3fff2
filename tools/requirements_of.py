"""What a wheel requires, read from its metadata."""

import zipfile
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement

CORE = "core"
"""Stands for the requirements without extras."""


def requirements(wheel: Path) -> dict[str, list[str]]:
    """The names of the packages that each extra of a wheel asks for, by extra; `core` has those without extras."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        message = HeaderParser().parsestr(archive.read(name).decode())
    asked = [Requirement(text) for text in message.get_all("Requires-Dist", [])]
    found = {CORE: [one.name for one in asked if one.marker is None]}
    for extra in message.get_all("Provides-Extra", []):
        found[extra] = [one.name for one in asked if one.marker and one.marker.evaluate({"extra": extra})]
    return found
