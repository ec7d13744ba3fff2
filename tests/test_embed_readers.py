"""The lines of docs/embed.md by which other packages read a collection: each gives the rows that stand."""

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collections_of import collection, noise
from hierax.collection.store import GONE, Manifest, mark, shards, source_id

DOCUMENT = Path(__file__).parent.parent / "docs" / "embed.md"
VECTORS = noise(60)


def line_for(package: str) -> str:
    """What the document says for a package."""
    text = DOCUMENT.read_text(encoding="utf-8")
    found = re.search(rf"^\| {package} \| `(.+)` \|$", text, flags=re.MULTILINE | re.IGNORECASE)
    assert found, f"docs/embed.md has no line for {package}"
    return found[1]


def columns(table: Any) -> tuple[list[str], np.ndarray]:
    """Paths and vectors of what a package read."""
    kind = type(table).__module__.partition(".")[0].strip("_")
    if kind == "duckdb":
        rows = table.fetchall()
        return [row[0] for row in rows], np.array([row[1] for row in rows], np.float32)
    paths, vectors = table["path"], table["embedding"]
    return list(paths), np.array([list(vector) for vector in vectors], np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("package", ["polars", "duckdb", "datasets"])
@pytest.mark.filterwarnings("ignore")  # theirs
def test_other_packages_read_the_rows_that_stand(
    package: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = pytest.importorskip(package)
    folder = collection(tmp_path / "features", VECTORS, dtype=dtype)
    mark(shards(folder)[0], {source_id("0/7.jpg"): GONE}, manifest=Manifest.read(folder))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    if package == "datasets":
        monkeypatch.setattr(importlib.import_module("datasets.config"), "HF_DATASETS_CACHE", tmp_path / "cache")
    paths, vectors = columns(eval(line_for(package), {package: module}))
    stand = [row for row in range(60) if row != 7]
    order = np.argsort([int(Path(path).stem) for path in paths])
    assert [paths[i] for i in order] == [f"0/{row}.jpg" for row in stand]
    np.testing.assert_array_equal(vectors[order], VECTORS[stand].astype(dtype).astype(np.float32))
