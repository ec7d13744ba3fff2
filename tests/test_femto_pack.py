"""How the pictures for a GPU are packed, read and composed, on a dozen made pictures."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from hierax.train.settings import Recipe

pytest_plugins = ("femto_scripts",)
BUDGET = 200_000


def drawing(seed: int, side: int = 64) -> Image.Image:
    """RGBA: ellipses of dark colors, transparent around them."""
    draw_from = np.random.default_rng(seed)
    picture = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(picture)
    for _ in range(8):
        x, y, size = (int(value) for value in draw_from.integers(8, side // 2 - 4, 3))
        draw.ellipse((x, y, x + size, y + size), (*(int(v) for v in draw_from.integers(0, 90, 3)), 255))
    return picture


def made(script: Any, folder: Path, budget: int = BUDGET) -> list[Any]:
    """A dozen pictures, packed in `folder`/pack: drawings, photos that are not square, and pictures to measure on."""
    pack, pictures = script("pack"), []
    for number in range(6):
        drawing(number).save(folder / f"{number}.png")
        category = ("birds", "fruit", "")[number % 3]
        pictures.append(pack.Picture(f"d{number}", folder / f"{number}.png", "train", category, True, False))
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 64)).save(folder / f"{number}.jpg")
        split = ("train", "train", "val", "test", "test", "held-out")[number]
        category = "fruit" if split in ("val", "test") else ""
        pictures.append(pack.Picture(f"p{number}", folder / f"{number}.jpg", split, category, False, True))
    with ThreadPoolExecutor(2) as pool:
        pack.write_pack(folder / "pack", pictures, budget, pool)
    return pictures


def test_a_pack_gives_each_picture_back_by_its_name(script: Any, tmp_path: Path) -> None:
    pictures = made(script, tmp_path)
    pack = script("pack").Pack(tmp_path / "pack")
    assert pack.categories == ["birds", "fruit"]
    for picture in pictures:
        found = pack.picture(picture.name)
        with Image.open(picture.path) as source:
            source.load()
        assert (found.mode, found.size) == (source.mode, source.size)
        if picture.transparent:
            seen = np.asarray(source)[..., 3] > 0
            assert np.array_equal(np.asarray(found)[..., 3] > 128, seen)
            assert np.abs(np.asarray(found)[seen].astype(int) - np.asarray(source)[seen]).mean() < 25
    assert [entry.name for entry in pack.split("test")] == ["p3", "p4"]


def test_the_same_pictures_give_the_same_pack_and_a_smaller_budget_a_smaller_one(script: Any, tmp_path: Path) -> None:
    contents = []
    for name, budget in (("a", BUDGET), ("b", BUDGET), ("c", 31_000)):
        (tmp_path / name).mkdir()
        made(script, tmp_path / name, budget)
        contents.append((tmp_path / name / "pack" / "pictures.bin").read_bytes())
    assert contents[0] == contents[1]
    assert len(contents[2]) <= 31_000 < len(contents[0])


def test_a_budget_that_is_too_small_says_what_is_needed(script: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"the pictures need \d+ bytes; --budget-mib allows 1000"):
        made(script, tmp_path, 1000)


def test_a_pack_that_was_cut_short_is_not_read(script: Any, tmp_path: Path) -> None:
    made(script, tmp_path)
    file = tmp_path / "pack" / "pictures.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"Copy it again"):
        script("pack").Pack(tmp_path / "pack")


def test_no_version_of_a_held_out_picture_is_trained_on(script: Any) -> None:
    split = script("split")
    items = []
    for number in range(8):
        item = split.Item("one", (), Path(f"{number}.png"), np.zeros((1, 1, 3), np.uint8), number // 2)
        item.mark = f"{number:016d}"
        items.append(item)
    rows = {items[0].mark: split.Row("birds", "test"), items[3].mark: split.Row("", "held-out")}
    rows |= {items[4].mark: split.Row("birds", "val"), items[6].mark: split.Row("fruit", "train")}
    free = split.free_of(items, rows)
    packed = list(script("pack").trained_on(free, rows, Path("no folder")))
    assert [picture.path for picture in packed] == [items[6].cut, items[7].cut]
    assert [(item.mark, picture.category) for item, picture in zip(free, packed, strict=True)] == [
        (items[6].mark, "fruit"),
        (items[7].mark, ""),
    ]


def recipe(**changes: Any) -> Recipe:
    """Of 16 crops a step, each of a whole picture."""
    values = {"mode": "finetune", "batch_size": 16, "crop_scale": (1.0, 1.0), **changes}
    return Recipe(name="made", **values)


def test_crops_depend_on_the_step_alone_and_have_the_labels_of_their_pictures(script: Any, tmp_path: Path) -> None:
    made(script, tmp_path)
    crops = script("crops").Crops(script("pack").Pack(tmp_path / "pack"), side=32, device=torch.device("cpu"))
    first, again, other = (crops.batch(step, recipe(), labeled=True) for step in (1, 1, 2))
    assert torch.equal(first.pixels, again.pixels)
    assert not torch.equal(first.pixels, other.pixels)
    assert (first.pixels.shape, first.pixels.dtype) == ((16, 3, 32, 32), torch.uint8)
    assert first.labels is not None
    assert torch.equal(first.labels, crops.labels[first.indices])
    assert set(first.labels.tolist()) == {0, 1}
    assert crops.batch(1, recipe(mode="pretrain"), labeled=False).noise.shape == (16, 1)


def test_transparent_drawings_get_many_backgrounds_and_stay_what_they_are(script: Any, tmp_path: Path) -> None:
    made(script, tmp_path)
    crops = script("crops").Crops(script("pack").Pack(tmp_path / "pack"), side=32, device=torch.device("cpu"))
    batch = crops.batch(1, recipe(mode="pretrain", batch_size=64), labeled=False)
    drawn = torch.tensor([i not in crops.photos for i in batch.indices])
    corners = batch.pixels[drawn][:, :, 0, 0].float()
    white = (corners > 250).all(1).float().mean().item()
    assert 0.2 < white < 0.7
    assert len(corners[(corners <= 250).any(1)].unique(dim=0)) > 5
    assert (batch.pixels[drawn].float().mean(1).amin((1, 2)) < 110).all(), "the dark drawing is in every crop"


def test_the_index_names_only_what_a_reader_needs(script: Any, tmp_path: Path) -> None:
    made(script, tmp_path)
    index = json.loads((tmp_path / "pack" / "index.json").read_text())
    assert set(index["pictures"][0]) == {
        "name", "offset", "size", "width", "height", "split", "category", "transparent", "photo",
    }  # fmt: skip
    assert str(tmp_path) not in json.dumps(index)
