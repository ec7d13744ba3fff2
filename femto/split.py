"""Which pictures are held out: groups of versions of one picture, a split of those, and the files that keep it."""

import csv
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fetch_drawings import NEAR, Picture, hashes, held_groups, in_turns, joined

MOST = 300  # pictures of a category that are labeled
TEST, VAL = 0.2, 0.15
# What makes two pictures versions of one: the difference hashes differ in at most so many of 256 bits and at most by
# that share of the bits set (simple drawings would all be near each other), and the colors by at most that share of
# what the picture differs from white; hashes with fewer than so many bits set hold too little; whether only pictures of
# two packages are meant.
VERSIONS = (
    (NEAR, 0.25, 0.35, 40, False),
    (NEAR, 0.25, 0.12, 0, False),
    (6, 0.25, math.inf, 40, False),
    (26, 0.5, 0.2, 40, True),
)
# Photos of no category that are held out: package, which, how many.
HELD_OUT = (
    ("tuxpaint-stamps-default", r"animals|food|household|medical|space|town/[^/]*$", 14),
    ("gcompris-qt-data", r"details|categorization|explore|erase|clickgame", 16),
    ("scratch", r"backgrounds(?!.*(night|room|stage|mural|graffiti))", 9),
    ("plasma-workspace-wallpapers", r"coldripple|colorfulcups|fallenleaf|gray|onestandsout", 3),
    ("mate-backgrounds", r"nature", 4),
    ("lxqt-themes", r"butterfly|appleflower|drop|flowers", 3),
    ("lomiri-wallpapers-16.04", r"", 4),
    ("forensics-samples-files", r"", 3),
    ("scikit-image", r"astronaut|chelsea|coffee", 3),
    ("scikit-learn", r"", 1),
)


@dataclass
class Item(Picture):
    """A picture: `pixels` is a thumbnail, `path` the source; in `cut` it lies as it is used."""

    mark: str = ""  # of the file, sha256
    cut: Path = Path()
    photo: bool = False
    transparent: bool = False
    category: str = ""
    series: str = ""
    like: str = ""  # the package with the same motifs, if the picture is one of a set that is never held out
    relatives: frozenset[int] = frozenset()  # of such a picture: groups of the pictures that it is like

    @property
    def name(self) -> str:
        """A file name of its own, without an ending."""
        text = "-".join((self.package.split("-")[0], *self.place, self.path.stem))
        return f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', text)}-{self.mark[:6]}"


@dataclass(frozen=True)
class Row:
    """What the split says of a picture.

    `split` is train, val, test, held-out (a photo of no category) or related (in one group with a picture held out).
    """

    category: str
    split: str


def is_photo(name: str) -> bool:
    """Whether a file that femto/pictures.py wrote is a photo: photos are JPEG, drawings PNG."""
    return name.endswith(".jpg")


def versions(found: Sequence[Item], since: int = 0) -> Iterator[tuple[int, int]]:
    """Pairs of pictures that look alike, mirrored or not; with `since`, of one from there on and one before it."""
    packages = np.array([item.package for item in found])
    plain, mirrored = hashes(found)
    bits = np.bitwise_count(plain).sum(1)
    small = np.stack([item.pixels for item in found]).reshape(len(found), 8, 8, 8, 8, 3).mean((2, 4), np.float32)
    ink = (255 - small).mean((1, 2, 3)) + 1
    for others, colors in ((plain, small), (mirrored, small[:, :, ::-1])):
        for index in range(since, len(found)):
            distances = np.bitwise_count(others[: since or index] ^ plain[index]).sum(1)
            for near in np.flatnonzero(distances <= max(version[0] for version in VERSIONS)):
                differ = float(np.abs(colors[near] - small[index]).mean()) / float(max(ink[index], ink[near]))
                for most, share, color, least, foreign in VERSIONS:
                    alike = distances[near] <= min(most, share * bits[index]) and differ <= color
                    if alike and bits[index] >= least and not (foreign and packages[near] == packages[index]):
                        yield index, int(near)


