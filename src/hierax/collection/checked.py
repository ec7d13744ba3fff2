"""Reads the files of a collection, and checks them before they are used.

A folder may be damaged, or may come from another person. Sizes are compared with the size of the file before memory is
allocated. Types and values must be those that `embed` writes. Only regular files are opened. Every problem is one error
that names the file and the field.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import struct
import types
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Union, get_args, get_origin, get_type_hints

import numpy as np

from hierax.extras import load
from hierax.processing.paths import opened_regular

if TYPE_CHECKING:
    import pyarrow as pa

DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    MemoryError,
    RecursionError,
    SyntaxError,
    OverflowError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)
"""Errors that a missing or damaged file of `index/` causes. The file is then written again."""
_REMAKE = "; delete it, and hierax embed creates it again"
_NAME = re.compile("[A-Za-z0-9_]{1,100}")
_DEEPEST, _LARGEST = 32, 1 << 28  # maximum depth of a record; maximum bytes of manifest.json, and numbers in a row
_TEXT = 1 << 16  # maximum bytes of text per row, on average
_SPARE = 1 << 26  # bytes that are allowed in addition


class CollectionError(ValueError):
    """A folder is not a collection, or is damaged, or was made with other settings. The message names the
    difference.
    """


def arrow() -> Any:
    """The package pyarrow, with its module for parquet.

    Raises:
        ImportError: the package is missing; the message names the extra.
    """
    load("a collection of features", "pyarrow.parquet")
    return load("a collection of features", "pyarrow")


def damage_error(file: Path, problem: object, advice: str = "") -> CollectionError:
    """The error for a damaged file of a collection. `problem` names the field, its value and what is expected."""
    text = " ".join(str(problem).split())
    return CollectionError(f"{file} is damaged: {text[:300]}{advice}")


def wrong(name: str, value: object, expected: str) -> str:
    """The text of an error about a field with a wrong value."""
    return f"{name} is {value!r:.100}; expected {expected}"


# -- manifest.json ------------------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        FileNotFoundError: there is no such file.
        CollectionError: it is not a regular file, or is too large, or does not contain a JSON object.
    """
    try:
        with opened_regular(path) as file:
            if os.fstat(file.fileno()).st_size > _LARGEST:
                raise ValueError(f"more than {_LARGEST:,} bytes")
            values = json.loads(file.read())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise damage_error(path, getattr(error, "strerror", None) or error) from None
    if not isinstance(values, dict):
        raise damage_error(path, f"it contains {type(values).__name__}; expected an object")
    if _depth(values) > _DEEPEST:
        raise damage_error(path, f"nested more than {_DEEPEST} levels deep")
    return values


def _depth(values: Any) -> int:
    depth, level = 0, [values]
    while level:
        depth += 1
        level = [v for part in level if isinstance(part, (dict, list)) for v in _parts(part)]
    return depth


def _parts(part: dict[str, Any] | list[Any]) -> Sequence[Any]:
    return list(part.values()) if isinstance(part, dict) else part


def record_of(kind: type[Any], values: Any, *, name: str = "") -> Any:
    """Builds a dataclass with plain fields (strings, numbers, dataclasses, lists of these) from JSON values.

    Raises:
        ValueError: a field is missing, or unknown, or of another type; the message names it.
    """
    if not isinstance(values, dict):
        raise ValueError(wrong(name or "it", values, "an object"))
    hints, prefix = get_type_hints(kind), f"{name}." if name else ""
    unknown = sorted(values.keys() - hints.keys())
    if unknown:
        raise ValueError(f"{prefix}{unknown[0]} is not a field")
    found = {}
    for field in fields(kind):
        if field.name in values:
            found[field.name] = _convert(values[field.name], hints[field.name], prefix + field.name)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{prefix}{field.name} is missing")
    return kind(**found)


_WORDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", dict: "an object"}


