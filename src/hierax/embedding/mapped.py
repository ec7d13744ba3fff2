"""The shards of a collection as mapped vectors of length 1.

`FOLDER/index/` holds them for every shard as a .npy, four bytes per number: reading the same from parquet takes 15
times as long. What lies there can be deleted at any time, and a folder that cannot be written to works without.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hierax.embedding.store import OK, CollectionError, Column, Manifest, Rows, opened, read_rows, replaced

INDEX = "index"
_PIECE = 1 << 25  # bytes of float64 at a time


@dataclass(frozen=True)
class Named:
    """What a row of a collection is called, and the hash of its picture."""

    id: str
    path: str
    hash: str


def unit(vectors: np.ndarray) -> np.ndarray:
    """float32 rows of length 1; rows of zeros, or with NaN or infinity, become zeros: they are like nothing."""
    found = np.empty(vectors.shape, np.float32)
    step = max(1, _PIECE // (8 * max(1, vectors.shape[1])))
    for start in range(0, len(vectors), step):
        wide = vectors[start : start + step].astype(np.float64)
        length = np.sqrt((wide * wide).sum(1, keepdims=True))
        good = np.isfinite(length) & (length > 0)
        found[start : start + step] = np.where(good, wide / np.where(good, length, 1), 0)
    return found


class Shard:
    """The rows of a shard that stand, with vectors of length 1 from the mapped file, which is made when it is missing.

    The name of the mapped file holds size and time of the shard: after any change it is another, and made again.
    """

    def __init__(self, path: Path, column: Column, manifest: Manifest, *, place: Path) -> None:
        self.path, self._column, self._manifest, self._place = path, column, manifest, place
        self._stamp = self._now()
        vectors, keys = self._open()
        self.rows, self.keys = len(vectors), keys

    def _now(self) -> str:
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            raise CollectionError(f"{self.path} is gone; open the index again") from None
        return f"{self.path.stem}.{self._column.name}.{stat.st_size:x}-{stat.st_mtime_ns:x}"

    def vectors(self) -> np.ndarray:
        """float32 `[rows, D]`.

        Raises:
            CollectionError: the shard is damaged, or has changed since the index was opened.
        """
        if self._now() != self._stamp:
            raise CollectionError(f"{self.path} has changed; open the index again")
        with contextlib.suppress(OSError, ValueError, EOFError):
            vectors = np.load(self._place / f"{self._stamp}.npy", mmap_mode="r")
            if vectors.dtype == np.float32 and vectors.shape == (self.rows, self._column.width):
                return vectors
        return self._open()[0]

    def columns(self) -> list[list[str]]:
        """Ids, paths and hashes of its rows.

        Raises:
            CollectionError: the shard is damaged.
        """
        with opened(self.path) as pa:
            table = pa.parquet.read_table(self.path, columns=["id", "path", "hash", "status"])
        *columns, status = (column.to_pylist() for column in table.columns)
        if status.count(OK) == len(status):
            return columns
        return [[value for value, s in zip(column, status, strict=True) if s == OK] for column in columns]

    def names(self, places: np.ndarray) -> list[Named]:
        """What the rows at these places are called."""
        ids, paths, hashes = self.columns()
        return [Named(ids[place], paths[place], hashes[place]) for place in places.tolist()]

    def _open(self) -> tuple[np.ndarray, np.ndarray]:
        """Vectors and keys: mapped, or from the shard."""
        with contextlib.suppress(OSError, ValueError, EOFError):  # missing, cut short or overwritten: made again
            keys = np.load(self._place / f"{self._stamp}.keys.npy")
            vectors = np.load(self._place / f"{self._stamp}.npy", mmap_mode="r")
            if vectors.dtype == np.float32 and vectors.shape == (len(keys), self._column.width):
                return vectors, keys
        rows = read_rows(self.path, self._column, manifest=self._manifest)
        vectors = unit(rows.vectors)
        keys = _keys(rows, vectors)
        with contextlib.suppress(OSError):  # no room, or no permission
            self._keep(vectors, keys)
        return vectors, keys

    def _keep(self, vectors: np.ndarray, keys: np.ndarray) -> None:
        self._place.mkdir(exist_ok=True)
        for old in self._place.glob(f"{self.path.stem}.{self._column.name}.*"):
            if not old.name.startswith(self._stamp):
                old.unlink(missing_ok=True)
        for name, array in ((f"{self._stamp}.npy", vectors), (f"{self._stamp}.keys.npy", keys)):
            with replaced(self._place / name) as part, part.open("wb") as file:
                np.save(file, array)


def _keys(rows: Rows, vectors: np.ndarray) -> np.ndarray:
    """64 bits per row that no other row has: of its id, of what was embedded, and of its vector."""
    texts = ("\n".join(pair).encode(errors="surrogatepass") for pair in zip(rows.ids, rows.hashes, strict=True))
    keys = (hashlib.blake2b(t + v.tobytes(), digest_size=8).digest() for t, v in zip(texts, vectors, strict=True))
    return np.frombuffer(b"".join(keys), np.uint64)
