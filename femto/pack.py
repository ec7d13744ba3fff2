"""Packs the pictures that femto is trained and measured on into one file, small enough to send to a machine with a GPU.

    nice python femto/pack.py PICTURES PACK [--budget-mib 48]

PICTURES is the folder of femto/pictures.py. PACK gets `pictures.bin`, which contains the pictures as WebP one after
the other, and `index.json`, which says for each picture where it is and what it is. Pictures for training are there
once: transparent ones have an alpha channel, so that each crop can get another background. Pictures of val, test and
held-out photos are stored as they are in PICTURES, with a higher quality. No picture for training is in a group with
one of these. The quality is the highest that fits the budget. The same pictures and the same Pillow give the same file.
"""

import argparse
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from split import Item, Row, free_of, is_photo

HELD_QUALITY = 80  # of WebP, for the pictures that are measured on
QUALITIES = (1, 95)  # for training
SAMPLE = 300  # pictures by which the quality is chosen
SUFFIXES = (".png", ".jpg")
TRAIN, HELD = "train", {"labeled/val": "val", "labeled/test": "test", "held_out_photos": "held-out"}


@dataclass(frozen=True)
class Picture:
    """A picture that is to be packed; `category` is empty if it has no label."""

    name: str
    path: Path
    split: str
    category: str
    transparent: bool
    photo: bool


@dataclass(frozen=True)
class Entry:
    """A picture in a pack: its place in the file in bytes, its size in pixels, and what it is."""

    name: str
    offset: int
    size: int
    width: int
    height: int
    split: str
    category: str
    transparent: bool
    photo: bool


