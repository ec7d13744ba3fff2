"""Composes photos with masks: cut-out objects of a free package on free photos, split by object and by photo.

    python femto/composed.py PICTURES FOLDER [--train 400] [--val 100] [--side 320] [--seed 0]

PICTURES is what `femto/pictures.py` made: it contains the unpacked packages. FOLDER gets, in the layout of ADE20K,
`images/train`, `images/val`, `annotations/train`, `annotations/val` (palette PNG; 0 is the background), and
`classes.txt`; and, for detection, `train.json` and `val.json` in the format of COCO, with run lengths as masks.

No object and no photo is in both splits. Objects that femto was tested on are in `val`.
"""

import argparse
import csv
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

STAMPS = "unpacked/tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
CLASSES = {
    "mammal": ("animals/mammals", "animals/marsupials"),
    "bird": ("animals/birds",),
    "insect": ("animals/insects",),
    "fruit": ("food/fruit",),
    "vehicle": ("vehicles", "military/vehicles"),
    "tool": ("household/tools", "household/arttools"),
}
BACKDROPS = (
    "gnome-backgrounds",
    "mate-backgrounds",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "plasma-workspace-wallpapers",
    "ukui-wallpapers",
    "forensics-samples-files",
)
PALETTE = (0, 0, 0, 230, 159, 0, 86, 180, 233, 0, 158, 115, 240, 228, 66, 0, 114, 178, 213, 94, 0)
VISIBLE = 0.4  # share of an object that must not be covered by others
LEAST = 64  # pixels of the longer side of an object


@dataclass(frozen=True)
class Piece:
    """An object RGBA without its margin, the number of its class, and whether it is held out."""

    image: Image.Image
    number: int
    held_out: bool


def is_held_out(path: Path, split: dict[str, str]) -> bool:
    """As in femto's own split; an object that is not in it by the hash of its name without digits."""
    data = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    if data in split:
        return split[data] in ("val", "test")
    name = "".join(letter for letter in path.stem if not letter.isdigit())
    return hashlib.sha256(name.encode()).digest()[0] < 51


def pieces(root: Path, split: dict[str, str]) -> list[Piece]:
    """All objects with transparent surroundings, in the order of their names."""
    found = []
    for number, folders in enumerate(CLASSES.values(), 1):
        files = sorted(file for folder in folders for file in (root / STAMPS / folder).rglob("*.png"))
        for file in files:
            image = Image.open(file).convert("RGBA")
            alpha = np.asarray(image.getchannel("A"))
            if (alpha < 16).mean() < 0.1:
                continue
            rows, columns = (np.flatnonzero((alpha >= 128).any(axis)) for axis in (1, 0))
            image = image.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
            if max(image.size) >= LEAST:
                found.append(Piece(image, number, is_held_out(file, split)))
    return found


