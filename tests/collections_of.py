"""Collections of made-up vectors, written through `hierax.collection.store`, and vectors that lie in clusters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hierax.collection.source import content_hash
from hierax.collection.store import Block, Column, Manifest, shard_path, source_id, write_shard


def manifest(width: int = 8, **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "model": "tiny",
        "weights": "0f0f",
        "config": {},
        "preprocessing": {},
        "columns": (Column("embedding", "pooled", (width,), "mean"),),
        "l2": False,
        "dtype": "float32",
        "precision": "fp32",
        "block": 50,
        "batch": 32,
        "inputs": (),
        "created": "2026-01-01",
        "version": "0",
    }
    return Manifest(**{**fields, **changes})


def collection(
    folder: Path,
    vectors: np.ndarray,
    *,
    listing: int = 0,
    block: int = 50,
    paths: Sequence[str] | None = None,
    hashes: Sequence[str] | None = None,
    **changes: Any,
) -> Path:
    """Writes vectors `[N, D]` as the rows of a listing, `block` to a shard. Rows are called `LISTING/NUMBER.jpg`."""
    folder.mkdir(parents=True, exist_ok=True)
    made = manifest(vectors.shape[1], block=block, **changes)
    made.write(folder)
    paths = paths or [f"{listing}/{i}.jpg" for i in range(len(vectors))]
    hashes = hashes or [hash_of(path) for path in paths]
    for number, start in enumerate(range(0, len(vectors), block)):
        some = slice(start, start + block)
        rows = {
            "id": [source_id(path) for path in paths[some]],
            "path": list(paths[some]),
            "width": [64] * len(paths[some]),
            "height": [48] * len(paths[some]),
            "hash": list(hashes[some]),
        }
        named = {column.name: vectors[some] for column in made.columns}
        shard_path(folder, Block(listing, number)).unlink(missing_ok=True)  # one that is there would stay
        write_shard(folder, Block(listing, number), rows, named, [], manifest=made)
    return folder


def hash_of(path: str) -> str:
    """That of the file, if there is one."""
    return content_hash(Path(path).read_bytes()) if Path(path).is_file() else f"hash of {path}"


def noise(count: int, width: int = 8, *, seed: int = 0) -> np.ndarray:
    """float32 `[count, width]`, normal."""
    return np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32)


def clustered(count: int, width: int, *, clusters: int, spread: float = 0.5, seed: int = 0) -> np.ndarray:
    """float32 `[count, width]` around centers of length 1, at a distance of about `spread`; as features of pictures do,
    clusters differ in size and in the directions in which they spread."""
    generator = np.random.default_rng(seed)
    centers = generator.standard_normal((clusters, width), dtype=np.float32)
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    inner = min(width, 32)
    basis = generator.standard_normal((clusters, inner), dtype=np.float32)
    shared = generator.standard_normal((inner, width), dtype=np.float32) / width**0.5
    share = generator.dirichlet(np.full(clusters, 2.0))
    which = generator.choice(clusters, count, p=share)
    steps = generator.standard_normal((count, inner), dtype=np.float32) * np.abs(basis[which])
    return centers[which] + spread * (steps / inner**0.5) @ shared


def unit(vectors: np.ndarray) -> np.ndarray:
    """Of length 1, rounded to float32 as they are kept, in float64 for exact sums."""
    wide = vectors.astype(np.float64)
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)
