"""The folder of a collection: `manifest.json`, `listings/`, `data/` with one shard per block, and `errors.parquet`.

A block is a fixed range of sources of one listing. Its shard is written completely or not at all. Unreadable sources
are listed in the metadata of the shard, and for the whole collection in `errors.parquet`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hierax.atomic import atomic_write
from hierax.collection.checked import (
    CollectionError,
    arrow,
    check_manifest,
    damage_error,
    parquet,
    read_json,
    read_table,
    record_of,
    wrong,
)
from hierax.reprs.text import short_repr

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST, ERRORS, LISTINGS, DATA = "manifest.json", "errors.parquet", "listings", "data"
FORMAT = 1
MARK = "#t="
"""Separates the path of a video from the start of a segment in seconds (media fragments, W3C)."""
OK, GONE, REPLACED = "ok", "gone", "replaced"
_UNREADABLE = b"hierax.unreadable"
_DIGEST = re.compile("[0-9a-f]{64}")
_FEW = 4  # maximum number of differences between two collections that an error lists
_MUST_AGREE = ("model", "weights", "config", "preprocessing", "columns", "l2", "dtype", "precision")


def source_id(path: str) -> str:
    """The permanent id of a source: 16 hexadecimal digits of the hash of its path."""
    return hashlib.blake2b(os.fsencode(path), digest_size=8).hexdigest()


def path_text(path: str) -> str:
    """A path as the text that rows store. Bytes of a file name that are not valid text become \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Column:
    """A column of vectors.

    Attributes:
        name: "embedding" for the pooled features, otherwise the name of the layer: "stage3", "stage3_map".
        layer: "pooled", or the stage.
        shape: `[D]`; for a map `[D, h, w]`, which is flattened in the column.
        pooling: a text that states how the vector was computed from the tokens.
    """

    name: str
    layer: str
    shape: tuple[int, ...]
    pooling: str

    @property
    def width(self) -> int:
        """The number of values in each row."""
        return int(np.prod(self.shape))


