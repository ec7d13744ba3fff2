"""What the tests of data share: small pictures and arrays, and writing them as folders, shards and tables."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hierax.data.dataset import Sample


def picture(height: int = 24, width: int = 32, *, seed: int = 0, channels: int = 3) -> Image.Image:
    """A smooth picture that no flip, turn or crop leaves as it is."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = random.uniform(1, 5, (channels, 2))
    planes = [127 + 60 * np.sin(a * x * 3 + c) + 60 * (y * b / 5 - 0.3) for c, (a, b) in enumerate(waves)]
    pixels = np.stack(planes, axis=2).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels if channels > 1 else pixels[:, :, 0])


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def write_pictures(folder: Path, *names: str) -> Path:
    """Another picture for each name; `x.jpg` is a JPEG."""
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(seed=seed).save(path)
    return folder


def write_tar(path: Path, members: Mapping[str, Any]) -> Path:
    """Bytes as they are, a number as text, other values as JSON."""
    with tarfile.open(path, "w") as shard:
        for name, value in members.items():
            data = value if isinstance(value, bytes) else str(value).encode()
            if name.endswith(".json") and not isinstance(value, (bytes, str)):
                data = json.dumps(value).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            shard.addfile(entry, io.BytesIO(data))
    return path


def write_parquet(path: Path, columns: Mapping[str, list[Any]], features: Mapping[str, Any] | None = None) -> Path:
    """A parquet file as the datasets library writes it."""
    import datasets

    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = datasets.Features(dict(features)) if features else None
    datasets.Dataset.from_dict(dict(columns), features=kinds).to_parquet(str(path))
    return path


class Listed:
    """A dataset of what it is given; an exception is a sample that cannot be read."""

    def __init__(self, contents: list[Any], labels: list[Any] | None = None, *, classes: int = 0) -> None:
        self.contents, self.targets = contents, labels
        self.classes = tuple(f"class {i}" for i in range(classes))
        self.arrays = any(isinstance(content, np.ndarray) for content in contents)
        self.videos = False

    def __len__(self) -> int:
        return len(self.contents)

    def sample(self, index: int) -> Sample:
        content = self.contents[index]
        if isinstance(content, Exception):
            raise content
        return Sample(f"s{index}", content, None if self.targets is None else self.targets[index])

    def labels(self) -> list[int] | None:
        return self.targets
