"""What a wheel requires, read from its metadata."""

from pathlib import Path

from packaging.requirements import Requirement

from contents import metadata

CORE = "core"
"""Stands for the requirements without extras."""


def requirements(wheel: Path) -> dict[str, list[str]]:
    """The names of the packages that each extra of a wheel asks for, by extra; `core` has those without extras."""
    message = metadata(wheel)
    asked = [Requirement(text) for text in message.get_all("Requires-Dist", [])]
    found = {CORE: [one.name for one in asked if one.marker is None]}
    for extra in message.get_all("Provides-Extra", []):
        found[extra] = [one.name for one in asked if one.marker and one.marker.evaluate({"extra": extra})]
    return found
