"""Requests of the Open Inference Protocol v2: checks the body, which is JSON and perhaps the bytes of tensors."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hierax.serve.errors import refuse
from hierax.serve.protocol.tensors import (
    FLOATS,
    bad,
    numbers_from_bytes,
    numbers_from_json,
    shape_of,
    texts_from_bytes,
    texts_from_json,
)

if TYPE_CHECKING:
    import numpy as np

HEADER_LENGTH = "inference-header-content-length"
MOST_JSON = 32 << 20
"""Bytes of JSON in one request."""
MOST_VALUES = 2_000_000
"""Values in the JSON of a request or an answer. Reading and writing them stops all other threads, and each takes up to
64 bytes of memory; tensors as bytes do neither.
"""
_MOST_LISTS = 100_000


@dataclass(frozen=True)
class Given:
    """An input tensor: its name and shape, and its values in float32, or its elements of type BYTES."""

    name: str
    shape: tuple[int, ...]
    numbers: np.ndarray | None = None
    texts: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """A requested output: its name, whether as bytes, and for how many classes (0: the values themselves)."""

    name: str
    binary: bool = False
    classes: int = 0


@dataclass(frozen=True)
class InferRequest:
    """A request for an inference. `outputs` is None if the server chooses them; `binary` is for that case."""

    inputs: tuple[Given, ...]
    outputs: tuple[Wanted, ...] | None = None
    binary: bool = False
    id: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


def decompressed(content: bytes, encoding: str | None, limit: int) -> bytes:
    """The body without its compression.

    Args:
        encoding: of the header Content-Encoding: gzip, deflate, identity or none.
        limit: number of bytes that it may have.

    Raises:
        Refusal: the encoding is unknown (415), the bytes are damaged (400), or there are more than the limit (413).
    """
    kind = (encoding or "identity").strip().lower()
    if kind == "identity":
        return content
    if kind not in ("gzip", "x-gzip", "deflate"):
        raise refuse("unsupported_media", f"Content-Encoding is {kind[:40]!r}; expected gzip or deflate")
    reader = zlib.decompressobj(wbits=zlib.MAX_WBITS + (0 if kind == "deflate" else 16))
    try:
        opened = reader.decompress(content, limit + 1)
    except zlib.error:
        raise bad(f"the body is not {kind}, as its Content-Encoding states") from None
    if len(opened) > limit:
        raise refuse("too_large", f"the body has more than {limit} bytes when it is decompressed")
    if not reader.eof:
        raise bad(f"the body ends in the middle of its {kind}")
    return opened


def read_request(content: bytes, header_length: str | None) -> InferRequest:
    """A request from its body, decompressed.

    Args:
        header_length: of the header Inference-Header-Content-Length: the number of bytes that are JSON; the bytes of
            tensors follow. None: all is JSON.

    Raises:
        Refusal: it does not keep to the protocol; the message says where.
    """
    head = _header_bytes(content, header_length)
    parsed = _json(head)
    binary = memoryview(content)[len(head) :]
    listed = _list(parsed, "inputs")
    inputs, at = [], 0
    for entry in listed:
        given, size = _given(entry, binary[at:])
        inputs.append(given)
        at += size
    if at != len(binary):
        raise bad(f"{len(binary) - at} bytes after the JSON belong to no input; binary_data_size says which do")
    names = [given.name for given in inputs]
    if len(set(names)) != len(names):
        raise bad(f"inputs names {_twice(names)!r} twice")
    parameters = _object(parsed.get("parameters"), "parameters")
    whole = parameters.get("binary_data_output", False)
    if not isinstance(whole, bool):
        raise bad("binary_data_output is not a boolean")
    return InferRequest(tuple(inputs), _outputs(parsed, whole), whole, _text(parsed.get("id"), "id"), parameters)


def _header_bytes(content: bytes, stated: str | None) -> bytes:
    if stated is None:
        length = len(content)
    elif not stated.isascii() or not stated.isdigit() or int(stated[:20]) > len(content):
        raise bad(f"Inference-Header-Content-Length is {stated[:40]!r}; expected a number up to {len(content)}")
    else:
        length = int(stated)
    if length > MOST_JSON:
        raise refuse("too_large", f"the JSON has {length} bytes; at most {MOST_JSON}: send tensors as bytes")
    return content[:length]


def _no_constant(name: str) -> Any:
    raise bad(f"{name} is not a number of JSON")


def _json(head: bytes) -> dict[str, Any]:
    for most, what, marks in ((MOST_VALUES, "values", b","), (_MOST_LISTS, "lists and objects", b"[{")):
        if sum(head.count(mark) for mark in marks) > most:
            raise refuse("too_large", f"the JSON has more than {most:,} {what}; send tensors as bytes")
    try:
        parsed = json.loads(head.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise bad("the JSON is nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError is one
        raise bad(f"the request is no JSON ({str(error)[:120]})") from None
    if not isinstance(parsed, dict):
        raise bad("the request is JSON, but no object")
    return parsed


def _object(value: Any, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad(f"{name} is not an object")
    return value


def _list(parsed: Mapping[str, Any], name: str) -> list[Any]:
    value = parsed.get(name)
    if not isinstance(value, list) or not value:
        raise bad(f"{name} is missing or empty; expected a list of objects", name)
    return value


def _text(value: Any, name: str) -> str | None:
    if value is not None and (not isinstance(value, str) or len(value) > 1000):
        raise bad(f"{name} is not a text of at most 1000 characters")
    return value


def _twice(names: list[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def _refuse_shared_memory(parameters: Mapping[str, Any]) -> None:
    if any(name.startswith("shared_memory") for name in parameters):
        raise bad("this server shares no memory with its clients; send the tensors in the body")


def _name(entry: Any, where: str) -> str:
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not name or len(name) > 200:
        raise bad(f"an entry of {where} has no name; expected an object with a text `name`")
    return name


def _given(entry: Any, rest: memoryview) -> tuple[Given, int]:
    """An input, and how many of the bytes after the JSON are its own."""
    name = _name(entry, "inputs")
    shape = shape_of(entry.get("shape"), name)
    datatype = entry.get("datatype")
    if not isinstance(datatype, str) or datatype not in ("BYTES", *FLOATS):
        raise bad(f"datatype of {name} is {str(datatype)[:40]!r}; expected BYTES, {', '.join(FLOATS)}", name)
    parameters = _object(entry.get("parameters"), f"parameters of {name}")
    _refuse_shared_memory(parameters)
    size = parameters.get("binary_data_size")
    if size is None:
        if "data" not in entry:
            raise bad(f"{name} has neither data nor binary_data_size", name)
        if datatype == "BYTES":
            return Given(name, shape, texts=tuple(texts_from_json(entry["data"], shape, name))), 0
        return Given(name, shape, numbers_from_json(entry["data"], datatype, shape, name)), 0
    if "data" in entry:
        raise bad(f"{name} has both data and binary_data_size; expected one of them", name)
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(rest):
        raise bad(f"binary_data_size of {name} is {str(size)[:40]}; {len(rest)} bytes are left in the body", name)
    own = rest[:size]
    if datatype == "BYTES":
        return Given(name, shape, texts=tuple(texts_from_bytes(own, shape, name))), size
    return Given(name, shape, numbers_from_bytes(own, datatype, shape, name)), size


def _outputs(parsed: Mapping[str, Any], whole: bool) -> tuple[Wanted, ...] | None:
    if parsed.get("outputs") is None:
        return None
    found = [_wanted(entry, whole) for entry in _list(parsed, "outputs")]
    names = [wanted.name for wanted in found]
    if len(set(names)) != len(names):
        raise bad(f"outputs names {_twice(names)!r} twice")
    return tuple(found)


def _wanted(entry: Any, whole: bool) -> Wanted:
    name = _name(entry, "outputs")
    parameters = _object(entry.get("parameters"), f"parameters of {name}")
    _refuse_shared_memory(parameters)
    binary, classes = parameters.get("binary_data", whole), parameters.get("classification", 0)
    if not isinstance(binary, bool):
        raise bad(f"binary_data of {name} is not a boolean", name)
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 0:
        raise bad(f"classification of {name} is {str(classes)[:40]!r}; expected a whole number, at least 1", name)
    return Wanted(name, binary, classes)
