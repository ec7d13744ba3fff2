"""The shards of a collection, as memory-mapped vectors of length 1.

`FOLDER/index/` contains a .npy file for every shard, with four bytes per number. Reading the vectors from parquet takes
15 times as long. These files can be deleted at any time. They are not written in a read-only folder.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from hierax.atomic import atomic_write
from hierax.collection.checked import DAMAGED, CollectionError, read_array, read_table
from hierax.collection.store import OK, Column, Manifest, Rows, read_rows, read_texts, schema
from hierax.folders import make_room

INDEX = "index"
_PIECE = 1 << 25  # number of bytes that are converted to float64 at the same time
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class RowInfo:
    """The id and path of a row of a collection, and facts about its image.

    Attributes:
        id, path: the id and path of the row.
        hash: hash of the bytes of the file.
        width, height: size of the image, in pixels.
        start, end: start and end of a segment of a video, in seconds.
    """

    id: str
    path: str
    hash: str
    width: int = 0
    height: int = 0
    start: float | None = None
    end: float | None = None


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows divided by their length, float32. A row of zeros, or with NaN or infinity, becomes zeros: it is similar to
    no other row.
    """
    result = np.empty(vectors.shape, np.float32)
    step = max(1, _PIECE // (8 * max(1, vectors.shape[1])))
    for start in range(0, len(vectors), step):
        wide = vectors[start : start + step].astype(np.float64)
        length = np.sqrt((wide * wide).sum(1, keepdims=True))
        good = np.isfinite(length) & (length > 0)
        result[start : start + step] = np.where(good, wide / np.where(good, length, 1), 0)
    return result


class Shard:
    """The valid rows of a shard that can be searched. Their vectors of length 1 are in a memory-mapped file, which is
    created if it is missing.

    The name of the mapped file contains the size and the time of the shard. So after any change of the shard, another
    file is created.

    Attributes:
        path: path of the shard.
        rows: number of rows.
        keys: uint64 `[rows]`, see `Index.keys`.
        left_out: the positions, among the valid rows, of rows with vectors that contain NaN, infinity, or only zeros.
            They are similar to no other row, and are never found.
    """

    def __init__(self, path: Path, column: Column, manifest: Manifest, *, place: Path) -> None:
        self.path, self._column, self._manifest, self._place = path, column, manifest, place
        self._stamp = self._now()
        vectors, self.keys, self.left_out = self._open()
        self.rows = len(vectors)

    def _now(self) -> str:
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            raise CollectionError(f"{self.path} no longer exists; open the index again") from None
        return f"{self.path.stem}.{self._column.name}.{stat.st_size:x}-{stat.st_mtime_ns:x}"

    def _check_unchanged(self) -> None:
        if self._now() != self._stamp:
            raise CollectionError(f"{self.path} has changed; open the index again")

    def vectors(self) -> np.ndarray:
        """The vectors, float32 `[rows, D]`.

        Raises:
            CollectionError: the shard is damaged, or has changed since the index was opened.
        """
        self._check_unchanged()
        with contextlib.suppress(*DAMAGED):
            vectors = read_array(self._place / f"{self._stamp}.npy", np.float32, 2, map=True)
            if vectors.shape == (self.rows, self._column.width):
                return vectors
        return self._open()[0]

    def columns(self) -> list[list[str]]:
        """The ids, the paths and the hashes of the rows.

        Raises:
            CollectionError: the shard is damaged, or has changed since the index was opened.
        """
        *columns, status = read_texts(self.path, "id", "path", "hash", "status")
        self._check_unchanged()  # after reading: else names of other rows could be read
        return [self._select(column, status) for column in columns]

    def _select(self, column: list[_Value], status: list[str], *, left_out: bool = False) -> list[_Value]:
        """The values of a column for the rows of the shard, or for the rows that were left out."""
        valid = [value for value, s in zip(column, status, strict=True) if s == OK]
        apart = set(self.left_out.tolist())
        if not apart and not left_out:
            return valid
        return [value for place, value in enumerate(valid) if (place in apart) == left_out]

    def names(self, places: np.ndarray) -> list[RowInfo]:
        """The names of the rows at these positions.

        Raises:
            CollectionError: as `columns`.
        """
        wanted = schema(self._manifest)
        names = ["id", "path", "hash", "width", "height", "start", "end", "status"]
        names = [name for name in names if name in wanted.names]
        *columns, status = (column.to_pylist() for column in read_table(self.path, wanted, names).columns)
        self._check_unchanged()
        columns = [self._select(column, status) for column in columns]
        return [RowInfo(*(column[place] for column in columns)) for place in places.tolist()]

    def names_left_out(self) -> list[str]:
        """The paths of the rows that were left out."""
        paths, status = read_texts(self.path, "path", "status")
        return self._select(paths, status, left_out=True)

    def _open(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The vectors, the keys, and the rows that are left out. They are read from the mapped files, or from the
        shard.
        """
        with contextlib.suppress(*DAMAGED):  # files that are missing or damaged are written again
            keys = read_array(self._place / f"{self._stamp}.keys.npy", np.uint64, 1)
            apart = read_array(self._place / f"{self._stamp}.apart.npy", np.int64, 1)
            vectors = read_array(self._place / f"{self._stamp}.npy", np.float32, 2, map=True)
            if vectors.shape == (len(keys), self._column.width):
                return vectors, keys, apart
        rows = read_rows(self.path, self._column, manifest=self._manifest)
        vectors = unit(rows.vectors)
        keys, good = _keys(rows, vectors), vectors.any(1)
        vectors, keys, apart = vectors[good], keys[good], np.flatnonzero(~good)
        with contextlib.suppress(OSError):  # no space on the disk, or no permission
            self._store(vectors, keys, apart)
        return vectors, keys, apart

    def _store(self, vectors: np.ndarray, keys: np.ndarray, apart: np.ndarray) -> None:
        make_room(self._place, folder=True)
        self._place.mkdir(exist_ok=True)
        for old in self._place.glob(f"{self.path.stem}.{self._column.name}.*"):
            if not old.name.startswith(self._stamp) and not old.is_dir():
                old.unlink(missing_ok=True)
        for name, array in (("npy", vectors), ("keys.npy", keys), ("apart.npy", apart)):
            path = self._place / f"{self._stamp}.{name}"
            make_room(path)
            with atomic_write(path) as part, part.open("wb") as file:
                np.save(file, array)


def _keys(rows: Rows, vectors: np.ndarray) -> np.ndarray:
    """A 64-bit hash for each row, computed from its id, the hash of its image, and its vector."""
    texts = ("\n".join(pair).encode(errors="surrogatepass") for pair in zip(rows.ids, rows.hashes, strict=True))
    keys = (hashlib.blake2b(t + v.tobytes(), digest_size=8).digest() for t, v in zip(texts, vectors, strict=True))
    return np.frombuffer(b"".join(keys), np.uint64)
