"""The arguments of routes: how they are read from a query or a body, and how the OpenAPI document describes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from hierax.advice import did_you_mean
from hierax.serve.errors import refuse

_SHOWN = 60
"""Characters of a wrong value that an error quotes."""
_MOST_SIDE = 1 << 20


@dataclass(frozen=True)
class Argument:
    """An argument of a route.

    Attributes:
        name: its name in the query and in bodies.
        about: what it means, for the document.
        schema: its JSON schema.
        expected: what a value should be, for errors.
        read: returns the value; None if it is wrong.
        default: the value if it is not given.
        example: a value for the document.
    """

    name: str
    about: str
    schema: Mapping[str, Any]
    expected: str
    read: Callable[[Any], Any]
    default: Any = None
    example: Any = None
    in_query: bool = field(default=True)

    def value(self, given: Any) -> Any:
        """The value that was given.

        Raises:
            Refusal: it is wrong (400).
        """
        found = self.read(given)
        if found is None:
            shown = repr(given)
            shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
            raise refuse("bad_argument", f"{self.name} is {shown}; expected {self.expected}", field=self.name)
        return found

    def parameter(self) -> dict[str, Any]:
        """Its entry among the parameters of the OpenAPI document."""
        entry = {"name": self.name, "in": "query", "required": False, "description": self.about, "schema": self.shape()}
        return entry if self.example is None else {**entry, "example": self.example}

    def shape(self) -> dict[str, Any]:
        """Its JSON schema, with the default."""
        return dict(self.schema) if self.default is None else {**self.schema, "default": self.default}


def parse(
    arguments: Sequence[Argument], fields: Mapping[str, Any], query: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """The values of all arguments, from the fields of a call.

    Args:
        query: the texts of the query. A text such as the id 12e4567890123456 is not the number that it looks like.

    Raises:
        Refusal: a field is no argument of the route, or has a wrong value (400).
    """
    known = {argument.name: argument for argument in arguments}
    texts = [name for name in fields if name in query and name in known and known[name].schema.get("type") == "string"]
    fields = {**fields, **{name: query[name] for name in texts}}
    for name in fields:
        if name not in known:
            advice = did_you_mean(name, known) or f"; expected {', '.join(known) if known else 'no arguments'}"
            raise refuse("bad_argument", f"there is no argument {name[:_SHOWN]!r}{advice}", field=name[:_SHOWN])
    return {
        name: argument.value(fields[name]) if name in fields and fields[name] is not None else argument.default
        for name, argument in known.items()
    }


def whole(name: str, about: str, *, least: int, most: int, default: int | None = None, example: Any = None) -> Argument:
    """A whole number."""

    def read(given: Any) -> int | None:
        if isinstance(given, bool) or not isinstance(given, (int, float)) or not least <= given <= most:
            return None
        return int(given) if int(given) == given else None

    schema = {"type": "integer", "minimum": least, "maximum": most}
    return Argument(name, about, schema, f"a whole number from {least} to {most:,}", read, default, example)


def number(
    name: str, about: str, *, least: float, most: float, default: float | None = None, example: Any = None
) -> Argument:
    """A number."""

    def read(given: Any) -> float | None:
        good = isinstance(given, (int, float)) and not isinstance(given, bool) and least <= given <= most
        return float(given) if good else None

    schema = {"type": "number", "minimum": least, "maximum": most}
    return Argument(name, about, schema, f"a number from {least:g} to {most:g}", read, default, example)


def flag(name: str, about: str, *, default: bool = False) -> Argument:
    """True or false."""

    def read(given: Any) -> bool | None:
        return {"true": True, "false": False}.get(str(given).lower()) if isinstance(given, (bool, str)) else None

    return Argument(name, about, {"type": "boolean"}, "true or false", read, default)


def choice(name: str, about: str, values: Sequence[str], *, default: str, example: Any = None) -> Argument:
    """One of several words."""

    def read(given: Any) -> str | None:
        given = str(given).lower() if isinstance(given, bool) else given  # the word "true" in a form
        return given if isinstance(given, str) and given in values else None

    schema = {"type": "string", "enum": list(values)}
    return Argument(name, about, schema, f"one of {', '.join(values)}", read, default, example)


def text(name: str, about: str, *, default: str | None = None, example: Any = None) -> Argument:
    """Any text; a number is taken as text too."""

    def read(given: Any) -> str | None:
        good = isinstance(given, (str, int)) and not isinstance(given, bool)
        return str(given) if good and str(given) and len(str(given)) <= 1000 else None

    return Argument(name, about, {"type": "string"}, "a text of at most 1000 characters", read, default, example)


def words(name: str, about: str, values: Sequence[str], *, default: Sequence[str], example: Any = None) -> Argument:
    """Several words, as a list or separated by commas."""

    def read(given: Any) -> tuple[str, ...] | None:
        parts = given.split(",") if isinstance(given, str) else given
        if not isinstance(parts, list) or not parts or len(parts) > len(values):
            return None
        return tuple(dict.fromkeys(parts)) if all(isinstance(p, str) and p in values for p in parts) else None

    shown = ",".join(default)
    schema = {"type": "string", "default": shown}
    expected = f"some of {', '.join(values)}, separated by commas"
    return Argument(name, about, schema, expected, read, tuple(default), example)


def booleans(name: str, about: str, *, most: int = 1 << 16) -> Argument:
    """A list of booleans."""

    def read(given: Any) -> list[bool] | None:
        good = isinstance(given, list) and 0 < len(given) <= most and all(isinstance(one, bool) for one in given)
        return given if good else None

    schema = {"type": "array", "items": {"type": "boolean"}, "maxItems": most}
    return Argument(name, about, schema, "a list of true and false", read, in_query=False)


def _side(given: Any) -> int | None:
    """A side in pixels, as a whole number or as its text; None for anything else."""
    if isinstance(given, str) and re.fullmatch(r"\s*[0-9]{1,7}\s*", given):
        return _side(int(given))
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= _MOST_SIDE:
        return None
    return given


def size(about: str = "", *, square: bool = False) -> Argument:
    """The size of a model's input: a side, or rows and columns."""

    def read(given: Any) -> int | tuple[int, int] | None:
        sides = given.lower().replace("×", "x").split("x") if isinstance(given, str) else given
        if not isinstance(sides, list):
            return _side(sides)
        if square or len(sides) != 2:
            return None
        rows, columns = map(_side, sides)
        return (rows, columns) if rows and columns else None

    about = about or (
        "Pixels of the model's input: a side, or rows x columns such as 320x448; at most 1024 x 1024 altogether. "
        "Default: the size of the checkpoint. The answer is computed at this size; nothing is only enlarged."
    )
    schema: dict[str, Any] = {"type": "integer", "minimum": 1}
    if not square:
        schema = {"anyOf": [schema, {"type": "string", "pattern": "^[0-9]+[xX×][0-9]+$"}]}
    expected = "one number" if square else "one number, or rows and columns such as 320x448"
    return Argument("size", about, schema, expected, read)
