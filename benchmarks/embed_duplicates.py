"""Planted duplicates for embed_proofs.py: pictures of which no two are the same, copies of some; are these found?"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from embed_pictures import encoded, opened, opened_whole, pictures_below, place, shipped
from hierax import HieraModel, Preprocessing
from hierax.collection.duplicates import Group, duplicates
from hierax.collection.index import Index
from hierax.model.config import variant_config

KINDS = ("encoded again", "resized", "cropped", "all three")
WAYS: tuple[tuple[str, dict[str, Any], tuple[float, ...]], ...] = (
    ("as they are", {}, (0.999, 0.9995, 0.9999)),
    ("whitened", {"whiten": True}, (0.7, 0.8, 0.9, 0.95, 0.97, 0.98)),
    ("whitened, verified", {"whiten": True, "verify": True}, (0.3, 0.4, 0.5, 0.6, 0.7)),
)
"""How duplicates are looked for: a name, options of `duplicates`, thresholds."""
_FLAT = 12.0  # gray levels: a picture of less deviation shows nothing
_NEAR = 40  # bits of 256 that the difference hashes of two pictures differ by at the most where they may be one drawing
_LONGEST = 320
_CELL = 100  # pixels of the shorter side of a part
_LARGE, _CELL_OF_PHOTO = 480, 160  # pixels of the shorter side of a photo, and of its parts


def tiny(folder: Path) -> Path:
    """The tiny model with random weights, seeded."""
    if not folder.exists():
        torch.manual_seed(0)
        model = HieraModel(variant_config(name="hiera_tiny_224"))
        model.preprocessing = Preprocessing()
        model.save_pretrained(folder)
    return folder


# -- the pictures -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A cell of a grid of `cells` x `cells` over a source, shrunk or `whole`, and the signs of its difference hash."""

    source: Path
    cells: int
    number: int
    hash: np.ndarray
    whole: bool = False

    def picture(self) -> Image.Image:
        """Its pixels, at most 320 wide and high."""
        image = _cell((opened_whole if self.whole else opened)(self.source), self.cells, self.number)
        image.thumbnail((_LONGEST, _LONGEST))
        return image


def _cell(image: Image.Image, cells: int, number: int) -> Image.Image:
    width, height = image.width // cells, image.height // cells
    left, top = number % cells * width, number // cells * height
    return image.crop((left, top, left + width, top + height))


def parts_of(source: Path) -> list[Part]:
    """A source as a whole, its quarters, its sixteenths: those that show something and are large enough."""
    image, found = opened(source), []
    for cells in (1, 2, 4):
        if min(image.size) // cells < _CELL:
            break
        found += _shown(source, image, cells)
    return found


def photographs(folders: Sequence[Path]) -> list[Path]:
    """Large pictures below folders, of those that come in several sizes the largest: wallpapers of packages."""
    largest: dict[Path, tuple[int, Path]] = {}
    for path in (path for folder in folders for path in pictures_below(folder, least=_LARGE, most=None)):
        several = re.fullmatch(r"\d+x\d+", path.stem) is not None  # NAME/contents/images/1080x1920.jpg
        key = path.parents[2] if several else path
        with Image.open(path) as image:
            largest[key] = max(largest.get(key, (0, path)), (image.width * image.height, path))
    return [path for _, path in largest.values()]


