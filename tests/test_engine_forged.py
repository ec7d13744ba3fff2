"""Entries of the cache with other contents than their name says are made again, by every runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engines import plainly, tiny
from hierax.engine import Engine
from hierax.engine.cache import ArtefactCache
from small import pixels, relative


@pytest.mark.parametrize("content", [b"", b"neither", b"\xff" * 64])
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_what_the_runtime_cannot_read_is_made_again(
    backend: str, content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the right digest: an earlier fault, a disk, or another version may have written it."""
    model = tiny("features")
    x = pixels(model.config)
    options: Any = {"backend": backend, "precision": "fp32", "threads": 1, "cache_dir": tmp_path}
    with Engine(model, **options) as engine:
        engine(x)
    (entry,) = tmp_path.glob("*.artefact")
    ArtefactCache(tmp_path).write(entry.stem, content)
    with Engine(model, **options) as engine:
        assert relative(engine(x).pooler_output, plainly(model, x).pooler_output) <= 1e-5
    assert "cannot be read and will be made again" in caplog.text
    found = ArtefactCache(tmp_path).read(entry.stem)
    assert found is not None
    assert len(found) > 1000