def _convert(value: Any, hint: Any, name: str) -> Any:
    """A JSON value, converted to a field of this type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return None if value is None else _convert(value, next(a for a in arguments if a is not type(None)), name)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(wrong(name, value, "a list"))
        return tuple(_convert(item, arguments[0], f"{name}[{i}]") for i, item in enumerate(value))
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return record_of(hint, value, name=name)
    if origin is dict and isinstance(value, dict):
        return {key: _convert(item, arguments[1], f"{name}.{key}") for key, item in value.items()}
    kind = origin or hint
    fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if not fits:
        raise ValueError(wrong(name, value, _WORDS[kind]))
    return value


def check_manifest(manifest: Any) -> None:
    """Raises `ValueError` if a value of a `Manifest` is impossible; the message names the field."""
    from hierax.processing.record import MOST_PIXELS, Preprocessing

    for name in ("block", "batch"):
        if getattr(manifest, name) < 1:
            raise ValueError(wrong(name, getattr(manifest, name), "at least 1"))
    if manifest.dtype not in ("float32", "float16"):
        raise ValueError(wrong("dtype", manifest.dtype, "float32 or float16"))
    if not manifest.columns:
        raise ValueError("columns is empty; expected at least one")
    seen = {"id", "path", "width", "height", "hash", "status", "start", "end"}
    for i, column in enumerate(manifest.columns):
        if not _NAME.fullmatch(column.name) or column.name in seen:
            raise ValueError(wrong(f"columns[{i}].name", column.name, "letters, digits and _, each name once"))
        if min(column.shape, default=0) < 1 or math.prod(column.shape) > _LARGEST:
            raise ValueError(wrong(f"columns[{i}].shape", list(column.shape), f"1 to {_LARGEST:,} numbers"))
        seen.add(column.name)
    if manifest.preprocessing:
        try:
            record = Preprocessing.from_dict(manifest.preprocessing)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"preprocessing: {error}") from None
        for field in ("size", "crop_size"):
            edges = getattr(record, field)
            if max(edges.values()) ** 2 > MOST_PIXELS:
                raise ValueError(wrong(f"preprocessing.{field}", edges, f"at most {MOST_PIXELS:,} pixels"))


# -- parquet: shards and listings ---------------------------------------------------------------------------------


@contextlib.contextmanager
def parquet(path: Path, wanted: pa.Schema, names: Sequence[str], *, advice: str = _REMAKE) -> Iterator[Any]:
    """Opens a parquet file with these columns. Every error inside the `with` block means that the file is damaged.

    Raises:
        CollectionError: the file is damaged or not a regular file, or a column is missing or of another type.
    """
    pa = arrow()
    try:
        with opened_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            # not with a Python file: threads of pyarrow that call Python abort the process when it exits
            with pa.OSFile(os.fspath(path)) as native, pa.parquet.ParquetFile(native, pre_buffer=False) as table:
                _check_columns(table, wanted, names, size)
                yield table
    except CollectionError:
        raise
    except (pa.ArrowException, *DAMAGED) as error:
        problem = getattr(error, "strerror", None) or error
        raise damage_error(path, problem if str(problem) else type(error).__name__, advice) from None


def read_table(path: Path, wanted: pa.Schema, names: Sequence[str]) -> pa.Table:
    """Reads columns of a shard, which must not have nulls.

    Raises:
        CollectionError: the shard is damaged; the message names the column.
    """
    with parquet(path, wanted, names) as file:
        table = file.read(columns=list(names), use_threads=False)
        table.validate(full=True)  # checks that offsets are inside, and that strings are valid
        for name in names:
            column = table.column(name)
            values = column.combine_chunks().flatten() if name in _vectors(wanted) else column
            if column.null_count or values.null_count:
                raise ValueError(f"column {name} has nulls; expected a value in every row")
        return table


def _vectors(wanted: pa.Schema) -> list[str]:
    return [field.name for field in wanted if arrow().types.is_fixed_size_list(field.type)]


def _check_columns(file: Any, wanted: pa.Schema, names: Sequence[str], size: int) -> None:
    """Raises `ValueError` unless these columns have the expected types, and can be stored in a file of this size."""
    present, metadata = file.schema_arrow, file.metadata
    for name in names:
        indices = present.get_all_field_indices(name)
        if len(indices) != 1:
            raise ValueError(f"column {name} is {'present more than once' if indices else 'missing'}")
        kind, expected = present.field(indices[0]).type, wanted.field(name).type
        vector = arrow().types.is_fixed_size_list(expected)
        if kind != expected and not (vector and _is_alike(kind, expected)):
            raise ValueError(f"column {name} is {kind}; expected {expected}")
        if vector and metadata.num_rows * expected.list_size * expected.value_type.bit_width // 8 > size:
            raise ValueError(f"column {name} has {metadata.num_rows:,} rows, which do not fit into {size:,} bytes")
    # The sizes of columns are not requested: pyarrow ends the process if the statistics of a column are damaged.
    stated = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    if stated > _SPARE + size + metadata.num_rows * _TEXT or metadata.num_rows > _SPARE + 8 * size:
        raise ValueError(
            f"its header states {stated:,} bytes in {metadata.num_rows:,} rows, which do not fit into {size:,} bytes"
        )


def _is_alike(kind: pa.DataType, expected: pa.DataType) -> bool:
    """Whether a list has the same number of elements of the same type; the name of the elements may differ."""
    fixed = arrow().types.is_fixed_size_list(kind)
    return fixed and (kind.list_size, kind.value_type) == (expected.list_size, expected.value_type)


# -- numpy: the files of index/ -----------------------------------------------------------------------------------


def read_array(path: Path, dtype: Any, axes: int, *, map: bool = False) -> np.ndarray:
    """Reads an array that `np.save` wrote; with `map` it is mapped from disk.

    Raises:
        one of DAMAGED: the file does not contain such an array. Memory use is limited by the size of the file.
    """
    with opened_regular(path) as file:
        shape, start = _header(file, dtype, axes, os.fstat(file.fileno()).st_size)
        if map and math.prod(shape):
            return np.memmap(file, dtype, "r", offset=start, shape=shape)
        return np.frombuffer(file.read(), dtype).reshape(shape)


def _header(file: BinaryIO, dtype: Any, axes: int, size: int) -> tuple[tuple[int, ...], int]:
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("unknown version of the .npy format")
    shape, fortran, kind = np.lib.format.read_array_header_1_0(file)
    start = file.tell()
    if kind != np.dtype(dtype) or len(shape) != axes or (fortran and axes > 1) or min(shape, default=0) < 0:
        raise ValueError(f"{kind} {shape}; expected {np.dtype(dtype)} of {axes} axes")
    if start + math.prod(shape) * kind.itemsize != size:
        raise ValueError(f"{shape} does not fit the size of the file")
    return shape, start


def read_arrays(path: Path, wanted: Mapping[str, tuple[Any, int]]) -> dict[str, np.ndarray]:
    """Reads arrays from an .npz file that `np.savez` wrote. `wanted` states the dtype and number of axes of each name.

    Raises:
        one of DAMAGED: the file does not contain these arrays.
    """
    with opened_regular(path) as file, zipfile.ZipFile(file) as content:
        found = {}
        for name, (dtype, axes) in wanted.items():
            entry = content.getinfo(f"{name}.npy")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{name} is compressed")
            data = content.read(entry)
            shape, start = _header(io.BytesIO(data), dtype, axes, len(data))
            found[name] = np.frombuffer(data[start:], dtype).reshape(shape)
        return found