def cells_of(source: Path) -> list[Part]:
    """The cells of a grid over a photo, about 160 pixels each way: no two overlap."""
    image = opened_whole(source)
    return _shown(source, image, min(image.size) // _CELL_OF_PHOTO, whole=True)


def _shown(source: Path, image: Image.Image, cells: int, *, whole: bool = False) -> list[Part]:
    """The cells that show something."""
    found = []
    for number in range(cells * cells):
        small = _cell(image, cells, number).convert("L").resize((17, 16), Image.Resampling.BOX)
        levels = np.asarray(small, np.float32)
        if levels.std() >= _FLAT:
            signs = np.where(levels[:, 1:] > levels[:, :-1] + 1, 1, -1).astype(np.int8)
            found.append(Part(source, cells, number, signs.reshape(-1), whole))
    return found


def distinct(parts: Sequence[Part]) -> list[Part]:
    """Without those that look like one before: packages ship many drawings in several versions."""
    hashes, kept = np.stack([part.hash for part in parts]).astype(np.float32), np.ones(len(parts), bool)
    for start in range(0, len(parts), 1024):
        alike = hashes[start : start + 1024] @ hashes[: start + 1024].T >= hashes.shape[1] - 2 * _NEAR
        near = np.argwhere(alike)
        kept[near[near[:, 1] < near[:, 0] + start, 0] + start] = False
    return [part for part, keep in zip(parts, kept, strict=True) if keep]


def changed(image: Image.Image, kind: str, generator: np.random.Generator) -> bytes:
    """A duplicate: encoded at a low quality, at 0.5 to 0.9 of its size, or without up to 3 % at each of its sides."""
    if kind in ("cropped", "all three"):
        left, right = generator.uniform(0, 0.03, 2) * image.width
        top, bottom = generator.uniform(0, 0.03, 2) * image.height
        image = image.crop((round(left), round(top), round(image.width - right), round(image.height - bottom)))
    if kind in ("resized", "all three"):
        scale = generator.uniform(0.5, 0.9)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    poor = kind in ("encoded again", "all three")
    suffix = (".jpg", ".webp")[generator.integers(2)] if poor else ".jpg"
    return encoded(image, suffix, quality=int(generator.integers(50, 80)) if poor else 90)


def write_planted(
    folder: Path, count: int, planted: int, *, extra: Sequence[Path], seed: int, photos: Sequence[Path] = (),
    jobs: int = 2,
) -> None:  # fmt: skip
    """Writes `count` pictures, or as many as differ, `planted` of them duplicates of others, and `truth.json`: pairs of
    paths with kinds. With `photos` they are cells of the large pictures below those folders, and of nothing else.
    """
    sources, cut = [*shipped(), *(path for one in extra for path in pictures_below(one, least=_CELL))], parts_of
    if photos:
        sources, cut = photographs(photos), cells_of
    with ProcessPoolExecutor(jobs) if jobs > 1 else contextlib.nullcontext() as pool:
        some = pool.map(cut, sources, chunksize=1 if photos else 32) if pool else map(cut, sources)
        parts = distinct([part for found in some for part in found])
        generator = np.random.default_rng(seed)
        if len(parts) < count - planted:
            count = len(parts) + min(planted, len(parts))
            print(f"{len(parts)} different parts in {len(sources)} pictures; name more with --extra", flush=True)
        planted = min(planted, count // 2)
        drawn = generator.permutation(len(parts))
        large_first = drawn[np.argsort([parts[row].cells for row in drawn], kind="stable")]
        chosen = np.sort(large_first[: count - planted])  # parts of a source follow each other: it is opened once
        names = generator.permutation(count)  # copies lie anywhere among the others
        copied = set(generator.choice(count - planted, planted, replace=False).tolist())
        copies = {original: count - planted + i for i, original in enumerate(sorted(copied))}
        tasks = [
            (parts[row], int(names[i]), int(names[copies[i]]) if i in copies else None, KINDS[copies.get(i, 0) % 4])
            for i, row in enumerate(chosen.tolist())
        ]
        work = partial(_write, folder / "pictures", seed)
        pairs = list(pool.map(work, tasks, chunksize=64) if pool else map(work, tasks))
    (folder / "truth.json").write_text(json.dumps([pair for pair in pairs if pair], indent=1))


def _write(folder: Path, seed: int, task: tuple[Part, int, int | None, str]) -> tuple[str, str, str] | None:
    part, number, copy, kind = task
    generator, image = np.random.default_rng([seed, number]), part.picture()
    paths = [place(folder, n, ".jpg") for n in (number, copy) if n is not None]
    contents = [encoded(image, ".jpg", quality=92), changed(image, kind, generator)]
    for path, content in zip(paths, contents, strict=False):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return (str(paths[0]), str(paths[1]), kind) if copy is not None else None


# -- whether they are found ---------------------------------------------------------------------------------------


def pairs_of(groups: Sequence[Group]) -> set[tuple[str, str]]:
    """The first picture of each group with every other."""
    return {(g.members[0].path, member.path) for g in groups for member in g.members[1:]}


def found_again(folder: Path, out: Path) -> bool:
    """Prints recall and precision over thresholds, as they are, whitened, and verified by pixels.

    Returns whether, whitened or verified, a recall of 0.9 is reached at a precision of 0.99.
    """
    truth = {tuple(sorted((one, other))): kind for one, other, kind in json.loads((folder / "truth.json").read_text())}
    index, good = Index(out), False
    print(f"{len(index)} pictures, {len(truth)} planted\n")
    print(f"| | threshold | recall | precision | {' | '.join(KINDS)} |\n|{'---|' * (4 + len(KINDS))}")
    for name, options, thresholds in WAYS:
        for threshold in thresholds:
            groups = duplicates(index, threshold=threshold, linkage="first", **options)
            found = {tuple(sorted(pair)) for pair in pairs_of(groups)}
            right = found & truth.keys()
            recall, precision = len(right) / len(truth), len(right) / max(len(found), 1)
            good |= recall >= 0.9 and precision >= 0.99
            counts, each = Counter(truth[pair] for pair in right), Counter(truth.values())
            shares = " | ".join(f"{counts[kind] / max(each[kind], 1):.2f}" for kind in KINDS)
            print(f"| {name} | {threshold} | {recall:.3f} | {precision:.3f} | {shares} |", flush=True)
    return good
