"""Fetches two Debian packages of drawings and makes of them what benchmarks/real_pictures.py trains on.

    python femto/fetch_drawings.py FOLDER [--side 128] [--least 40] [--most 120] [--held-out 0.2]

FOLDER gets `debs/` and `unpacked/` (from `apt-get download` and `dpkg-deb`), `labeled/train` and `labeled/val` with a
folder for each class, `unlabeled/` with every picture that is not held out and looks like none that is, and
`pictures.json` with the counts. Classes are the packages' own folders, two levels deep: a subfolder with `--least`
pictures is one, and so is a folder at the top none of whose subfolders is. Of a class at most `--most` are labeled.

A picture is put on white, its white margin cut off, padded to a square and saved as PNG (no JPEG: the ringing beside
hard edges would be what a masked autoencoder learns). The same picture twice is one. Pictures that may be versions of
one drawing stay on the same side of the split: names in one folder that differ in digits alone, and pictures whose
difference hashes, mirrored or not, are near each other.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

PACKAGES = {"openclipart-png": "usr/share/openclipart/png", "tuxpaint-stamps-default": "usr/share/tuxpaint/stamps"}
ALIASES = {  # folders of the second package that have another name in the first
    ("animals", "insects"): ("animals", "bugs"),
    ("clothes", "hats"): ("people", "clothing"),
    ("clothes",): ("people", "clothing"),
    ("food", "dessert"): ("food", "desserts"),
    ("hobbies", "music"): ("recreation", "music"),
}
NO_CLASS = ("unsorted",)
NEAR = 12  # bits of 256
FEWEST_GROUPS = 10  # of a class: one series of drawings is none
Place = tuple[str, ...]
P = TypeVar("P", bound="Picture")


@dataclass
class Picture:
    """A picture: where it comes from, its folders, its pixels `[side, side, 3]`, and its group once that is known."""

    package: str
    place: Place
    path: Path
    pixels: np.ndarray
    group: int = -1

    @property
    def name(self) -> str:
        """A file name of its own."""
        text = "-".join((*self.place, self.path.stem))
        mark = hashlib.sha256(str(self.path).encode()).hexdigest()[:6]
        return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', text)}-{mark}.png"

    @property
    def stem(self) -> tuple[Place, str]:
        """What the names of the pictures of a series have in common."""
        return self.place, re.sub(r"[^a-z]", "", self.path.stem.lower())


def fetch(folder: Path, packages: Iterable[str] = tuple(PACKAGES)) -> None:
    """Downloads and unpacks what is not there yet."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is not here: this script needs Debian, or a system derived from it")
    debs = folder / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    for package in packages:
        unpacked = folder / "unpacked" / package
        if unpacked.is_dir():
            continue
        if not list(debs.glob(f"{package}_*.deb")):
            done = subprocess.run(["apt-get", "download", package], cwd=debs, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"apt-get download {package}: {done.stderr.strip()} (is apt-get update needed first?)")
        part = unpacked.with_name(f".{package}")
        part.parent.mkdir(exist_ok=True)
        subprocess.run(["dpkg-deb", "-x", str(next(debs.glob(f"{package}_*.deb"))), str(part)], check=True)
        part.rename(unpacked)


def listed(folder: Path) -> Iterator[tuple[str, Place, Path]]:
    """Package, folders and file of every PNG that is no link."""
    for package, below in PACKAGES.items():
        root = folder / "unpacked" / package / below
        for path in sorted(root.rglob("*.png")):
            if path.is_file() and not path.is_symlink():
                place = path.relative_to(root).parts[:-1][:2]
                yield package, ALIASES.get(place, place), path


def opened(path: Path, most: int) -> Image.Image | None:
    """The picture as RGBA, no side longer than `most` pixels; None if it cannot be read."""
    Image.MAX_IMAGE_PIXELS = None
    try:
        picture = Image.open(path).convert("RGBA")
    except (OSError, ValueError, SyntaxError):
        return None
    picture.thumbnail((most, most), Image.Resampling.BOX)
    return picture


