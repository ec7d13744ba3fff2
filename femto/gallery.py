"""Makes the photos and the gallery of `hierax demo` from pictures that are held out of training.

    python femto/gallery.py PICTURES [--assets src/hierax/assets]

PICTURES is the folder of femto/pictures.py, of which the sources and `femto/split.csv` are used. Written are, below the
assets: `photos/NAME.jpg`, `gallery.jpg` with `gallery.json`, and the tables in `CREDITS.md`. Every picture is of the
validation or the test set, or a photo that no training used; and everybody may use, change and sell it (no GPL, no
"share alike"), so that the package as a whole stays what its license says. The same split makes the same files. What is
shown is in femto/shown.py.
"""

import argparse
import hashlib
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from compose import flattened, prepared, shorter_side
from shown import CAT, EMOJI, GALLERY, MORE, PHOTOS, Terms
from sources import SHOWN, Source, fetch_packages, listed
from split import Row, read_split, read_wrong

HERE = Path(__file__).parent
EACH = 4  # pictures of a category in the gallery
SIDE, COLUMNS = 96, 10  # of the gallery: pixels, pictures in a row. JPEG has blocks of 16: none holds two pictures
PHOTO = 300  # pixels of a photo's shorter side, at the most
HELD_OUT = ("val", "test", "held-out")
LEFT_OUT = (  # beginnings of names: versions of what is there already, and what says little at 96 pixels
    "airplane-014ebb", "crawfish1_bw", "fireman_enrique", "knot_", "olifant", "peak-0ca211", "soft_blue_couch",
    "turkey_platter",
)  # fmt: skip


@dataclass(frozen=True)
class Item:
    """A picture that is held out: its source, path below the source's root, file, hash, and category ("" for none)."""

    source: Source
    below: str
    path: Path
    mark: str
    category: str

    @property
    def name(self) -> str:
        """That of its file, with the beginning of its hash."""
        return f"{self.below.rsplit('/', 1)[-1]}-{self.mark[:6]}"

    @property
    def key(self) -> tuple[str, str]:
        """What it is named by."""
        return self.source.package, self.below


def held_out(folder: Path) -> Iterator[Item]:
    """Every picture that no training saw."""
    rows = read_wrong(HERE / "wrong.csv", read_split(HERE / "split.csv"))
    for source, below, path in listed(folder):
        mark = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        row = rows.get(mark, Row("", ""))
        if row.split in HELD_OUT:
            yield Item(source, below, path, mark, row.category)
    for source, below, path in listed(folder, SHOWN):
        yield Item(source, below, path, hashlib.sha256(path.read_bytes()).hexdigest()[:16], "")


def found(name: str, key: tuple[str, str], items: Mapping[tuple[str, str], Item]) -> Item:
    """The picture; says so where it is not held out."""
    if key not in items:
        raise SystemExit(f"{name}: {'/'.join(key)} is not held out (femto/split.csv); choose another")
    return items[key]


# -- photos ----------------------------------------------------------------------------------------------------------


def write_photos(place: Path, items: Mapping[tuple[str, str], Item]) -> None:
    """The photos of `PHOTOS`, as JPEG."""
    place.mkdir(parents=True, exist_ok=True)
    for file in place.glob("*.jpg"):
        file.unlink()
    for name, photo in PHOTOS.items():
        picture = Image.open(found(name, photo.key, items).path).convert("RGB")
        least = min(PHOTO, *picture.size)
        shorter_side(picture, least).save(place / f"{name}.jpg", quality=85, optimize=True, progressive=True)


# -- the gallery -----------------------------------------------------------------------------------------------------


def chosen(items: Mapping[tuple[str, str], Item]) -> list[tuple[Item, Terms]]:
    """For each category the photos of `MORE`, then pictures of the packages in turn, emoji last, by their hashes."""
    photos: dict[str, list[tuple[Item, Terms]]] = defaultdict(list)
    for more in MORE:
        item = found(more.below, more.key, items)
        item = replace(item, category=more.label or item.category)
        photos[item.category].append((item, more.terms))
    single = {photo.key for photo in (*PHOTOS.values(), *MORE)}
    drawings: dict[str, dict[str, list[Item]]] = defaultdict(lambda: defaultdict(list))
    for item in sorted(items.values(), key=lambda item: item.mark):
        free = item.source.package in GALLERY and not item.name.startswith(LEFT_OUT)
        if item.category and free and item.key not in single:
            drawings[item.category][item.source.package].append(item)
    picked: list[tuple[Item, Terms]] = []
    for category in sorted(drawings.keys() | photos.keys()):
        turns = [
            (package == EMOJI, place, package, item)
            for package, several in drawings[category].items()
            for place, item in enumerate(several)
        ]
        room = max(EACH - len(photos[category]), 0)
        picked += photos[category]
        picked += [(item, GALLERY[item.source.package]) for *_, item in sorted(turns, key=lambda t: t[:3])[:room]]
    return picked