@short_repr(hidden=("config", "preprocessing"))
@dataclass(frozen=True)
class Manifest:
    """How a collection was made. Collections with different fingerprints are never mixed.

    Attributes:
        model: the path or Hub id of the model; the name of its class if it was passed as an object.
        weights: digest of the weights.
        config: the configuration of the model.
        preprocessing: the preprocessing record of the model.
        columns: the columns of vectors.
        l2: whether vectors have length 1.
        dtype: dtype of the vectors in the shards, "float32" or "float16".
        precision: precision of the engine.
        block, batch: number of sources per shard, and per call of the engine.
        inputs: the sources that were requested, for updates.
        created: date and time.
        version: version of hierax. `inputs`, `created` and `version` are not part of the fingerprint.
        format: version of this file format.
        list_columns: names of columns in lists among the inputs, see `hierax.data.file_lists.open_list`.
    """

    model: str
    weights: str
    config: dict[str, Any]
    preprocessing: dict[str, Any]
    columns: tuple[Column, ...]
    l2: bool
    dtype: str
    precision: str
    block: int
    batch: int
    inputs: tuple[str, ...]
    created: str
    version: str
    format: int = FORMAT
    list_columns: dict[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """The digest of everything on which the vectors depend."""
        fields = asdict(self)
        text = json.dumps([fields[name] for name in _MUST_AGREE if name != "model"], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def column(self, name: str | None = None) -> Column:
        """The column with this name; None: the first.

        Raises:
            CollectionError: there is no such column; the message lists the columns.
        """
        found = [c for c in self.columns if name in (None, c.name, c.layer)]
        if not found:
            raise CollectionError(f"no column {name!r}; there are: {', '.join(c.name for c in self.columns)}")
        return found[0]

    def named(self, folder: Path) -> str:
        """The path or Hub id of the model.

        Raises:
            CollectionError: the model was passed as an object, so that `model` is only the name of its class; or the
                model no longer exists.
        """
        if self.model.isidentifier() and not Path(self.model).exists():
            raise CollectionError(
                f"{folder} was made by a {self.model} object, which has no name; pass its folder or Hub id with --model"
            )
        if Path(self.model).is_absolute() and not Path(self.model).exists():
            gone = f"{folder} was made by {self.model}, which no longer exists"
            raise CollectionError(f"{gone}; pass its new path with --model")
        return self.model

    def check_same(self, other: Manifest, *, folder: Path, advice: str = "choose another folder") -> None:
        """Raises `CollectionError` if the rows of the two cannot be compared; the message ends with `advice`."""
        if self.fingerprint == other.fingerprint:
            return
        ours, theirs = json.loads(json.dumps(asdict(self))), json.loads(json.dumps(asdict(other)))
        same = ours["weights"] == theirs["weights"]  # the configurations of two models differ anyway
        differ = [t for n in _MUST_AGREE if same or n != "config" for t in _differences(n, ours[n], theirs[n])]
        if len(differ) > _FEW:
            differ[_FEW:] = [f"and {len(differ) - _FEW} more differences"]
        raise CollectionError(f"{folder} was made in another way: {'; '.join(differ)}; {advice}")

    def write(self, folder: Path) -> None:
        """Writes `manifest.json` completely or not at all."""
        with atomic_write(folder / MANIFEST) as part:
            part.write_text(json.dumps({**asdict(self), "fingerprint": self.fingerprint}, indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Reads the manifest of a collection.

        Raises:
            CollectionError: the folder has no manifest, or its manifest is damaged or of a later version.
        """
        path = folder / MANIFEST
        if folder.is_file():
            raise CollectionError(f"{folder} is a file; expected a collection: a folder that hierax embed wrote")
        try:
            values = read_json(path)
        except (FileNotFoundError, NotADirectoryError):
            raise CollectionError(
                f"{folder}: no collection ({MANIFEST} is missing); hierax embed creates one"
            ) from None
        try:
            later = values.get("format")
            if not isinstance(later, int) or isinstance(later, bool) or later < 1:
                raise ValueError("format is missing" if later is None else wrong("format", later, f"at most {FORMAT}"))
            if later > FORMAT:
                raise CollectionError(f"{folder}: written by a later hierax ({values.get('version')}); update hierax")
            if not isinstance(values.pop("fingerprint", None), str):
                raise ValueError("fingerprint is missing or is not a text")
            manifest = record_of(cls, values)
            check_manifest(manifest)
        except CollectionError:
            raise
        except ValueError as error:
            raise damage_error(path, error) from None
        return manifest


def _differences(name: str, before: Any, now: Any) -> Iterator[str]:
    """Yields the differences between two values of a manifest; nested fields are compared one by one."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*before, *now)):
            yield from _differences(f"{name}.{key}", before.get(key), now.get(key))
    elif before != now:
        yield f"{name} was {_summarize(before)}, now {_summarize(now)}"


def _summarize(value: Any) -> str:
    """A short text for a value of a manifest: the names of columns, the first digits of a digest."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return ", ".join(f"{column['name']} {column['shape']}" for column in value)
    return repr(f"{value[:12]}…" if isinstance(value, str) and _DIGEST.fullmatch(value) else value)


@dataclass(frozen=True, order=True)
class Block:
    """A range of `manifest.block` sources of listing `listing`, which starts at `number * manifest.block`."""

    listing: int
    number: int

    @property
    def file(self) -> str:
        """The file name of the shard of the block."""
        return f"part-{self.listing:04}-{self.number:07}.parquet"


def shards(folder: Path) -> list[Path]:
    """The shards of a collection, in the order of its rows."""
    return sorted((folder / DATA).glob("part-*.parquet"))


def shard_path(folder: Path, block: Block) -> Path:
    """The path of the shard of a block. It may not exist yet."""
    return folder / DATA / block.file


def has_windows(manifest: Manifest) -> bool:
    """Whether the rows are segments of videos; otherwise they are images."""
    return bool(manifest.preprocessing.get("num_frames"))


def schema(manifest: Manifest) -> pa.Schema:
    """The columns of a shard, as a `pyarrow.Schema`."""
    pa = arrow()
    kind = pa.float16() if manifest.dtype == "float16" else pa.float32()
    fields = [
        ("id", pa.string()),
        ("path", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("hash", pa.string()),
        ("status", pa.string()),
    ]
    if has_windows(manifest):
        fields += [("start", pa.float64()), ("end", pa.float64())]
    vectors = [pa.field(c.name, pa.list_(kind, c.width)) for c in manifest.columns]
    return pa.schema([*(pa.field(name, of) for name, of in fields), *vectors])


@dataclass(frozen=True)
class Unreadable:
    """A source that could not be read."""

    id: str
    path: str
    hash: str
    error: str


def write_shard(
    folder: Path,
    block: Block,
    rows: Mapping[str, Sequence[Any]],
    vectors: Mapping[str, np.ndarray],
    unreadable: Sequence[Unreadable],
    *,
    manifest: Manifest,
) -> pa.Table:
    """Writes the rows of a block, and returns the table. `vectors` contains `[rows, width]` for each column."""
    pa = arrow()
    wanted = schema(manifest)
    arrays = {name: pa.array(rows[name], wanted.field(name).type) for name in wanted.names if name in rows}
    arrays["status"] = pa.array([OK] * len(rows["id"]), pa.string())
    for column in manifest.columns:
        flat = np.ascontiguousarray(vectors[column.name], np.dtype(manifest.dtype)).reshape(-1)
        arrays[column.name] = pa.FixedSizeListArray.from_arrays(pa.array(flat), column.width)
    table = pa.Table.from_arrays([arrays[name] for name in wanted.names], schema=wanted)
    path = shard_path(folder, block)
    path.parent.mkdir(exist_ok=True)  # does not create the folder of the collection again, if it was removed
    vectors_of = [c.name for c in manifest.columns]
    _write_table(table.replace_schema_metadata(_metadata(unreadable)), path, vectors_of, keep=True)
    return table


def _metadata(unreadable: Sequence[Unreadable]) -> dict[bytes, bytes]:
    return {_UNREADABLE: json.dumps([asdict(item) for item in unreadable]).encode()} if unreadable else {}


def _write_table(table: pa.Table, path: Path, vectors: Sequence[str], *, keep: bool = False) -> None:
    pa = arrow()
    compression = {n: "none" if n in vectors else "zstd" for n in table.column_names}
    compression |= {f"{n}.list.element": "none" for n in vectors}  # compression does not make floats smaller
    with atomic_write(path, keep=keep) as part:
        pa.parquet.write_table(table, part, use_dictionary=["status"], compression=compression)


def unreadable_of(shard: Path) -> list[Unreadable]:
    """The unreadable sources of a block.

    Raises:
        CollectionError: the shard is damaged.
    """
    pa = arrow()
    with parquet(shard, pa.schema([]), ()) as file:
        notes = (file.schema_arrow.metadata or {}).get(_UNREADABLE, b"[]")
        items = json.loads(notes)
        if not isinstance(items, list):
            raise ValueError(wrong("hierax.unreadable", items, "a list"))
        return [record_of(Unreadable, item, name=f"hierax.unreadable[{i}]") for i, item in enumerate(items)]


def write_errors(folder: Path) -> int:
    """Writes all unreadable sources to `errors.parquet`, in the order of the sources, and returns their number."""
    pa = arrow()
    found = [item for shard in shards(folder) for item in unreadable_of(shard)]
    names = ("id", "path", "hash", "error")
    table = pa.table({name: pa.array([getattr(item, name) for item in found], pa.string()) for name in names})
    with atomic_write(folder / ERRORS) as part:
        pa.parquet.write_table(table, part)
    return len(found)


def mark(shard: Path, statuses: Mapping[str, str], *, manifest: Manifest) -> None:
    """Sets the status of rows of a shard, by their ids, and removes the errors of these sources."""
    pa, wanted = arrow(), schema(manifest)
    table = read_table(shard, wanted, wanted.names)
    ids, before = table.column("id").to_pylist(), table.column("status").to_pylist()
    after = [statuses.get(name, now) if now == OK else now for name, now in zip(ids, before, strict=True)]
    notes = unreadable_of(shard)
    left = [item for item in notes if item.id not in statuses]
    if after == before and left == notes:
        return
    place = table.column_names.index("status")
    changed = table.set_column(place, "status", pa.array(after, pa.string()))
    _write_table(changed.replace_schema_metadata(_metadata(left)), shard, [c.name for c in manifest.columns])


def read_texts(shard: Path, *names: str) -> list[list[str]]:
    """Reads columns of text of a shard, such as "path" and "status".

    Raises:
        CollectionError: the shard is damaged.
    """
    pa = arrow()
    wanted = pa.schema([(name, pa.string()) for name in names])
    return [column.to_pylist() for column in read_table(shard, wanted, names).columns]


def hashes_of(shard: Path) -> dict[str, str]:
    """The hash of the bytes of each source with a valid row or an error, by its id."""
    rows = zip(*read_texts(shard, "id", "hash", "status"), strict=True)
    found = {name: digest for name, digest, status in rows if status == OK}
    return found | {item.id: item.hash for item in unreadable_of(shard)}


@dataclass(frozen=True)
class Rows:
    """The valid rows of one shard (status "ok").

    Attributes:
        ids, paths, hashes: of each row.
        vectors: float32 `[rows, width]`.
    """

    ids: list[str]
    paths: list[str]
    hashes: list[str]
    vectors: np.ndarray


def read_rows(shard: Path, column: Column, *, manifest: Manifest) -> Rows:
    """Reads the valid rows of a shard.

    Raises:
        CollectionError: the shard is damaged.
    """
    table = read_table(shard, schema(manifest), ["id", "path", "hash", "status", column.name])
    keep = np.array([status == OK for status in table.column("status").to_pylist()], bool)
    vectors = table.column(column.name).combine_chunks()
    flat = vectors.flatten().to_numpy(zero_copy_only=False)
    matrix = flat.reshape(len(keep), column.width).astype(np.float32, copy=False)
    names = [table.column(n).to_pylist() for n in ("id", "path", "hash")]
    if not keep.all():
        matrix = matrix[keep]
        names = [[value for value, stays in zip(values, keep, strict=True) if stays] for values in names]
    return Rows(names[0], names[1], names[2], matrix)
