"""Lazy imports: the names of a package are imported when they are first used, so that importing the package is fast."""

from __future__ import annotations

TYPE_CHECKING = False  # like the constant of `typing`, which takes a long time to import
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any


def lazy_names(
    package: str, modules: Mapping[str, Sequence[str]], *others: str, former: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The functions `__getattr__` and `__dir__` of a package.

    Args:
        package: the name of the package.
        modules: full names of modules, each with the names that the package gets from it. A module without names is
            itself a public name of the package.
        others: more names for `__dir__`.
        former: former names that still work, each with its present name.
    """
    home = {name: module for module, names in modules.items() for name in names}
    home |= {module.rpartition(".")[2]: "" for module, names in modules.items() if not names}

    def get(name: str) -> Any:
        if former and name in former:
            return get(former[name])
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        import sys
        from importlib import import_module

        value = getattr(import_module(home[name]), name) if home[name] else import_module(f"{package}.{name}")
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted({*home, *others})
