"""The values of settings: reads them from text, and converts them to the type of the setting."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, get_args, get_origin


def parse_value(text: str) -> Any:
    """The value of a text: JSON, or a common spelling of it, such as `.5`, `none` or `7,0.5`."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        if re.fullmatch(r"[-+]?(\d+\.|\.\d+)(e[-+]?\d+)?", text, re.IGNORECASE):  # such as .5, which is not JSON
            return float(text)
        lowered = text.lower()
        if lowered in ("none", "true", "false"):
            return {"none": None, "true": True, "false": False}[lowered]
        numbers = [part.strip() for part in text.split(",")]
        if len(numbers) > 1 and all(re.fullmatch(r"\d+\.?\d*|\.\d+", part) for part in numbers):
            return [int(part) if part.isdigit() else float(part) for part in numbers]
        return text


def assignments_of(settings: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Settings as `key=value` texts. A mapping of names to values is accepted too.

    Raises:
        TypeError: `settings` is something else.
    """
    if isinstance(settings, Mapping):
        texts = {k: v if isinstance(v, str) else json.dumps(v, default=str) for k, v in settings.items()}
        return [f"{name}={text}" for name, text in texts.items()]
    if isinstance(settings, str) or not all(isinstance(setting, str) for setting in settings):
        raise TypeError(f'settings is {settings!r:.80}; expected a list such as ["epochs=5"], or {{"epochs": 5}}')
    return list(settings)


def typed_value(key: str, value: Any, hint: Any) -> Any:
    """`value`, converted to the type of the setting `key`, which `hint` states.

    Raises:
        ValueError: the value is of another type.
    """
    allowed, text = kinds(hint), str(hint)
    if value is None and type(None) in allowed:
        return None
    if isinstance(value, (list, tuple)) and "tuple" in text and all(type(v) in (int, float) for v in value):
        return tuple(value)
    if "tuple[str" in text and isinstance(value, str):
        return tuple(part.strip() for part in value.split(","))
    if "tuple[str" in text and isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if isinstance(value, int) and not isinstance(value, bool) and "tuple[int" in text and int not in allowed:
        return (value, value)
    if isinstance(value, bool):
        good = bool in allowed
    elif isinstance(value, int) and float in allowed and int not in allowed:
        return float(value)
    elif isinstance(value, float) and value.is_integer() and int in allowed and float not in allowed:
        return int(value)  # such as 1e3
    else:
        good = any(isinstance(value, kind) for kind in allowed)
    if not good:
        raise ValueError(f"{key} is {value!r}; expected {_in_words(hint)}")
    return value


def kinds(hint: Any) -> tuple[Any, ...]:
    """The types that a field may be of."""
    stated = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    return tuple(get_origin(kind) or kind for kind in stated)


def _in_words(hint: Any) -> str:
    """The types of a field in words."""
    words: dict[Any, str] = {
        int: "a whole number",
        float: "a number",
        str: "a word",
        bool: "true or false",
        dict: "an object of fields",
        type(None): "none",
    }
    stated = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    found = []
    for kind in stated:
        if get_origin(kind) is tuple:
            inner = get_args(kind)
            plain = {int: "whole numbers", str: "words"}.get(inner[0], "numbers")
            found.append(f"{plain} with commas" if inner[-1] is Ellipsis else f"{len(inner)} {plain} with a comma")
        else:
            found.append(words[get_origin(kind) or kind])
    return " or ".join(found)
