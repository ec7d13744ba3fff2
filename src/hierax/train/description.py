"""run.json, the description of a run. It may be damaged or come from another person; it is checked only here."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hierax.processing.paths import opened_regular
from hierax.train.modes import MODES
from hierax.train.settings import Recipe

DESCRIPTION = "run.json"
_LARGEST = 1 << 26  # bytes; a run writes a few thousand


class DamagedRun(ValueError):
    """A file of a run's folder is not as the run wrote it; the message names file and field."""


def read_regular(path: Path) -> str:
    """The text of a file of a run.

    Raises:
        FileNotFoundError: the file does not exist.
        DamagedRun: it is not a regular file, is too large, or is not text.
    """
    try:
        with opened_regular(path) as file:
            if os.fstat(file.fileno()).st_size > _LARGEST:
                raise ValueError(f"it has more than {_LARGEST:,} bytes")
            return file.read().decode()
    except UnicodeDecodeError:
        raise DamagedRun(f"{path} is not a text file") from None
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise DamagedRun(f"{path} is damaged: {getattr(error, 'strerror', None) or error}") from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a run.

    Raises:
        FileNotFoundError: the file does not exist.
        DamagedRun: the file does not contain a JSON object.
    """
    text = read_regular(path)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise DamagedRun(f"{path} is damaged: {reason}; expected JSON with a recipe, as the run wrote it") from None
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise DamagedRun(f"{path} is damaged: it holds a {kind}; expected an object with a recipe, as the run wrote it")
    return values


def read_description(path: Path) -> dict[str, Any]:
    """The content of a run.json, with every field checked.

    Raises:
        FileNotFoundError: the file does not exist.
        DamagedRun: it is damaged; the message names the field.
    """
    values = read_object(path)
    if "task" in values:  # what the mode was called before
        values = {"mode": values.pop("task"), **values}
    if values.get("mode") in ("detect", "instances"):
        raise DamagedRun(f"{path} describes a run of --task {values['mode']}, not of this task")
    if "recipe" not in values:
        raise DamagedRun(f"{path} is damaged: recipe is missing; expected JSON with a recipe, as the run wrote it")
    for name, (good, expected) in _FIELDS.items():
        if name in values and not good(values[name]):
            raise DamagedRun(f"{path} is damaged: {name} is {_short(values[name])}; expected {expected}")
    name = ""
    try:
        for name in ("recipe", "chosen"):
            Recipe.from_dict(values.get(name, values["recipe"]))
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise DamagedRun(f"{path} is damaged: {name}: {error}") from None
    if values.get("finished") and "result" not in values:
        raise DamagedRun(f"{path} is damaged: result is missing of a run that is finished")
    return values


def log_entry(line: str) -> dict[str, Any] | None:
    """The entry in a line of a log: an object with a whole number as its step. None if the line is damaged, for example
    after a power failure.
    """
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    good = isinstance(entry, dict) and type(entry.get("step")) is int and 0 <= entry["step"] < 1 << 62
    return entry if good else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]} …"


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def _mapping(good: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Mapping) and all(_is_text(k) and good(v) for k, v in value.items())


def _or_none(good: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or good(value)


def _is_masks(value: Any) -> bool:
    if not isinstance(value, dict) or not set(value) <= {"classes", "reduce_labels", "colors"}:
        return False
    names = value.get("classes")
    listed = names is None or (isinstance(names, list) and all(map(_is_text, names)))
    colors = _or_none(_mapping(lambda color: isinstance(color, list) and all(map(_is_count, color))))
    return listed and type(value.get("reduce_labels", False)) is bool and colors(value.get("colors"))


_is_metrics = _or_none(_mapping(_or_none(_is_number)))
_RESULT: dict[str, tuple[Callable[[Any], bool], bool]] = {  # and whether the field is required
    "steps": (_is_count, True),
    "seconds": (_is_number, True),
    "best": (_or_none(_is_number), False),
    "best_step": (_or_none(_is_count), False),
    "best_metrics": (_is_metrics, False),
    "last": (_is_metrics, False),
    "weights": (lambda value: value in ("best", "last"), False),
    "skipped": (_is_count, False),
    "unreadable": (_is_count, False),
    "images_per_second": (_or_none(_is_number), False),
    "waited": (_or_none(_is_number), False),
}


def _is_result(value: Any) -> bool:
    return isinstance(value, dict) and all(
        good(value[name]) if name in value else not needed for name, (good, needed) in _RESULT.items()
    )


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "mode": (lambda value: value in MODES, " or ".join(MODES)),
    "data": (_or_none(_is_text), "a path"),
    "validation": (_or_none(_is_text), "a path or null"),
    "from": (_or_none(_is_text), "a path or null"),
    "teacher": (_or_none(_is_text), "a path or null"),
    "teacher_cache": (_or_none(_is_text), "a path or null"),
    "masks": (_is_masks, "an object with classes, reduce_labels and colors"),
    "columns": (_or_none(_mapping(_is_text)), "an object of names"),
    "recipe": (lambda value: isinstance(value, dict), "an object of settings"),
    "chosen": (lambda value: isinstance(value, dict), "an object of settings"),
    "facts": (_mapping(_is_count), "an object of counts"),
    "classes": (_or_none(_mapping(_is_count)), "an object of counts"),
    "environment": (_mapping(lambda value: isinstance(value, (str, int))), "an object of texts"),
    "finished": (lambda value: type(value) is bool, "true or false"),
    "result": (_is_result, "the result of a run"),
}
"""Fields, their types, and the types in words. Fields that older versions did not write may be missing."""
