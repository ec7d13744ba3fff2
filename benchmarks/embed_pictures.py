"""Real pictures to measure `hierax embed` with: crops and copies of what packages ship, and broken files.

Sources are the photos and drawings of scikit-image, scikit-learn, matplotlib and hierax itself where these are
installed, and folders that are named. All is decided by a seed: the same sources make the same files.
"""

from __future__ import annotations

import importlib.util
import io
import math
import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

SHIPPED = (
    ("skimage", "data"),
    ("sklearn", "datasets/images"),
    ("matplotlib", "mpl-data/sample_data"),
    ("hierax", "assets"),
)
SUFFIXES = (".png", ".jpg", ".jpeg")
LEAST, MOST = 200, 4_000_000  # pixels of the shorter side of a source, and of all of it
FORMATS = (".jpg", ".jpg", ".jpg", ".jpg", ".png", ".webp", ".gif", ".bmp")
_CHUNK = 200
_FOLDER = 1000  # files in one folder


@cache
def shipped() -> tuple[Path, ...]:
    """The pictures of installed packages, in the order of `SHIPPED` and by name; of hierax, the cat."""
    found: list[Path] = []
    for package, folder in SHIPPED:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            below = pictures_below(Path(spec.origin).parent / folder)
            found += [path for path in below if package != "hierax" or path.name == "cat.jpg"]
    return tuple(found)


def pictures_below(folder: Path, *, least: int = LEAST, most: int | None = MOST) -> list[Path]:
    """Those of at least `least` pixels each way, by name; larger ones than `most` pixels in all are left out."""
    return [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES and _fits(path, least, most)]


def _fits(path: Path, least: int, most: int | None) -> bool:
    try:
        with Image.open(path) as image:
            return min(image.size) >= least and image.width * image.height <= (most or math.inf)
    except (OSError, Image.DecompressionBombError, Image.DecompressionBombWarning):  # a dangling link, 231 megapixels
        return False


@lru_cache(maxsize=48)
def opened(path: Path) -> Image.Image:
    """A source in RGB, on white where it is transparent, at most 1200 pixels wide and high."""
    with Image.open(path) as image:
        image.thumbnail((1200, 1200))
        return on_white(image)


@lru_cache(maxsize=1)
def opened_whole(path: Path) -> Image.Image:
    """A source in RGB, on white where it is transparent."""
    with Image.open(path) as image:
        return on_white(image)


def on_white(image: Image.Image) -> Image.Image:
    """A picture in RGB, on white where it is transparent."""
    whole = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")


def crop(image: Image.Image, generator: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A part of a picture at a random place and scale, of the shape of `size`, resized to it."""
    ratio = size[0] / size[1]
    height = min(image.height, image.width / ratio) * generator.uniform(0.3, 1.0)
    width = height * ratio
    left, top = generator.uniform(0, image.width - width), generator.uniform(0, image.height - height)
    box = (left, top, left + width, top + height)
    return image.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)


def encoded(image: Image.Image, suffix: str, *, quality: int = 85) -> bytes:
    """The bytes of a file of this kind."""
    content = io.BytesIO()
    options = {".jpg": {"quality": quality}, ".webp": {"quality": quality, "method": 0}, ".png": {"compress_level": 1}}
    image.save(content, {".jpg": "JPEG"}.get(suffix, suffix[1:].upper()), **options.get(suffix, {}))
    return content.getvalue()


# -- files that are none ------------------------------------------------------------------------------------------


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _giant(_: Image.Image) -> bytes:
    header = struct.pack(">IIBBBBB", 90_000, 90_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + _chunk(b"IEND", b"")
    )


def _damaged(image: Image.Image) -> bytes:
    content = bytearray(encoded(image, ".png"))
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(byte ^ 0xA5 for byte in content[middle : middle + 64])
    return bytes(content)


def _half(image: Image.Image, suffix: str) -> bytes:
    content = encoded(image, suffix)
    return content[: len(content) // 2]


BROKEN: dict[str, tuple[str, Callable[[Image.Image], bytes | None]]] = {
    "empty": (".jpg", lambda _: b""),
    "text": (".jpg", lambda _: b"These are notes, not a picture.\n" * 20),
    "jpeg cut short": (".jpg", lambda image: _half(image, ".jpg")),
    "png cut short": (".png", lambda image: _half(image, ".png")),
    "zeros": (".jpg", lambda image: bytes(len(encoded(image, ".jpg")))),
    "wrong magic": (".jpg", lambda image: b"XXXX" + encoded(image, ".jpg")[4:]),
    "html": (".jpg", lambda _: b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>\n"),
    "dangling link": (".jpg", lambda _: None),
    "png damaged": (".png", _damaged),
    "giant header": (".png", _giant),
}
"""Kinds of files that cannot be read: the suffix, and the bytes made of a picture (None: a link to nowhere)."""


# -- folders of files ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    """What a process writes: files by number."""

    folder: Path
    numbers: range
    count: int
    photos: tuple[Path, ...]
    drawings: tuple[Path, ...]
    broken: dict[int, str]
    seed: int


def place(folder: Path, number: int, suffix: str) -> Path:
    """Where the file of this number lies."""
    return folder / f"{number // _FOLDER:03}" / f"{number:06}{suffix}"


def write_pictures(
    folder: Path, count: int, *, broken: int, extra: Sequence[Path] = (), seed: int = 0, jobs: int = 2
) -> dict[str, str]:
    """Writes `count` pictures and `broken` files that are none, in an order that mixes them.

    Half of the pictures come from installed packages, half from the folders `extra`. One in ten is a copy of a source,
    the others are crops of 90 to 500 pixels each way.

    Returns:
        Kinds by path of the broken files.
    """
    photos = shipped()
    drawings = tuple(path for place_ in extra for path in pictures_below(place_)) or photos
    total = count + broken
    where = np.random.default_rng([seed, 1]).choice(total, broken, replace=False).tolist()
    kinds = {number: list(BROKEN)[i % len(BROKEN)] for i, number in enumerate(where)}
    tasks = [
        _Task(folder, range(start, min(start + _CHUNK, total)), total, photos, drawings,
              {n: kinds[n] for n in range(start, min(start + _CHUNK, total)) if n in kinds}, seed)
        for start in range(0, total, _CHUNK)
    ]  # fmt: skip
    if jobs == 1:
        list(map(_write, tasks))
    else:
        with ProcessPoolExecutor(jobs) as pool:
            list(pool.map(_write, tasks))
    return {str(place(folder, number, BROKEN[kind][0])): kind for number, kind in sorted(kinds.items())}


def _write(task: _Task) -> None:
    for number in task.numbers:
        generator = np.random.default_rng([task.seed, 2, number])
        drawn = number % 2 == 1  # drawings follow each other, so that each is opened once
        source = task.drawings[number * len(task.drawings) // task.count] if drawn else task.photos[
            generator.integers(len(task.photos))
        ]  # fmt: skip
        suffix = FORMATS[generator.integers(len(FORMATS))]
        size = (int(generator.integers(90, 501)), int(generator.integers(90, 501)))
        kind = task.broken.get(number)
        if kind is None and generator.random() < 0.1:
            path = place(task.folder, number, source.suffix.lower())
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, path)
            continue
        image = crop(opened(source), generator, size)
        content = encoded(image, suffix) if kind is None else BROKEN[kind][1](image)
        path = place(task.folder, number, suffix if kind is None else BROKEN[kind][0])
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.symlink_to("nowhere.jpg")
        else:
            path.write_bytes(content)