def photos(root: Path, side: int) -> list[Image.Image]:
    """The middle of every photo, 4 to 3, twice as large as an image will be."""
    files = sorted(file for name in BACKDROPS for file in (root / "unpacked" / name).rglob("*") if file.is_file())
    seen: set[bytes] = set()
    found = []
    for file in files:
        if file.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp") or file.stat().st_size < 60_000:
            continue
        image = Image.open(file).convert("RGB")
        width = min(image.width, image.height * 4 // 3)
        height = width * 3 // 4
        left, top = (image.width - width) // 2, (image.height - height) // 2
        size = (2 * side, 2 * side * 3 // 4)
        small = image.resize(size, Image.Resampling.BICUBIC, (left, top, left + width, top + height), reducing_gap=3)
        look = small.resize((8, 8)).tobytes()
        if width >= side and look not in seen:
            seen.add(look)
            found.append(small)
    return found


def compose(
    pieces: Sequence[Piece], photos: Sequence[Image.Image], draw: np.random.Generator, side: int
) -> tuple[Image.Image, list[tuple[int, np.ndarray]]]:
    """An image, and the class and visible pixels (booleans) of each of its objects."""
    photo = photos[int(draw.integers(len(photos)))]
    width, height = side, side * 3 // 4
    left, top = (int(draw.integers(2 * n - n + 1)) for n in (width, height))
    image = photo.crop((left, top, left + width, top + height))
    image = ImageEnhance.Brightness(image).enhance(float(draw.uniform(0.7, 1.2)))
    objects: list[tuple[int, np.ndarray]] = []
    for _ in range(int(draw.integers(1, 5))):
        number = int(draw.integers(1, len(CLASSES) + 1))
        of_class = [piece for piece in pieces if piece.number == number]
        piece = of_class[int(draw.integers(len(of_class)))].image
        longer = float(draw.uniform(0.25, 0.7)) * height
        scale = longer / max(piece.size)
        piece = piece.resize((max(8, round(piece.width * scale)), max(8, round(piece.height * scale))))
        if draw.random() < 0.5:
            piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        piece = piece.rotate(float(draw.uniform(-15, 15)), Image.Resampling.BICUBIC, expand=True)
        x, y = (
            int(draw.integers(-n // 5, max(1, m - n + n // 5)))
            for n, m in zip(piece.size, (width, height), strict=True)
        )
        whole = Image.new("RGBA", (width, height))
        whole.paste(piece, (x, y))
        shown = np.asarray(whole.getchannel("A")) >= 128
        before = [(kind, seen, seen & ~shown) for kind, seen in objects]
        if shown.sum() < 100 or any(left.sum() < VISIBLE * seen.sum() for _, seen, left in before):
            continue
        image = Image.alpha_composite(image.convert("RGBA"), whole).convert("RGB")
        objects = [(kind, left) for kind, _, left in before] + [(number, shown)]
    return image, objects


def run_lengths(mask: np.ndarray) -> list[int]:
    """Run lengths of a mask as COCO has them: column by column, the first run is of zeros."""
    pixels = np.concatenate([[False], mask.T.ravel()])
    edges = np.flatnonzero(pixels[1:] != pixels[:-1])
    return np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()


def annotation(mask: np.ndarray, number: int, image: int, own: int) -> dict[str, object]:
    """An object in the format of COCO."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    return {
        "id": own,
        "image_id": image,
        "category_id": number,
        "bbox": [int(value) for value in box],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask)},
    }


def write(
    folder: Path,
    name: str,
    count: int,
    pieces: Sequence[Piece],
    photos: Sequence[Image.Image],
    draw: np.random.Generator,
    side: int,
) -> None:
    """Writes one split."""
    images, annotations = folder / "images" / name, folder / "annotations" / name
    images.mkdir(parents=True)
    annotations.mkdir(parents=True)
    entries: list[dict[str, object]] = []
    boxes: list[dict[str, object]] = []
    for index in range(count):
        image, objects = compose(pieces, photos, draw, side)
        image.save(images / f"{index:04}.jpg", quality=92)
        mask = np.zeros(image.size[::-1], np.uint8)
        for number, shown in objects:
            mask[shown] = number
            boxes.append(annotation(shown, number, index + 1, len(boxes) + 1))
        target = Image.fromarray(mask, "P")
        target.putpalette(PALETTE)
        target.save(annotations / f"{index:04}.png")
        entries.append({"id": index + 1, "file_name": f"{index:04}.jpg", "width": image.width, "height": image.height})
    categories = [{"id": number, "name": label} for number, label in enumerate(CLASSES, 1)]
    record = {"images": entries, "annotations": boxes, "categories": categories}
    (folder / f"{name}.json").write_text(json.dumps(record))


def main() -> None:
    """Writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=400)
    parser.add_argument("--val", type=int, default=100)
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.folder.exists():
        sys.exit(f"{options.folder} exists; expected the name of a new folder")
    with open(Path(__file__).parent / "split.csv", newline="") as file:
        split = {row["hash"]: row["split"] for row in csv.DictReader(file)}
    objects, backdrops = pieces(options.pictures, split), photos(options.pictures, options.side)
    for number, label in enumerate(CLASSES, 1):
        counts = [sum(p.number == number and p.held_out == out for p in objects) for out in (False, True)]
        print(f"{label}: {counts[0]} objects for train, {counts[1]} for val")
    order = np.random.default_rng(options.seed).permutation(len(backdrops))
    held = len(backdrops) // 5
    for name, count in (("train", options.train), ("val", options.val)):
        out = name == "val"
        chosen = [backdrops[i] for i in (order[:held] if out else order[held:])]
        draw = np.random.default_rng((options.seed, out))
        write(options.folder, name, count, [p for p in objects if p.held_out == out], chosen, draw, options.side)
        print(f"{name}: {count} images on {len(chosen)} photos")
    (options.folder / "classes.txt").write_text("\n".join(["background", *CLASSES]) + "\n")


if __name__ == "__main__":
    main()
