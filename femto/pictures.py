"""Makes the set of pictures that the checkpoints hierax/femto are trained on, from free packages.

    nice python femto/pictures.py FOLDER [--side 224] [--new-split] [--labels-only]

FOLDER gets, beside what is downloaded and unpacked:

- `unlabeled/`, every picture that is not held out. Drawings are cut out and padded to squares on white; those that
  are transparent come a second time on a color, on a gradient or before a photo. Photos keep their shape (shorter
  side: 224 pixels); of large ones there are crops at several scales too.
- `labeled/{train,val,test}/CATEGORY/`: in train the files of `unlabeled/`, in val and test each picture once.
- `held_out_photos/`, photos of no category that are not in `unlabeled/`.
- `pictures.json` with the counts, and a cache, `cut-224/`.

The split is that of `femto/split.csv`: the same for everybody, whatever newer versions of the packages hold. Versions
of one drawing and crops of one photo are on the same side of it. `femto/wrong.csv` moves pictures that are plainly of
another category, and takes labels away; no picture changes sides by that. Emoji of further artists are only trained on,
and only if the same emoji of Debian's font is not held out.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from categories import category
from compose import crops, is_transparent, prepared, varied
from fetch_drawings import flattened
from sources import Source, fetch, listed
from split import Item, Row, free_of, grouped, new_split, read_split, read_wrong, with_sets, write_split

HERE = Path(__file__).parent
THUMBNAIL = 64  # pixels of a side of what pictures are compared by


def cut(entry: tuple[Source, str, Path], *, folder: Path, side: int) -> Item | None:
    """The picture as it is used, from the cache where it is there; None if it is of no use."""
    source, below, path = entry
    mark = hashlib.sha256(path.read_bytes()).hexdigest()
    kept = folder / f"{mark[:16]}.png"
    if not kept.exists():
        made = prepared(path, side, bool(re.match(source.photos, below)))
        if made is None:
            return None
        part = kept.with_suffix(f".{os.getpid()}")  # another process may be cutting a copy of the same file
        made.save(part, "PNG", compress_level=1)
        part.rename(kept)
    picture = Image.open(kept)
    photo = picture.mode == "RGB"
    transparent = not photo and is_transparent(picture)
    white = (picture if photo else flattened(picture)).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    series = re.sub(source.series, "", below.lower()) if source.series else below.lower()
    place = tuple(below.split("/")[:-1])
    kind = category(source.like or source.package, below)
    return Item(
        source.package, place, path, np.asarray(white), -1, mark, kept, photo, transparent, kind, series, source.like
    )


def items(folder: Path, side: int) -> tuple[list[Item], Counter[str]]:
    """Every picture once (of copies one with a category, if any has), and how many were left out for what."""
    entries = list(listed(folder))
    print(f"{len(entries)} pictures to look at, which takes minutes", flush=True)
    cuts = folder / f"cut-{side}"
    cuts.mkdir(exist_ok=True)
    left, found = Counter[str](), dict[bytes, Item]()
    with ProcessPoolExecutor(2) as pool:
        for item in pool.map(partial(cut, folder=cuts, side=side), entries, chunksize=32):
            if item is None:
                left["blank, unreadable or tiny"] += 1
                continue
            before = found.get(item.pixels.tobytes())
            if before is None or (item.category and not before.category):
                found[item.pixels.tobytes()] = item
            left["the same as another"] += before is not None
    return list(found.values()), left


def drawn(item: Item, backdrops: Sequence[Path]) -> Image.Image:
    """A transparent drawing on what its content decides."""
    return varied(Image.open(item.cut), bytes.fromhex(item.mark), backdrops)


def save_all(item: Item, *, folder: Path, side: int, backdrops: Sequence[Path]) -> list[str]:
    """Saves the versions of a picture for training; returns their names."""
    picture = Image.open(item.cut)
    if not item.photo:
        flattened(picture).save(folder / f"{item.name}.png")
        if item.transparent:
            drawn(item, backdrops).save(folder / f"{item.name}-b.png")
        return [f"{item.name}.png", f"{item.name}-b.png"][: 1 + item.transparent]
    save_photo(picture, folder / f"{item.name}.jpg")
    for part, crop in crops(item.path, side):
        save_photo(crop, folder / f"{item.name}-{part}.jpg")
    return [f"{item.name}.jpg"]


def save_photo(picture: Image.Image, path: Path) -> None:
    """As JPEG, without chroma subsampling."""
    picture.save(path, quality=95, subsampling=0)


def save_one(item: Item, place: Path, backdrops: Sequence[Path]) -> None:
    """Saves the one version of a picture for measuring: half of the transparent ones on white."""
    place.mkdir(parents=True, exist_ok=True)
    if item.photo:
        save_photo(Image.open(item.cut), place / f"{item.name}.jpg")
    else:
        white = not item.transparent or int(item.mark[-1], 16) % 2
        (flattened(Image.open(item.cut)) if white else drawn(item, backdrops)).save(place / f"{item.name}.png")


def write_unlabeled(folder: Path, free: Sequence[Item], backdrops: Sequence[Path], side: int) -> None:
    """Saves every picture that is not held out."""
    place = folder / "unlabeled"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    with ProcessPoolExecutor(2) as pool:
        save = partial(save_all, folder=place, side=side, backdrops=backdrops)
        list(pool.map(save, free, chunksize=8))


def write_labeled(folder: Path, found: Sequence[Item], rows: Mapping[str, Row], backdrops: Sequence[Path]) -> None:
    """Saves the labeled pictures; those for training are links to `unlabeled/`, which must be there."""
    shutil.rmtree(folder / "labeled", ignore_errors=True)
    shutil.rmtree(folder / "held_out_photos", ignore_errors=True)
    for item in found:
        row = rows.get(item.mark[:16])
        if row is None or not (row.category or row.split == "held-out"):
            continue
        if row.split == "held-out":
            save_one(item, folder / "held_out_photos", backdrops)
        elif row.split != "train":
            save_one(item, folder / "labeled" / row.split / row.category, backdrops)
        else:
            place = folder / "labeled" / "train" / row.category
            place.mkdir(parents=True, exist_ok=True)
            for name in (f"{item.name}.png", f"{item.name}-b.png", f"{item.name}.jpg"):
                if (folder / "unlabeled" / name).exists():
                    os.link(folder / "unlabeled" / name, place / name)


def counts(folder: Path, found: Sequence[Item], rows: Mapping[str, Row], left: Counter[str]) -> dict[str, object]:
    """What there is: pictures of each category and split, sources of each, files."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    sources: dict[str, Counter[str]] = defaultdict(Counter)
    for item in found:
        row = rows.get(item.mark[:16])
        if row and row.category:
            table[row.category][row.split] += 1
            sources[row.category][item.package] += 1
    sizes = Counter(item.group for item in found if not item.like)
    places = ("unlabeled", "held_out_photos", *(f"labeled/{split}" for split in ("train", "val", "test")))
    return {
        "categories": {name: {**table[name], "sources": dict(sources[name])} for name in sorted(table)},
        "pictures of each package": Counter(item.package for item in found),
        "left out": left,
        "groups": len(sizes),
        "largest groups": [size for _, size in sizes.most_common(8)],
        "files": {place: sum(1 for path in (folder / place).rglob("*") if path.is_file()) for place in places},
    }


def main(argv: list[str] | None = None) -> int:
    """Fetches, arranges and prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=224, help="shorter side, in pixels (default: 224)")
    parser.add_argument("--new-split", action="store_true", help="make femto/split.csv anew")
    parser.add_argument("--labels-only", action="store_true", help="write only labeled/ anew")
    arguments = parser.parse_args(argv)
    folder = arguments.folder
    fetch(folder)
    found, left = items(folder, arguments.side)
    grouped(found)
    if arguments.new_split or not (HERE / "split.csv").exists():
        write_split(HERE / "split.csv", new_split(found))
    rows = read_split(HERE / "split.csv")
    free = free_of(found, rows)
    kept = {item.group for item in free}
    photos = sorted((item for item in found if item.photo), key=lambda item: item.mark)
    if not arguments.labels_only:
        write_unlabeled(folder, free, [item.cut for item in photos if item.group in kept], arguments.side)
    rows = with_sets(read_wrong(HERE / "wrong.csv", rows), found, free)
    held = [item.cut for item in photos if rows.get(item.mark[:16], Row("", "")).split == "held-out"]
    write_labeled(folder, found, rows, held)
    summary = counts(folder, found, rows, left)
    (folder / "pictures.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