class Pack:
    """A pack that was written before: `entries`, and each picture by its name.

    Raises:
        ValueError: the file has another size than the index says.
        OSError: it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text())
        self.entries = [Entry(**entry) for entry in index["pictures"]]
        self.categories: list[str] = index["categories"]
        self._content = (folder / "pictures.bin").read_bytes()
        expected = sum(entry.size for entry in self.entries)
        if len(self._content) != expected:
            raise ValueError(
                f"{folder / 'pictures.bin'} has {len(self._content)} bytes; the index expects {expected}. Copy it again"
            )
        self._by_name = {entry.name: entry for entry in self.entries}

    def split(self, name: str) -> list[Entry]:
        """The entries of "train", "val", "test" or "held-out", in the order of their names."""
        return [entry for entry in self.entries if entry.split == name]

    def content(self, name: str) -> bytes:
        """The WebP file of a picture; `KeyError` if there is none of this name."""
        entry = self._by_name[name]
        return self._content[entry.offset : entry.offset + entry.size]

    def picture(self, name: str) -> Image.Image:
        """A picture, RGBA if it is transparent and RGB if not."""
        picture = Image.open(io.BytesIO(self.content(name)))
        return picture.convert("RGBA" if self._by_name[name].transparent else "RGB")


def encoded(picture: Picture, *, quality: int) -> tuple[bytes, int, int]:
    """A picture as WebP, and its width and height."""
    from fetch_drawings import flattened

    with Image.open(picture.path) as file:
        image = file.convert("RGBA") if picture.transparent else flattened(file.convert("RGBA"))
    written = io.BytesIO()
    chosen = quality if picture.split == TRAIN else HELD_QUALITY
    image.save(written, "WEBP", quality=chosen, alpha_quality=min(chosen, 50), method=4)
    width, height = image.size
    return written.getvalue(), width, height


def trained_on(free: Sequence[Item], rows: Mapping[str, Row], crops: Path) -> Iterator[Picture]:
    """The pictures for training: each of `free` once, and the crops of its large photos in the folder `crops`."""
    for item in free:
        row = rows.get(item.mark[:16])
        category = row.category if row and row.split == TRAIN else ""
        yield Picture(item.name, item.cut, TRAIN, category, item.transparent, item.photo)
        if item.photo:
            for path in sorted(crops.glob(f"{item.name}-[2-6]-[0-9][0-9].jpg")):
                yield Picture(path.stem, path, TRAIN, "", False, True)


def held_out(folder: Path) -> Iterator[Picture]:
    """The pictures of val and test, and the held-out photos."""
    for place, split in HELD.items():
        for path in sorted(path for path in (folder / place).rglob("*") if path.suffix in SUFFIXES):
            category = path.parent.name if place.startswith("labeled") else ""
            yield Picture(f"{split}/{path.stem}", path, split, category, False, is_photo(path.name))


def fitting(pictures: Sequence[Picture], budget: int, pool: Executor) -> int:
    """The highest quality with which a sample says that all pictures fit into `budget` bytes."""
    sampled = pictures[:: max(len(pictures) // SAMPLE, 1)]
    low, high = QUALITIES
    while low < high:
        middle = (low + high + 1) // 2
        sizes = [len(data) for data, _, _ in pool.map(partial(encoded, quality=middle), sampled, chunksize=16)]
        low, high = (middle, high) if sum(sizes) * len(pictures) / len(sampled) <= budget else (low, middle - 1)
    return low


def write_pack(folder: Path, pictures: Sequence[Picture], budget: int, pool: Executor) -> dict[str, Any]:
    """Writes the pack of at most `budget` bytes, and returns its index without the pictures. `pool` encodes them.

    Raises:
        ValueError: two pictures have one name.
        SystemExit: the pictures do not fit the budget at the lowest quality.
    """
    pictures = sorted(pictures, key=lambda picture: (picture.split, picture.name))
    names = [picture.name for picture in pictures]
    twice = next((name for name, after in pairwise(names) if name == after), None)
    if twice:
        raise ValueError(f"two pictures have the name {twice}")
    quality = fitting(pictures, budget, pool)
    while True:
        found = list(pool.map(partial(encoded, quality=quality), pictures, chunksize=32))
        total = sum(len(data) for data, _, _ in found)
        if total <= budget:
            break
        if quality == QUALITIES[0]:
            raise SystemExit(f"the pictures need {total} bytes; --budget-mib allows {budget}")
        quality -= 1
    entries, offset = [], 0
    for picture, (data, width, height) in zip(pictures, found, strict=True):
        about = {name: value for name, value in vars(picture).items() if name != "path"}
        entries.append(asdict(Entry(offset=offset, size=len(data), width=width, height=height, **about)))
        offset += len(data)
    categories = sorted({picture.category for picture in pictures if picture.category})
    head = {"quality": quality, "held_out_quality": HELD_QUALITY, "bytes": total, "categories": categories}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pictures.bin").write_bytes(b"".join(data for data, _, _ in found))
    (folder / "index.json").write_text(json.dumps({**head, "pictures": entries}) + "\n")
    return head


def collected(folder: Path, side: int) -> list[Picture]:
    """All pictures that are to be packed, from the folder of femto/pictures.py."""
    from pictures import HERE, items
    from split import grouped, read_split, read_wrong, with_sets

    found, _ = items(folder, side)
    grouped(found)
    rows = read_split(HERE / "split.csv")
    free = free_of(found, rows)
    rows = with_sets(read_wrong(HERE / "wrong.csv", rows), found, free)
    return [*trained_on(free, rows, folder / "unlabeled"), *held_out(folder)]


def main(argv: Sequence[str] | None = None) -> int:
    """Packs, and prints how much there is of what."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, help="the folder of femto/pictures.py")
    parser.add_argument("pack", type=Path, help="the folder to write")
    parser.add_argument("--budget-mib", type=float, default=48, help="for all pictures together (default: 48)")
    parser.add_argument("--side", type=int, default=224, help="that of femto/pictures.py (default: 224)")
    a = parser.parse_args(argv)
    pictures = collected(a.pictures, a.side)
    with ProcessPoolExecutor(2, initializer=os.nice, initargs=(10,)) as pool:
        head = write_pack(a.pack, pictures, int(a.budget_mib * 2**20), pool)
    counts = {split: sum(picture.split == split for picture in pictures) for split in (TRAIN, *HELD.values())}
    print(f"{a.pack}: {head['bytes'] / 2**20:.1f} MiB, WebP quality {head['quality']}; pictures: {json.dumps(counts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
