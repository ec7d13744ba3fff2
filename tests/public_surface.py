"""Every public name with its signature, one to a line. `python tests/public_surface.py` writes the snapshot anew."""

import enum
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SNAPSHOT = Path(__file__).parent / "data" / "public_surface.txt"
PACKAGES = (
    "hierax",
    "hierax.train",
    "hierax.data",
    "hierax.detection",
    "hierax.collection",
    "hierax.serve",
    "hierax.integrations.transformers",
)
"""The public packages that can be imported without timm; the reference of the site (docs/site) reads this too."""


def surface() -> str:
    """All lines, sorted by package and name."""
    return "".join(f"{line}\n" for package in PACKAGES for line in _of_package(package))


def _of_package(package: str) -> Iterator[str]:
    module = importlib.import_module(package)
    for name in sorted(module.__all__):
        value = getattr(module, name)
        yield from _of(f"{package}.{name}", value)


def _of(name: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value) and not issubclass(value, enum.Enum):
        yield f"class {name}({', '.join(base.__name__ for base in value.__bases__)}){_arguments(value)}"
        for member, what in sorted(vars(value).items()):
            if member.startswith("_"):
                continue
            function = what.__func__ if isinstance(what, (classmethod, staticmethod)) else what
            if inspect.isfunction(function):
                yield f"  {name}.{member}{_arguments(function)}"
            elif isinstance(what, property):
                yield f"  {name}.{member} (property)"
    elif callable(value):
        yield f"{name}{_arguments(value)}"
    else:
        yield f"{name} ({type(value).__name__})"


def _arguments(function: Any) -> str:
    """Names, kinds and defaults of arguments; annotations are left out, since they may be made more exact."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return ""
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    return str(inspect.Signature(bare))


if __name__ == "__main__":
    SNAPSHOT.write_text(surface(), encoding="utf-8")