def grouped(found: Sequence[Item]) -> None:
    """Gives versions of one picture the same group.

    Such are pictures of one series, and those that look alike (`VERSIONS`), mirrored or not. Pictures of sets that are
    never held out join no groups to one: they get `relatives`, the groups of what they look like or have the motif of.
    """
    own, sets = ([item for item in found if bool(item.like) == of_a_set] for of_a_set in (False, True))
    first: dict[tuple[str, str], int] = {}

    def pairs() -> Iterator[tuple[int, int]]:
        for index, item in enumerate(own):
            yield index, first.setdefault((item.package, item.series), index)
        yield from versions(own)

    for item, number in zip(own, joined(len(own), pairs()), strict=True):
        item.group = number
    alike: dict[int, set[int]] = defaultdict(set)
    for index, near in versions([*own, *sets], since=len(own)) if own else ():
        alike[index].add(own[near].group)
    for index, item in enumerate(sets, start=len(own)):
        motif = first.get((item.like, item.series))
        item.relatives = frozenset(alike[index] | ({own[motif].group} if motif is not None else set()))


def new_split(found: Sequence[Item]) -> dict[str, Row]:
    """A split by group: of each category a fifth for testing, 15 % for validation; and photos of no category."""
    found = [item for item in found if not item.like]
    members: dict[str, list[Item]] = defaultdict(list)
    for item in found:
        if item.category:
            members[item.category].append(item)
    chosen = {name: in_turns(members[name], MOST) for name in sorted(members)}
    side = dict.fromkeys(held_groups(chosen, TEST), "test")
    rest = {name: [item for item in those if item.group not in side] for name, those in chosen.items()}
    side |= dict.fromkeys(held_groups(rest, VAL / (1 - TEST)), "val")
    labeled = {item.group for those in chosen.values() for item in those}
    rows = {
        item.mark[:16]: Row(name, side.get(item.group, "train")) for name, those in chosen.items() for item in those
    }
    held = set[int]()
    for package, place, most in HELD_OUT:
        for item in sorted(found, key=lambda item: item.mark[::-1]):
            wanted = item.package == package and re.match(place, item.series) and "cartoon" not in item.series
            if wanted and item.group not in labeled | held and most > 0:
                rows[item.mark[:16]] = Row("", "held-out")
                held.add(item.group)
                most -= 1
    for item in found:
        if item.group in held | side.keys() and item.mark[:16] not in rows:
            rows[item.mark[:16]] = Row("", "related")
    return rows


def write_split(path: Path, rows: Mapping[str, Row]) -> None:
    """One line for each picture that is labeled, or not to be seen in training: hash, category, split."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("hash", "category", "split"))
        writer.writerows((mark, row.category, row.split) for mark, row in sorted(rows.items()))


def read_split(path: Path) -> dict[str, Row]:
    """What `write_split` wrote."""
    with path.open(newline="") as file:
        return {line["hash"]: Row(line["category"], line["split"]) for line in csv.DictReader(file)}


def read_wrong(path: Path, rows: Mapping[str, Row]) -> dict[str, Row]:
    """The split with the labels that a look at the pictures corrected. Pictures without a label in it stay so.

    The file has lines of hash, category ("" for none) and reason.
    """
    corrected = dict(rows)
    if path.exists():
        with path.open(newline="") as file:
            for line in csv.DictReader(file):
                row = rows.get(line["hash"])
                if row is not None and row.category:
                    corrected[line["hash"]] = replace(row, category=line["category"])
    return corrected


def free_of(found: Sequence[Item], rows: Mapping[str, Row]) -> list[Item]:
    """The pictures that may be trained on: none is in a group with one held out, or like one in such a group."""
    shut = {item.group for item in found if rows.get(item.mark[:16], Row("", "train")).split != "train"}
    return [item for item in found if not shut & {item.group, *item.relatives}]


def with_sets(rows: Mapping[str, Row], found: Sequence[Item], free: Sequence[Item]) -> dict[str, Row]:
    """The split, and the labels of those pictures of sets that may be trained on: as in the split, where it has one."""
    motifs = {(item.package, item.series): rows[item.mark[:16]].category for item in found if item.mark[:16] in rows}
    labels = {
        item.mark[:16]: motifs.get((item.like, item.series), item.category)
        for item in free
        if item.like and item.category
    }
    return {**rows, **{mark: Row(category, "train") for mark, category in labels.items() if category}}