def square(item: Item) -> Image.Image:
    """The middle of a photo, or a drawing on white."""
    made = prepared(item.path, 2 * SIDE, bool(re.match(item.source.photos, item.below)))
    if made is None:
        raise SystemExit(f"{item.path}: cannot be used")
    picture = flattened(made.convert("RGBA"))
    side, (width, height) = min(picture.size), picture.size
    left, top = (width - side) // 2, (height - side) // 2
    return picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def write_gallery(assets: Path, picked: Sequence[tuple[Item, Terms]]) -> None:
    """The page of pictures, and what is on it."""
    page = Image.new("RGB", (COLUMNS * SIDE, -(-len(picked) // COLUMNS) * SIDE), "white")
    entries = []
    for number, (item, terms) in enumerate(picked):
        page.paste(square(item), (number % COLUMNS * SIDE, number // COLUMNS * SIDE))
        entries.append(
            {
                "name": item.name, "label": item.category.replace("-", " "),
                "license": terms.license, "author": terms.author, "source": f"{terms.source}, {item.below}",
            }
        )  # fmt: skip
    page.save(assets / "gallery.jpg", quality=85, optimize=True, progressive=True)
    lines = ",\n  ".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    (assets / "gallery.json").write_text(f'{{"side": {SIDE}, "pictures": [\n  {lines}\n]}}\n', encoding="utf-8")


# -- credits ---------------------------------------------------------------------------------------------------------


def write_credits(assets: Path, picked: Sequence[tuple[Item, Terms]]) -> None:
    """The table of all photos, and of the gallery's sources."""
    lines = [
        "# Images in this folder", "",
        "Written by `femto/gallery.py`. `hierax/femto` and `hierax/femto.mae` were not trained on these images.", "",
        "| file | author | license | source |", "|---|---|---|---|",
        "| `cat.jpg` | Stéfan van der Walt (Chelsea the cat) | CC0-1.0 | PyPI: scikit-image, `chelsea` |",
    ]  # fmt: skip
    for name, photo in PHOTOS.items():
        terms = photo.terms
        lines.append(f"| `photos/{name}.jpg` | {terms.author} | {terms.license} | {terms.source}, `{photo.below}` |")
    lines += [
        "", "All were made smaller and saved as JPEG. `gallery.jpg` contains small versions of the images below.",
        "`gallery.json` lists the author, license and source of each image.", "",
        "| images | author | license | source |", "|---|---|---|---|",
    ]  # fmt: skip
    counts: dict[Terms, int] = defaultdict(int)
    for _, terms in picked:
        counts[terms] += 1
    lines += [
        f"| {counts[t]} | {t.author} | {t.license} | {t.source} |" for t in sorted(counts, key=lambda t: -counts[t])
    ]
    lines += [
        "", "CC-BY-1.0: <https://creativecommons.org/licenses/by/1.0/>; CC-BY-2.0:",
        "<https://creativecommons.org/licenses/by/2.0/>; CC-BY-4.0:",
        "<https://creativecommons.org/licenses/by/4.0/>; CC0-1.0:",
        "<https://creativecommons.org/publicdomain/zero/1.0/>. Apache-2.0 is also the license of hierax.",
    ]  # fmt: skip
    (assets / "CREDITS.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Writes all of it, and says how much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="PICTURES")
    parser.add_argument("--assets", type=Path, default=HERE.parent / "src" / "hierax" / "assets")
    arguments = parser.parse_args(argv)
    assets: Path = arguments.assets
    fetch_packages(arguments.folder, SHOWN)
    by_key = {item.key: item for item in held_out(arguments.folder)}
    write_photos(assets / "photos", by_key)
    picked = chosen(by_key)
    write_gallery(assets, picked)
    write_credits(assets, picked)
    for file in (*sorted((assets / "photos").iterdir()), assets / "gallery.jpg", assets / "gallery.json"):
        print(f"{file.relative_to(assets)}  {file.stat().st_size / 1000:.0f} kB")
    print(f"{len(picked)} pictures of {len({item.category for item, _ in picked})} categories in the gallery")
    if CAT not in by_key:
        print("cat.jpg: chelsea of scikit-image is not held out", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
