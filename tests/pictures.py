"""Images to embed, and collections to compare; a plugin with the fixtures of the tests of `embed`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hierax import HieraModel, Preprocessing
from hierax.embedding import embed
from small import image_config, randomize

RECORD = Preprocessing(size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64})
COUNT, BAD = 44, {5: b"", 6: b"no picture", 30: b"\xff\xd8\xff broken"}
OPTIONS: dict[str, Any] = {"batch_size": 4, "block_size": 8, "workers": 0, "precision": "fp32", "backend": "torch"}


def pictures(folder: Path, count: int = COUNT) -> Path:
    """Writes pictures of several sizes, and files that are none; returns the folder."""
    draw = np.random.default_rng(0)
    for number in range(count):
        file = folder / ("a" if number < 20 else "b") / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        height, width = (int(n) for n in draw.integers(40, 140, 2))
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file)
        if number in BAD:
            file.write_bytes(BAD[number])
    return folder


def same(a: Path, b: Path) -> bool:
    """Whether two collections hold the same files, byte by byte, but for when they were made."""
    names = [sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file()) for out in (a, b)]
    alike = all(
        (a / n).read_bytes() == (b / n).read_bytes() for n in names[0] if n.suffix == ".parquet" and n in names[1]
    )
    return names[0] == names[1] and alike


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    made: Any = randomize(HieraModel(image_config()))
    made.preprocessing = RECORD
    made.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def whole(originals: Path, model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection that was made without interruption."""
    out = tmp_path_factory.mktemp("whole") / "features"
    embed([originals], out, model=model, **OPTIONS)
    return out
