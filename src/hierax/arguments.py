"""Checks numbers and paths that a caller passes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from numbers import Integral
from typing import Any


def check_count(name: str, value: Any, *, least: int = 1, most: int | None = None) -> int:
    """The value as an integer.

    Args:
        name: the name of the argument.
        value: an integer of Python or NumPy.
        least, most: limits; None is no limit.

    Raises:
        ValueError: it is not a whole number within the limits; the message names the argument.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or not least <= int(value) <= (math.inf if most is None else most):
        limits = f", at least {least:,}" if most is None else f" from {least:,} to {most:,}"
        raise ValueError(f"{name} is {value!r}; expected a whole number{limits}")
    return int(value)


def path_texts(name: str, values: Any, expected: str) -> list[str]:
    """The texts of one or several paths.

    Args:
        name: the name of the argument.
        values: a path, or an iterable of paths.
        expected: the end of the error, such as "expected paths of images".

    Raises:
        TypeError: an item is not a path; it may be a decoded image, for example. The message names it.
    """
    one = isinstance(values, (str, os.PathLike))
    if not one and (not isinstance(values, Iterable) or isinstance(values, (bytes, bytearray))):
        raise TypeError(f"{name} is a {type(values).__name__}; {expected}")
    texts = list[str]()
    for number, value in enumerate([values] if one else values):
        if not isinstance(value, (str, os.PathLike)):
            raise TypeError(f"{name if one else f'{name}[{number}]'} is a {type(value).__name__}; {expected}")
        texts.append(os.fspath(value))
    return texts