def flattened(picture: Image.Image) -> Image.Image:
    """An RGBA picture on white, as RGB."""
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def squarely(picture: Image.Image, side: int, color: str | tuple[int, ...]) -> Image.Image:
    """The picture in the middle of a square of that color, with a margin of 4 %, in its own mode."""
    edge = round(1.08 * max(picture.size))
    square = Image.new(picture.mode, (edge, edge), color)
    square.paste(picture, ((edge - picture.width) // 2, (edge - picture.height) // 2))
    kind = Image.Resampling.BOX if edge > 2 * side else Image.Resampling.BILINEAR
    return square.resize((side, side), kind)


def squared(path: Path, side: int) -> np.ndarray | None:
    """The picture on white, cut to what is not white, in a square; None if it is blank or cannot be read."""
    picture = opened(path, 8 * side)
    if picture is None:
        return None
    flat = flattened(picture)
    box = Image.eval(flat, lambda level: 255 if level < 250 else 0).getbbox()
    if box is None or min(box[2] - box[0], box[3] - box[1]) < 8:
        return None
    return np.asarray(squarely(flat.crop(box), side, "white"))


def pictures(folder: Path, side: int) -> tuple[list[Picture], Counter[str]]:
    """Every picture once, and how many were left out for what."""
    entries = list(listed(folder))
    print(f"{len(entries)} pictures to look at, which takes minutes", flush=True)
    left, seen, found = Counter[str](), set[bytes](), list[Picture]()
    with ProcessPoolExecutor() as pool:
        every = pool.map(partial(squared, side=side), [path for _, _, path in entries], chunksize=64)
        for (package, place, path), pixels in zip(entries, every, strict=True):
            mark = b"" if pixels is None else hashlib.sha256(pixels.tobytes()).digest()
            if pixels is None or mark in seen:
                left["blank, unreadable or tiny" if pixels is None else "the same as another"] += 1
                continue
            seen.add(mark)
            found.append(Picture(package, place, path, pixels))
    return found, left


def difference_hash(pixels: np.ndarray) -> np.ndarray:
    """uint64 `[4]`: whether it gets brighter from each cell of a 16 x 16 grid to the next on its right."""
    gray = np.asarray(Image.fromarray(pixels).convert("L").resize((17, 16), Image.Resampling.BOX), np.int16)
    return np.packbits((np.diff(gray, axis=1) > 2).ravel()).view(np.uint64)


def joined(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """The group of each of `count` things: the pairs, and the pairs of those, are in one."""
    parent = list(range(count))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for one, other in pairs:
        parent[root(one)] = root(other)
    return [root(index) for index in range(count)]


def hashes(found: Sequence[Picture]) -> tuple[np.ndarray, np.ndarray]:
    """The difference hashes of the pictures and of their mirror images, uint64 `[pictures, 4]` each."""
    plain = [difference_hash(picture.pixels) for picture in found]
    mirrored = [difference_hash(np.ascontiguousarray(picture.pixels[:, ::-1])) for picture in found]
    return np.stack(plain), np.stack(mirrored)


def group(found: Sequence[Picture]) -> None:
    """Gives pictures that may be versions of one drawing the same group."""

    def pairs() -> Iterator[tuple[int, int]]:
        first: dict[tuple[Place, str], int] = {}
        for index, picture in enumerate(found):
            yield index, first.setdefault(picture.stem, index)
        plain, mirrored = hashes(found)
        for index in range(len(found)):
            for others in (plain, mirrored):
                distances = np.bitwise_count(others[: index + 1] ^ plain[index]).sum(1)
                for near in np.flatnonzero(distances <= NEAR):
                    yield index, int(near)

    for picture, number in zip(found, joined(len(found), pairs()), strict=True):
        picture.group = number


def in_turns(those: Sequence[P], most: int) -> list[P]:
    """At most so many of the pictures, one of each group before a second one of any."""
    turns, ordered = Counter[int](), list[tuple[int, str, P]]()
    for picture in sorted(those, key=lambda p: hashlib.sha256(p.name.encode()).digest()):
        ordered.append((turns[picture.group], picture.name, picture))
        turns[picture.group] += 1
    ordered.sort(key=lambda entry: (entry[0], hashlib.sha256(entry[1].encode()).digest()))
    return [picture for _, _, picture in ordered][:most]


def classes(found: Sequence[Picture], *, least: int, most: int) -> dict[str, list[Picture]]:
    """The labeled pictures of each class, those of many groups before many of one group."""
    members: dict[str, list[Picture]] = defaultdict(list)
    tops: dict[str, list[Picture]] = defaultdict(list)
    for picture in found:
        if picture.place and picture.place[0] not in NO_CLASS:
            tops[picture.place[0]].append(picture)
            if len(picture.place) > 1:
                members["-".join(picture.place)].append(picture)
    large = {name: those for name, those in members.items() if len(those) >= least}
    split = {those[0].place[0] for those in large.values()}
    large |= {name: those for name, those in tops.items() if name not in split and len(those) >= least}
    chosen: dict[str, list[Picture]] = {}
    for name, those in sorted(large.items()):
        kept = in_turns(those, most)
        if len({picture.group for picture in kept}) >= FEWEST_GROUPS:
            chosen[name] = kept
    return chosen


def held_groups(chosen: Mapping[str, Sequence[Picture]], share: float) -> set[int]:
    """Groups that are held out: of each class about this share of its pictures; no group of several classes."""
    homes: dict[int, set[str]] = defaultdict(set)
    for name, those in chosen.items():
        for picture in those:
            homes[picture.group].add(name)
    held: set[int] = set()
    for name, those in chosen.items():
        sizes = Counter(picture.group for picture in those if homes[picture.group] == {name})
        wanted, got = round(share * len(those)), 0
        for number in sorted(sizes, key=lambda n: hashlib.sha256(f"{name} {n}".encode()).digest()):
            if got + sizes[number] <= wanted:
                held.add(number)
                got += sizes[number]
    return held


def write(folder: Path, found: Sequence[Picture], chosen: dict[str, list[Picture]], held: set[int]) -> dict[str, Any]:
    """Saves the pictures; returns the counts of the split."""
    for name in ("labeled", "unlabeled"):
        shutil.rmtree(folder / name, ignore_errors=True)
    counts: dict[str, dict[str, int]] = {}
    for name, those in chosen.items():
        sides = Counter[str]()
        for picture in those:
            side = "val" if picture.group in held else "train"
            place = folder / "labeled" / side / name
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.pixels).save(place / picture.name)
            sides[side] += 1
        counts[name] = {**sides, "groups": len({picture.group for picture in those})}
    (folder / "unlabeled").mkdir()
    rest = [picture for picture in found if picture.group not in held]
    for picture in rest:
        Image.fromarray(picture.pixels).save(folder / "unlabeled" / picture.name)
    train, val = (sum(count.get(side, 0) for count in counts.values()) for side in ("train", "val"))
    return {"classes": counts, "train": train, "val": val, "pretraining": len(rest)}


def main(argv: list[str] | None = None) -> int:
    """Fetches, arranges and prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=128, help="of the squares, in pixels (default: 128)")
    parser.add_argument("--least", type=int, default=40, help="pictures that a class has (default: 40)")
    parser.add_argument("--most", type=int, default=120, help="pictures of a class that are labeled (default: 120)")
    parser.add_argument("--held-out", type=float, default=0.2, help="share of each class (default: 0.2)")
    arguments = parser.parse_args(argv)
    fetch(arguments.folder)
    found, left = pictures(arguments.folder, arguments.side)
    if not found:
        raise SystemExit(f"{arguments.folder / 'unpacked'} holds no picture; delete it to unpack the packages again")
    group(found)
    chosen = classes(found, least=arguments.least, most=arguments.most)
    split = write(arguments.folder, found, chosen, held_groups(chosen, arguments.held_out))
    counts = {
        "packages": Counter(picture.package for picture in found),
        "left out": left,
        "groups": len({picture.group for picture in found}),
        "largest groups": [size for _, size in Counter(picture.group for picture in found).most_common(5)],
        **split,
    }
    (arguments.folder / "pictures.json").write_text(json.dumps(counts, indent=2) + "\n")
    for name, count in split["classes"].items():
        print(f"{name:32} {count.get('train', 0):5} train {count.get('val', 0):5} val  of {count['groups']} groups")
    print(json.dumps({name: value for name, value in counts.items() if name != "classes"}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
