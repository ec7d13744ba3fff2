"""Packages whose names are imported when they are first used, so that importing the package costs nothing."""

from __future__ import annotations

TYPE_CHECKING = False  # as of `typing`, whose import is the longest part of `import hierax`
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any


def lazy_names(
    package: str, modules: Mapping[str, Sequence[str]], *others: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package.

    Args:
        package: its name.
        modules: full names of modules, and the names that each gives to the package. A module without names is itself
            one of the package's.
        others: more names for `__dir__`.
    """
    home = {name: module for module, names in modules.items() for name in names}
    home |= {module.rpartition(".")[2]: "" for module, names in modules.items() if not names}

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        import sys
        from importlib import import_module

        value = getattr(import_module(home[name]), name) if home[name] else import_module(f"{package}.{name}")
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted({*home, *others})
