"""The fields of a preprocessing record: how a value is read, and what is expected of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
"""The interpolation methods: names as in timm, and numbers as in Pillow and transformers."""


def is_list(value: object) -> bool:
    """Whether a value is a list or a tuple."""
    return isinstance(value, (list, tuple))


def _bool(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def positive_int(value: object) -> int | None:
    """A whole number above 0; None for other values."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) else None


def positive_number(value: object) -> float | None:
    """A finite number above 0; None for other values."""
    number = _number(value)
    return number if number is not None and number > 0 else None


def _numbers(value: object, read: Callable[[object], float | None]) -> tuple[float, ...] | None:
    if not isinstance(value, (list, tuple)) or not value:
        return None
    numbers = [number for number in map(read, value) if number is not None]
    return tuple(numbers) if len(numbers) == len(value) else None


def _resampling(value: object) -> int | None:
    if isinstance(value, str):
        return RESAMPLING.get(value)
    # members of Resampling in Pillow are ints; JSON and pickle should get a plain int
    known = isinstance(value, int) and not isinstance(value, bool) and value in RESAMPLING.values()
    return int(value) if known else None  # pyright: ignore[reportArgumentType]


def _edges(value: object, *names: str) -> dict[str, int] | None:
    if (
        not isinstance(value, Mapping)
        or set(value) != set(names)
        or any(positive_int(value[name]) is None for name in names)
    ):
        return None
    return {name: value[name] for name in names}


def _size(value: object) -> dict[str, int] | None:
    if positive_int(value):
        value = {"shortest_edge": value}
    value = _pair(value)
    return _edges(value, "shortest_edge") or _edges(value, "height", "width")


def _crop(value: object) -> dict[str, int] | None:
    return _edges({"height": value, "width": value} if positive_int(value) else _pair(value), "height", "width")


def _pair(value: object) -> object:
    """`(height, width)` as a mapping; other values are not changed."""
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return {"height": value[0], "width": value[1]}
    return value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _dtype(value: object) -> str | None:
    return value if isinstance(value, str) and value in _DTYPES else None


_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64")
OPTIONAL = ("image_dtype", "num_frames", "sampling_rate", "fps")
"""Fields that may be None."""
_SWITCH = (_bool, "true or false")
_COUNT = (positive_int, "a whole number above 0, or none")
FIELDS: dict[str, tuple[Callable[[object], Any], str]] = {
    "do_resize": _SWITCH,
    "size": (_size, "{'shortest_edge': pixels}, {'height': pixels, 'width': pixels} or a whole number above 0"),
    "resample": (_resampling, ", ".join(f"{number} ({name})" for name, number in RESAMPLING.items())),
    "do_center_crop": _SWITCH,
    "crop_size": (_crop, "{'height': pixels, 'width': pixels} or a whole number above 0"),
    "do_rescale": _SWITCH,
    "rescale_factor": (positive_number, "a number above 0"),
    "do_normalize": _SWITCH,
    "image_mean": (lambda value: _numbers(value, _number), "a list of numbers, one per channel"),
    "image_std": (lambda value: _numbers(value, positive_number), "a list of numbers above 0, one per channel"),
    "do_convert_rgb": _SWITCH,
    "image_processor_type": (_text, "the name of a class"),
    "image_dtype": (_dtype, f"one of {', '.join(_DTYPES)}, or none"),
    "num_frames": _COUNT,
    "sampling_rate": _COUNT,
    "fps": (positive_number, "a number above 0, or none"),
}
"""For each field of the file: a function that reads a value (None: the value is wrong), and what is expected."""
