"""Entries of the cache with other contents than their name says are made again, by every runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines import plainly, tiny
from hierax.engine import Engine
from hierax.engine.cache import ArtifactCache
from small import pixels, relative


def options(backend: str, folder: Path) -> Any:
    return {"backend": backend, "precision": "fp32", "threads": 1, "cache_dir": folder}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder in which an engine of a backend has kept its model; each is made once."""
    done: dict[str, Path] = {}

    def make(backend: str) -> Path:
        if backend not in done:
            done[backend] = tmp_path_factory.mktemp(backend)
            model = tiny("features")
            with Engine(model, **options(backend, done[backend])) as engine:
                engine(pixels(model.config))
        return done[backend]

    return make


@pytest.mark.parametrize(
    "content", [b"", pytest.param(b"neither", marks=pytest.mark.slow), b"\xff" * 64], ids=["empty", "text", "bytes"]
)
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_what_the_runtime_cannot_read_is_made_again(
    backend: str, content: bytes, cache: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the right digest: an earlier fault, a disk, or another version may have written it."""
    model = tiny("features")
    x = pixels(model.config)
    shutil.copytree(cache(backend), tmp_path, dirs_exist_ok=True)
    (entry,) = tmp_path.glob("*.artifact")
    ArtifactCache(tmp_path).write(entry.stem, content)
    with Engine(model, **options(backend, tmp_path)) as engine:
        assert relative(engine(x).pooler_output, plainly(model, x).pooler_output) <= 1e-5
    assert "cannot be read and will be made again" in caplog.text
    found = ArtifactCache(tmp_path).read(entry.stem)
    assert found is not None
    assert len(found) > 1000
