"""Checks numbers that a caller passes."""

from __future__ import annotations

import math
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
