"""Small sets of annotated images for tests: rectangles of a color on gray, as COCO files and as YOLO folders."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLORS = ((220, 40, 40), (40, 60, 220))
NAMES = ("red", "blue")
IDS = (3, 17)
"""Ids of the categories in COCO files, with gaps."""


def drawn(number: int, *, size: tuple[int, int] = (80, 60)) -> tuple[Image.Image, list[tuple[list[int], int]]]:
    """An image with up to two rectangles, and the boxes (left, top, width, height) and classes of these."""
    random = np.random.default_rng(number)
    width, height = size
    pixels = random.integers(90, 130, (height, width, 3), dtype=np.uint8)
    objects = []
    for place in range(number % 3):
        wide, high = (int(n) for n in random.integers(16, 30, 2))
        left, top = int(random.integers(0, width - wide)), int(random.integers(0, height - high))
        label = (number + place) % 2
        pixels[top : top + high, left : left + wide] = COLORS[label]
        objects.append(([left, top, wide, high], label))
    return Image.fromarray(pixels), objects


def polygon(box: list[int]) -> list[float]:
    left, top, wide, high = box
    return [left, top, left + wide, top, left + wide, top + high, left, top + high]


def coco_values(count: int, *, first: int = 0, **changes: Any) -> dict[str, Any]:
    """The content of a COCO file of `drawn` images. Ids of annotations begin with 0, as some tools write them."""
    images, annotations = [], []
    for number in range(first, first + count):
        image, objects = drawn(number)
        images.append({"id": number, "file_name": f"{number}.png", "width": image.width, "height": image.height})
        for box, label in objects:
            annotations.append({
                "id": len(annotations), "image_id": number, "category_id": IDS[label], "bbox": box, "iscrowd": 0,
                "area": box[2] * box[3], "segmentation": [polygon(box)],
            })  # fmt: skip
    categories = [{"id": key, "name": name} for key, name in reversed(list(zip(IDS, NAMES, strict=True)))]
    return {"images": images, "annotations": annotations, "categories": categories, **changes}


def write_images(folder: Path, count: int, *, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        drawn(number)[0].save(folder / f"{number}.png")


def write_coco(folder: Path, *, train: int = 6, val: int = 3) -> Path:
    """`annotations/instances_train.json`, `annotations/instances_val.json` and the images in `train/` and `val/`."""
    (folder / "annotations").mkdir(parents=True)
    for name, first, count in (("train", 0, train), ("val", train, val)):
        write_images(folder / name, count, first=first)
        values = coco_values(count, first=first)
        (folder / "annotations" / f"instances_{name}.json").write_text(json.dumps(values))
    return folder


def one_file(folder: Path, *, count: int = 4, **changes: Any) -> Path:
    """A COCO file beside its images, with other values."""
    write_images(folder, count)
    file = folder / "boxes.json"
    file.write_text(json.dumps(coco_values(count, **changes)))
    return file


def write_yolo(folder: Path, *, train: int = 6, val: int = 3, polygons: bool = False) -> Path:
    """`data.yaml`, and `images/` and `labels/` with `train/` and `val/`."""
    for name, first, count in (("train", 0, train), ("val", train, val)):
        write_images(folder / "images" / name, count, first=first)
        (folder / "labels" / name).mkdir(parents=True)
        for number in range(first, first + count):
            image, objects = drawn(number)
            lines = []
            for box, label in objects:
                (left, top, wide, high), (w, h) = box, image.size
                values = [(left + wide / 2) / w, (top + high / 2) / h, wide / w, high / h]
                if polygons:
                    values = [n / (h if i % 2 else w) for i, n in enumerate(polygon(box))]
                lines.append(" ".join([str(label), *(f"{value:.6f}" for value in values)]))
            (folder / "labels" / name / f"{number}.txt").write_text("\n".join(lines) + "\n")
    text = "train: images/train\nval: images/val\nnames:\n" + "".join(f"  {i}: {n}\n" for i, n in enumerate(NAMES))
    (folder / "data.yaml").write_text(text)
    return folder


def voc_text(number: int, *, first: int = 1) -> str:
    """The XML file of a `drawn` image, with pixels counted from `first`."""
    image, objects = drawn(number)
    parts = [
        f"<filename>{number}.png</filename><size><width>{image.width}</width><height>{image.height}</height></size>"
    ]
    for (left, top, wide, high), label in objects:
        corners = {"xmin": left + first, "ymin": top + first, "xmax": left + wide, "ymax": top + high}
        box = "".join(f"<{name}>{value}</{name}>" for name, value in corners.items())
        parts.append(f"<object><name>{NAMES[label]}</name><bndbox>{box}</bndbox></object>")
    return f"<annotation>{''.join(parts)}</annotation>"


def write_voc(folder: Path, *, train: int = 6, val: int = 3) -> Path:
    """`Annotations/`, `JPEGImages/` and the lists of `ImageSets/Main/`."""
    write_images(folder / "JPEGImages", train + val)
    (folder / "Annotations").mkdir()
    for number in range(train + val):
        (folder / "Annotations" / f"{number}.xml").write_text(voc_text(number))
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    sets = {"train": range(train), "val": range(train, train + val), "trainval": range(train + val)}
    for name, numbers in sets.items():
        (lists / f"{name}.txt").write_text("".join(f"{number}\n" for number in numbers))
    (lists / "red_train.txt").write_text("0 -1\n1 1\n")
    (lists / "test.txt").write_text("2008_000001\n")  # its annotations were never published
    return folder
