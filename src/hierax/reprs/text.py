"""Short texts for `repr`: the shape and dtype of an array instead of its numbers, the first of many entries.

A `repr` is called by debuggers, logs and error messages, with objects of any state. So nothing here raises, nothing
changes the object, and every text is bounded. Nothing is imported but the standard library.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

_T = TypeVar("_T")

WIDTH = 110
"""Maximum length of a text that stays in one line."""
_ENTRY = 200  # maximum length of the text of one entry
_FEW = 4  # entries of a collection that are shown
_DEEP = 3  # levels of collections in collections that are shown


def never_raises(function: Callable[[Any], str]) -> Callable[[Any], str]:
    """A decorator for `__repr__` and `__str__`: of a broken object, the text says what is wrong with it."""

    @functools.wraps(function)
    def safe(self: Any) -> str:
        try:
            return function(self)
        except Exception as error:  # of any kind: the object may be half made, or be in the middle of a change
            return f"<{type(self).__name__}, which cannot be shown: {type(error).__name__}>"

    return safe


def short_repr(
    *, changed: bool = False, like: Callable[[Any], Any] | None = None, hidden: Collection[str] = ()
) -> Callable[[type[_T]], type[_T]]:
    """A decorator for a dataclass, above `@dataclass`: its `repr` names the fields that are not None, in short.

    Args:
        changed: leave out the fields that have their default values.
        like: returns an object for the one that is shown; fields that are equal in both are left out.
        hidden: names of fields to leave out.
    """

    def decorate(cls: type[_T]) -> type[_T]:
        @never_raises
        def __repr__(self: Any) -> str:
            found = shown_fields(self, changed=changed)
            other = None if like is None else like(self)
            shown = {
                name: value
                for name, value in found.items()
                if name not in hidden and (other is None or getattr(other, name) != value)
            }
            return call_text(type(self).__name__, shown)

        setattr(cls, "__repr__", __repr__)  # noqa: B010  (a type checker refuses the other way)
        return cls

    return decorate


def dataset_repr(cls: type[_T]) -> type[_T]:
    """A decorator for a dataset, above `@dataclass`: its `repr` has the numbers of samples and classes."""

    @never_raises
    def __repr__(self: Any) -> str:
        names = ", ".join(self.classes[:_FEW]) + (", …" if len(self.classes) > _FEW else "")
        what = "class" if len(self.classes) == 1 else "classes"
        classes = f", {len(self.classes):,} {what}: {names:.200}" if self.classes else ", no classes"
        return f"{type(self).__name__}({len(self):,} sample{'' if len(self) == 1 else 's'}{classes})"

    setattr(cls, "__repr__", __repr__)  # noqa: B010  (a type checker refuses the other way)
    return cls


def shown_fields(value: Any, *, changed: bool = False) -> dict[str, Any]:
    """The fields of a dataclass that its `repr` shows, by name; without those that are None."""
    found = {}
    for field in dataclasses.fields(value):
        content = getattr(value, field.name, None)
        if field.repr and content is not None and not (changed and _is_default(field, content)):
            found[field.name] = content
    return found


def _is_default(field: dataclasses.Field[Any], content: Any) -> bool:
    if field.default_factory is not dataclasses.MISSING:
        return content == field.default_factory()
    return type(content) is type(field.default) and content == field.default


def call_text(name: str, entries: Mapping[str, Any]) -> str:
    """`name(key=text, …)` in one line, or with a line for each entry if that is long."""
    texts = [f"{key}={described(value)}" for key, value in entries.items()]
    line = f"{name}({', '.join(texts)})"
    if len(line) <= WIDTH and "\n" not in line:
        return line
    indented = [text.replace("\n", "\n  ") for text in texts]
    return f"{name}(\n" + "".join(f"  {text},\n" for text in indented) + ")"


def described(value: Any, *, deep: int = _DEEP) -> str:
    """A short text for a value: `float32 [2, 30]` for an array, else its `repr`, of which long ones are cut."""
    try:
        return _described(value, deep)
    except Exception as error:  # an object of the user, with a `repr` that raises
        return f"<{type(value).__name__}, which cannot be shown: {type(error).__name__}>"


def _described(value: Any, deep: int) -> str:
    if (text := array_text(value)) is not None:
        return text
    if isinstance(value, os.PathLike):
        return _cut(repr(os.fspath(value)), end=True)
    if isinstance(value, (bytes, bytearray)) and len(value) > 20:
        return f"<{len(value):,} bytes>"
    if isinstance(value, str):
        return _cut(repr(value[: 2 * _ENTRY]))
    if isinstance(value, float):
        return f"{value:.6g}"
    if type(value) in (dict, list, tuple, set, frozenset) or (isinstance(value, Mapping) and not _own_repr(value)):
        return _collection(value, deep)
    return _cut(repr(value)) if "\n" not in (text := repr(value)) else _cut_lines(text)


def _own_repr(value: Any) -> bool:
    return type(value).__repr__ not in (object.__repr__, dict.__repr__)


def _collection(value: Any, deep: int) -> str:
    """The first entries of a collection; the shapes of all tensors of a short one."""
    if not value:
        return repr(value)
    if deep < 1:
        return f"<{len(value):,} entries>"
    arrays = not isinstance(value, Mapping) and all(array_text(entry) is not None for entry in value)
    most = 3 * _FEW if arrays else _FEW
    if isinstance(value, Mapping):
        texts = [f"{_cut(repr(k))}: {described(v, deep=deep - 1)}" for k, v in _first(value.items(), most)]
    else:
        texts = [described(entry, deep=deep - 1) for entry in _first(value, most)]
    more = [f"… {len(value):,} in all"] if len(value) > most else []
    before, after = ("(", ")") if isinstance(value, tuple) else ("[", "]") if isinstance(value, list) else ("{", "}")
    comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
    line = f"{before}{', '.join(texts + more)}{comma}{after}"
    if len(line) <= _ENTRY and "\n" not in line:
        return line
    inner = "".join(f"  {text},\n".replace("\n", "\n  ")[:-2] for text in texts) + "".join(f"  {m}\n" for m in more)
    return f"{before}\n{inner}{after}"


def _first(values: Iterable[_T], most: int) -> list[_T]:
    return [value for value, _ in zip(values, range(most), strict=False)]


def _cut(text: str, *, end: bool = False) -> str:
    if len(text) <= _ENTRY:
        return text
    return f"…{text[-_ENTRY:]}" if end else f"{text[:_ENTRY]}…"


def _cut_lines(text: str) -> str:
    lines = text.split("\n")
    shown = [_cut(line) for line in lines[: 10 * _FEW]]
    return "\n".join(shown) + ("\n…" if len(lines) > len(shown) else "")


def array_text(value: Any) -> str | None:
    """Dtype, shape and, unless it is the CPU, the device of an array or tensor; a small float on the CPU is a number.

    None for anything that is no array.
    """
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None or dtype is None or isinstance(value, type):
        return None
    name = str(dtype).removeprefix("torch.")
    device = str(getattr(value, "device", "cpu"))
    text = f"{name} {list(shape)}".replace("'", "") + ("" if device == "cpu" else f" on {device}")
    return text if len(shape) or device != "cpu" else _scalar(value, text)


def _scalar(value: Any, text: str) -> str:
    """The number of an array without axes, if it has one at hand: those of compilers and of `vmap` have none."""
    if type(value).__name__ not in ("Tensor", "Parameter", "ndarray") and type(value).__module__ != "numpy":
        return text
    try:
        return f"{text} {float(getattr(value, 'detach', lambda: value)()):.6g}"
    except Exception:  # each library has its own errors
        return text
