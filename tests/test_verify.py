"""`duplicates --verify`: drawings on transparent grounds, nearly blank sheets, animations that begin alike."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from collections_of import collection, noise
from hierax.collection.duplicates import duplicates


def groups(folder: Path, images: dict[str, Image.Image]) -> list[list[str]]:
    """Names by group, of images whose features are all equal."""
    folder.mkdir()
    for name, image in images.items():
        image.save(folder / name, quality=85)
    return found(folder, list(images))


def found(folder: Path, names: list[str]) -> list[list[str]]:
    paths = [str(folder / name) for name in names]
    rows = collection(folder / "rows", np.tile(noise(1), (len(paths), 1)), paths=paths)
    return [[Path(m.path).name for m in group.members] for group in duplicates(rows, verify=True)]


def drawing(seed: int, color: str, ground: str) -> Image.Image:
    draw = np.random.default_rng(seed)
    image = Image.new("RGBA", (200, 200), ground)
    pencil = ImageDraw.Draw(image)
    for _ in range(12):
        pencil.line([tuple(draw.integers(0, 200, 2).tolist()) for _ in range(2)], fill=color, width=6)
    return image


@pytest.mark.parametrize("color", ["white", "#eee", "black", "#c33"])
def test_drawings_on_a_transparent_ground_are_told_apart(tmp_path: Path, color: str) -> None:
    images = {f"{seed}.png": drawing(seed, color, "#ffffff00") for seed in range(3)}
    images |= {"small.png": images["0.png"].resize((120, 120)), "page.png": Image.new("RGB", (200, 200), "white")}
    assert groups(tmp_path / "drawn", images) == [["0.png", "small.png"]]


def test_a_dark_drawing_is_the_one_that_was_saved_on_white(tmp_path: Path) -> None:
    there = drawing(0, "black", "#ffffff00")
    flat = Image.alpha_composite(Image.new("RGBA", there.size, "white"), there).convert("RGB")
    other = drawing(1, "black", "#ffffff00")
    assert groups(tmp_path / "drawn", {"a.png": there, "a.jpg": flat, "b.png": other}) == [["a.png", "a.jpg"]]


def sheet(seed: int) -> Image.Image:
    draw = np.random.default_rng(seed)
    image = Image.new("RGB", (600, 800), "white")
    for _ in range(3):
        ImageDraw.Draw(image).text(tuple(draw.integers(50, 500, 2).tolist()), "some words", fill="black")
    return image


def test_nearly_blank_sheets_with_different_marks_are_told_apart_and_copies_are_found(tmp_path: Path) -> None:
    images = {"1.png": sheet(1), "2.png": sheet(2), "blank.png": Image.new("RGB", (600, 800), "white")}
    images |= {"1.jpg": sheet(1), "blank.jpg": Image.new("RGB", (300, 400), "#fefefe")}
    assert groups(tmp_path / "sheets", images) == [["1.png", "1.jpg"], ["blank.png", "blank.jpg"]]


def film(path: Path, frames: int, *, seed: int) -> None:
    draw = np.random.default_rng(0)
    first = Image.fromarray(np.kron(draw.integers(0, 255, (6, 8, 3), np.uint8), np.ones((20, 20, 1), np.uint8)))
    draw = np.random.default_rng(seed)
    levels = [draw.integers(0, 255, (6, 8, 3), np.uint8) for _ in range(frames - 1)]
    others = [Image.fromarray(np.kron(some, np.ones((20, 20, 1), np.uint8))) for some in levels]
    first.save(path, save_all=True, append_images=others, duration=100)


def test_animations_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    film(folder / "short.gif", 5, seed=1)
    film(folder / "long.gif", 10, seed=1)
    film(folder / "other end.gif", 10, seed=2)
    film(folder / "long.webp", 10, seed=1)
    with Image.open(folder / "long.gif") as first:
        first.convert("RGB").save(folder / "first frame.png")
    names = ["short.gif", "long.gif", "other end.gif", "long.webp", "first frame.png"]
    assert found(folder, names) == [["long.gif", "long.webp"]]
