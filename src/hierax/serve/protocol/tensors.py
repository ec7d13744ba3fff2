"""Tensors of the Open Inference Protocol v2: their names of types, and their two forms, JSON and bytes.

The bytes are little-endian and row-major. An element of type BYTES is its length in four bytes, then its bytes; in JSON
it is a text in base64, since JSON has no bytes.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hierax.notices import valid_text
from hierax.serve.errors import Refusal, refuse

if TYPE_CHECKING:
    import numpy as np

FLOATS = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
"""The types of pixels that are read, and how numpy calls them."""
_MOST_AXES = 8


def bad(message: str, field: str | None = None) -> Refusal:
    """The error for a request that does not keep to the protocol."""
    return refuse("bad_argument", valid_text(message), field=field)


def shape_of(value: Any, name: str) -> tuple[int, ...]:
    """The shape that a request states for a tensor: a list of whole numbers, none negative.

    Raises:
        Refusal: it is something else.
    """
    whole = isinstance(value, list) and len(value) <= _MOST_AXES
    if not whole or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in value):
        raise bad(f"shape of {name} is {str(value)[:80]}; expected a list of at most {_MOST_AXES} whole numbers")
    return tuple(value)


def _flat(data: Any, name: str) -> list[Any]:
    """The values of a list, or of lists in lists, in order."""
    if not isinstance(data, list):
        raise bad(f"data of {name} is {_kind(data)}; expected a list")
    for _ in range(_MOST_AXES):
        if not any(isinstance(item, list) for item in data):
            return data
        if not all(isinstance(item, list) for item in data):
            raise bad(f"data of {name} mixes lists and values")
        if len({len(item) for item in data}) > 1:
            raise bad(f"data of {name} has lists of different lengths")
        data = [value for item in data for value in item]
    raise bad(f"data of {name} is nested deeper than {_MOST_AXES} lists")


def _kind(value: Any) -> str:
    kinds = {
        str: "a text",
        dict: "an object",
        type(None): "null",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }
    return kinds.get(type(value), type(value).__name__)


def _check_count(count: int, shape: tuple[int, ...], name: str) -> None:
    if count != math.prod(shape):
        raise bad(f"{name} has {count} values, but its shape {list(shape)} needs {math.prod(shape)}")


def numbers_from_json(data: Any, datatype: str, shape: tuple[int, ...], name: str) -> np.ndarray:
    """float32 values of this shape, from lists of numbers.

    Raises:
        Refusal: they are no numbers, not finite, or of another count.
    """
    import numpy as np

    flat = _flat(data, name)
    _check_count(len(flat), shape, name)
    if not all(type(value) in (int, float) for value in flat):
        wrong = next(value for value in flat if type(value) not in (int, float))
        raise bad(f"data of {name} has {_kind(wrong)} among its values; expected numbers for {datatype}")
    try:
        with np.errstate(over="ignore"):
            values = np.array(flat, dtype=FLOATS[datatype]).astype(np.float32)
    except OverflowError:
        raise bad(f"data of {name} has a number that does not fit into {datatype}") from None
    return _finite(values.reshape(shape), name)


def numbers_from_bytes(content: memoryview, datatype: str, shape: tuple[int, ...], name: str) -> np.ndarray:
    """float32 values of this shape, from bytes.

    Raises:
        Refusal: the number of bytes does not fit the shape, or a value is not finite.
    """
    import numpy as np

    kind = np.dtype(FLOATS[datatype])
    needed = math.prod(shape) * kind.itemsize
    if len(content) != needed:
        raise bad(f"{name} has {len(content)} bytes, but {datatype} of shape {list(shape)} needs {needed}")
    with np.errstate(over="ignore"):
        values = np.frombuffer(content, kind).astype(np.float32)
    return _finite(values.reshape(shape), name)


def _finite(values: np.ndarray, name: str) -> np.ndarray:
    import numpy as np

    if not np.isfinite(values).all():
        raise bad(f"{name} has values that are not finite numbers of float32")
    return values


def texts_from_json(data: Any, shape: tuple[int, ...], name: str) -> list[bytes]:
    """The elements of type BYTES, from texts in base64.

    Raises:
        Refusal: one is no base64, or their count does not fit the shape.
    """
    flat = _flat(data, name)
    _check_count(len(flat), shape, name)
    decoded = []
    for number, text in enumerate(flat):
        if not isinstance(text, str):
            raise bad(f"data of {name} has {_kind(text)} at {number}; expected a text in base64")
        try:
            decoded.append(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError):
            raise bad(f"data of {name} at {number} is no base64; bytes in JSON are base64") from None
    return decoded


def texts_from_bytes(content: memoryview, shape: tuple[int, ...], name: str) -> list[bytes]:
    """The elements of type BYTES, each after its length.

    Raises:
        Refusal: a length reaches over the end, or their count does not fit the shape.
    """
    found, at = [], 0
    count = math.prod(shape)
    while at < len(content):
        if len(found) == count:
            raise bad(f"{name} has more bytes than its shape {list(shape)} needs")
        length = int.from_bytes(content[at : at + 4], "little")
        if at + 4 + length > len(content):
            raise bad(f"{name} states {length} bytes for element {len(found)}, but {len(content) - at - 4} are left")
        found.append(bytes(content[at + 4 : at + 4 + length]))
        at += 4 + length
    _check_count(len(found), shape, name)
    return found


def texts_to_bytes(texts: Sequence[bytes]) -> bytes:
    """Elements of type BYTES, each after its length."""
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
