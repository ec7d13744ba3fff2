"""How the pictures for hierax/femto are found, grouped, split and put on backgrounds, on tiny made data."""

from __future__ import annotations

import csv
import hashlib
import importlib
import io
import json
import struct
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

pytest_plugins = ("femto_scripts",)
FEMTO = Path(__file__).parents[1] / "femto"


def drawing(seed: int, side: int = 64) -> Image.Image:
    """RGBA: a dozen ellipses of several colors, transparent around them."""
    draw_from = np.random.default_rng(seed)
    picture = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(picture)
    for _ in range(12):
        x, y, size = (int(value) for value in draw_from.integers(0, side // 2, 3))
        color = tuple(int(level) for level in draw_from.integers(0, 200, 3))
        draw.ellipse((x, y, x + size, y + size), (*color, 255))
    return picture


def item(script: Any, picture: Image.Image, name: str, category: str = "", package: str = "one") -> Any:
    """A picture with a mark made of its name, in a series of its own."""
    white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    made = script("split").Item(package, (), Path(f"{name}.png"), np.asarray(white))
    made.mark, made.category, made.series = hashlib.sha256(name.encode()).hexdigest(), category, name
    return made


def test_versions_of_a_drawing_are_one_group_and_other_drawings_are_none(script: Any) -> None:
    mirrored = drawing(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    darker = Image.eval(drawing(0).convert("RGB"), lambda level: level * 9 // 10).convert("RGBA")
    darker.putalpha(drawing(0).getchannel("A"))
    versions = [item(script, each, f"version{n}") for n, each in enumerate((drawing(0), mirrored, darker))]
    others = [item(script, drawing(seed), f"other{seed}") for seed in range(1, 9)]
    script("split").grouped([*versions, *others])
    assert len({each.group for each in versions}) == 1
    assert len({each.group for each in [*versions, *others]}) == 9


def test_simple_drawings_are_not_chained_into_one_group(script: Any) -> None:
    bars = []
    for number, color in enumerate(("red", "green", "blue", "black", "orange")):
        picture = Image.new("RGBA", (64, 64))
        ImageDraw.Draw(picture).rectangle((8, 4 + 10 * number, 56, 12 + 10 * number), color)
        bars.append(item(script, picture, f"bar {number}"))
    script("split").grouped(bars)
    assert len({each.group for each in bars}) == len(bars)


def test_a_series_is_one_group(script: Any) -> None:
    found = [item(script, drawing(seed), f"cat {seed}") for seed in range(3)]
    found[0].series = found[2].series = "cat"
    script("split").grouped(found)
    assert found[0].group == found[2].group != found[1].group


@pytest.fixture
def split(script: Any) -> tuple[list[Any], dict[str, Any]]:
    """Forty drawings of two categories, each in two versions, and what a new split says of them."""
    found = []
    for seed in range(40):
        kind = "round" if seed % 2 else "square"
        for version in "ab":
            made = item(script, drawing(seed), f"{seed}{version}", kind if version == "a" or seed > 20 else "")
            made.series = str(seed)
            found.append(made)
    script("split").grouped(found)
    return found, script("split").new_split(found)


def test_no_group_is_on_two_sides_of_a_split(split: tuple[list[Any], dict[str, Any]]) -> None:
    found, rows = split
    sides: dict[int, set[bool]] = {}
    for each in found:
        row = rows.get(each.mark[:16])
        sides.setdefault(each.group, set()).add(row is not None and row.split != "train")
    assert all(len(held) == 1 for held in sides.values())
    for kind in ("round", "square"):
        assert {row.split for row in rows.values() if row.category == kind} == {"train", "val", "test"}


def test_a_split_is_read_as_it_was_written(
    script: Any, split: tuple[list[Any], dict[str, Any]], tmp_path: Path
) -> None:
    script("split").write_split(tmp_path / "split.csv", split[1])
    assert script("split").read_split(tmp_path / "split.csv") == split[1]


def test_corrections_change_labels_and_never_sides(script: Any, tmp_path: Path) -> None:
    row = script("split").Row
    rows = {"a": row("birds", "test"), "b": row("birds", "train"), "c": row("", "related"), "d": row("bats", "val")}
    (tmp_path / "wrong.csv").write_text("hash,category,reason\na,bats,\nb,,\nc,bats,\nz,bats,\n")
    assert script("split").read_wrong(tmp_path / "wrong.csv", rows) == {
        "a": row("bats", "test"),
        "b": row("", "train"),
        "c": row("", "related"),
        "d": row("bats", "val"),
    }


def test_the_split_of_the_repository_is_sorted_and_whole(script: Any) -> None:
    with (FEMTO / "split.csv").open(newline="") as file:
        lines = [(line["hash"], line["split"]) for line in csv.DictReader(file)]
    assert lines == sorted(lines)
    rows = script("split").read_split(FEMTO / "split.csv")
    assert len(rows) == len(lines)
    assert {row.split for row in rows.values()} == {"train", "val", "test", "held-out", "related"}
    corrected = script("split").read_wrong(FEMTO / "wrong.csv", rows)
    kinds = {row.category for row in corrected.values()} - {""}
    assert kinds == {row.category for row in rows.values()} - {""}
    assert {kind for _, _, kind in script("categories").RULES if kind[0] != "="} == kinds
    for kind in kinds:
        assert {row.split for row in corrected.values() if row.category == kind} == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("package", "below", "expected"),
    [
        ("openclipart-png", "animals/birds/owl_01", "birds"),
        ("openclipart-png", "transportation/airplane_01", "signs"),
        ("openclipart-png", "transportation/bus1_jarno_01", "land-vehicles"),
        ("openclipart-png", "signs_and_symbols/flags/semaphore/a", ""),
        ("fonts-noto-color-emoji", "Food & Drink/food-fruit/red apple", "fruit"),
        ("gcompris-qt-data", "erase/red_panda", "mammals"),
        ("gcompris-qt-data", "lang/words_sample/red", ""),
        ("no-such-package", "animals/birds/owl", ""),
    ],
)
def test_the_category_is_that_of_the_folder_or_of_the_longest_word(
    script: Any, package: str, below: str, expected: str
) -> None:
    assert script("categories").category(package, below) == expected


def resource_file(files: dict[str, tuple[int, bytes]]) -> bytes:
    """A `.rcc` of Qt with one folder `a` that holds the files: flags and content by name."""
    names, contents, places = b"", b"", {}
    for name in ("a", *files):
        places[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    tree = struct.pack(">IHIIQ", 0, 2, 1, 1, 0) + struct.pack(">IHIIQ", places["a"], 2, len(files), 2, 0)
    for name, (flags, content) in files.items():
        tree += struct.pack(">IHHHIQ", places[name], flags, 0, 0, len(contents), 0)
        contents += struct.pack(">I", len(content)) + content
    end = 24 + len(tree)
    return struct.pack(">4sIIIII", b"qres", 3, 24, end, end + len(contents), 0) + tree + contents + names


def test_files_come_out_of_qt_resources_and_packed_ones_do_not(script: Any) -> None:
    content = resource_file({"b.png": (0, b"picture"), "c.txt": (1, b"packed"), "d.webp": (0, b"")})
    assert list(script("containers").resources(content)) == [("a/b.png", b"picture"), ("a/d.webp", b"")]
    with pytest.raises(ValueError, match="a resource file begins with b'qres', not b'PK"):
        list(script("containers").resources(b"PK\x03\x04" + bytes(40)))


def test_emoji_have_a_group_and_at_most_one_tone_of_skin(script: Any) -> None:
    tones = enumerate(("light", "medium-light", "medium", "medium-dark", "dark"), 0x1F3FB)
    lines = [
        "# group: People & Body",
        "# subgroup: person-role",
        "1F9D1 200D 1F33E ; fully-qualified # x E12.1 farmer",
        *(f"1F9D1 {n:X} 200D 1F33E ; fully-qualified # x E12.1 farmer: {tone} skin tone" for n, tone in tones),
        "1F9D1 ; unqualified # x E12.1 farmer",
    ]
    found = dict(script("containers").emoji_list("\n".join(lines)))
    assert found["People & Body/person-role/farmer"] == (0x1F9D1, 0x200D, 0x1F33E)
    assert len(found["People & Body/person-role/farmer-skin"]) == 4
    assert len(found) == 2


EMOJI = """# group: Animals & Nature
# subgroup: animal-mammal
1F408 ; fully-qualified # x E0.7 cat
1F3CC FE0F ; fully-qualified # x E0.7 person golfing
1F43B 200D 2744 FE0F ; fully-qualified # x E13.0 polar bear
1F415 ; fully-qualified # x E0.7 dog
"""


def packed(path: Path, files: dict[str, bytes]) -> Path:
    """A package of npm with these files."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_emoji_of_other_artists_are_found_by_code_points(script: Any, tmp_path: Path) -> None:
    (tmp_path / "groups.txt").write_text(EMOJI)
    names = {"1f408": b"cat", "1f3cc": b"golf", "1f43b-200d-2744-fe0f": b"bear", "1f999": b"llama"}
    package = packed(tmp_path / "a.tgz", {f"assets/{code}.webp": content for code, content in names.items()})
    script("emoji_sets").unpack_emoji_set(package, tmp_path / "groups.txt", tmp_path / "out")
    found = {path.stem: path.read_bytes() for path in (tmp_path / "out").rglob("*.webp")}
    assert found == {"cat": b"cat", "person golfing": b"golf", "polar bear": b"bear"}
    assert (tmp_path / "out/Animals & Nature/animal-mammal/cat.webp").is_file()


RENDERER = SimpleNamespace(svg_to_bytes=lambda *, svg_string, width: list(f"{width} {svg_string}".encode()))


def test_outlines_of_openmoji_are_drawn(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", RENDERER)
    (tmp_path / "groups.txt").write_text(EMOJI)
    names = {"1F408": b"<cat/>", "1F43B-200D-2744-FE0F": b"<bear/>"}
    files = {f"{tone}/svg/{code}.svg": content for code, content in names.items() for tone in ("black", "color")}
    package = packed(tmp_path / "a.tgz", files)
    script("emoji_sets").unpack_emoji_set(package, tmp_path / "groups.txt", tmp_path / "out")
    found = {path.stem: path.read_text() for path in (tmp_path / "out").rglob("*.png")}
    assert found == {"cat": "256 <cat/>", "polar bear": "256 <bear/>"}


def test_emoji_of_iconify_are_found_by_code_points_names_and_aliases(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", RENDERER)
    (tmp_path / "groups.txt").write_text(EMOJI)
    icons = {
        "icons": {"a-cat": {"body": "<cat/>"}, "golfer": {"body": "<golf/>", "width": 18}, "polarbear": {"body": "b"}},
        "aliases": {"golfing": {"parent": "golfer"}},
        "width": 36,
        "height": 36,
    }
    named = {"1f408": "a-cat", "1f3cc": "golfing"}
    files = {"icons.json": json.dumps(icons).encode(), "chars.json": json.dumps(named).encode()}
    package = packed(tmp_path / "a.tgz", files)
    script("emoji_sets").unpack_emoji_set(package, tmp_path / "groups.txt", tmp_path / "out")
    found = {path.stem: path.read_text() for path in (tmp_path / "out").rglob("*.png")}
    assert found.keys() == {"cat", "person golfing", "polar bear"}
    assert found["cat"].startswith("256 <svg")
    assert "<cat/>" in found["cat"]
    assert '"0 0 36 36"' in found["cat"]
    assert '"0 0 18 36"' in found["person golfing"]


def test_an_emoji_of_a_set_is_trained_on_only_if_the_same_motif_is_not_held_out(script: Any) -> None:
    split = script("split")
    held, trained = (item(script, drawing(seed), name, "mammals") for seed, name in ((0, "cat"), (1, "dog")))
    same, other, alike, new = (item(script, drawing(seed), f"set {seed}", "mammals", "set") for seed in (2, 3, 0, 4))
    same.series, other.series, alike.series, new.series = "cat", "dog", "dog", "bear"
    for each in (same, other, alike, new):
        each.like = "one"
    found = [same, held, other, alike, trained, new]
    rows = {held.mark[:16]: split.Row("mammals", "test"), trained.mark[:16]: split.Row("mammals", "train")}
    split.grouped(found)
    free = split.free_of(found, rows)
    assert free == [other, trained, new]
    labeled = split.with_sets(rows, found, free)
    assert {mark for mark, row in labeled.items() if row.split == "train"} == {each.mark[:16] for each in free}
    assert held.mark[:16] in labeled
    assert same.mark[:16] not in labeled
    assert not split.new_split([same, other, alike, new])
    corrected = split.with_sets(rows | {trained.mark[:16]: split.Row("sea-animals", "train")}, found, free)
    assert [corrected[each.mark[:16]].category for each in (other, new)] == ["sea-animals", "mammals"]
    removed = split.with_sets(rows | {trained.mark[:16]: split.Row("", "train")}, found, free)
    assert other.mark[:16] not in removed


def test_the_glyphs_of_sequences_are_read_from_a_font(script: Any) -> None:
    builder = importlib.import_module("fontTools.fontBuilder").FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "a", "b", "a_b"])
    builder.setupCharacterMap({97: "a", 98: "b"})
    builder.addOpenTypeFeatures("feature ccmp { sub a b by a_b; } ccmp;")
    assert script("containers").ligatures(builder.font) == {("a", "b"): "a_b"}


def test_a_drawing_is_cut_out_and_its_background_is_decided_by_its_mark(script: Any) -> None:
    compose = script("compose")
    wide = Image.new("RGBA", (300, 200))
    wide.paste(drawing(3), (200, 20))
    square = compose.cut_out(wide, 96)
    assert square.size == (96, 96)
    left, top, right, bottom = square.getchannel("A").getbbox()
    assert max(right - left, bottom - top) > 84
    grounds = set()
    for kind in range(7):
        mark = bytes([kind]) + hashlib.sha256(b"mark").digest()[1:]
        one, other = (np.asarray(compose.varied(square, mark, [])) for _ in range(2))
        assert (one == other).all()
        grounds.add(one[0].tobytes())
        visible = np.asarray(square)[..., 3] == 255
        assert (one[visible] == np.asarray(square)[visible][:, :3]).all()
    assert len(grounds) == 2  # a color, a gradient


def test_nothing_is_left_of_a_blank_or_tiny_picture(script: Any) -> None:
    assert script("compose").cut_out(Image.new("RGBA", (200, 200), "white"), 96) is None
    assert script("compose").cut_out(Image.new("RGBA", (200, 200)), 96) is None
    assert script("compose").cut_out(drawing(3, side=30), 96) is None


def test_large_photos_are_cut_at_several_scales_and_flat_crops_left_out(script: Any, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1300, 1950, 3), np.uint8)
    noise[:650, :975] = 90
    Image.fromarray(noise).save(tmp_path / "photo.png")
    crops = dict(script("compose").crops(tmp_path / "photo.png", 32))
    assert {name[0] for name in crops} == {"2", "3", "4"}
    assert {name for name in crops if name[0] == "2"} == {"2-01", "2-10", "2-11"}
    assert {min(crop.size) for crop in crops.values()} == {32}


def test_the_shorter_side_is_as_asked_and_the_longer_at_most_twice_as_long(script: Any) -> None:
    sizes = [
        script("compose").shorter_side(Image.new("RGB", size), 32).size for size in ((64, 96), (40, 30), (900, 90))
    ]
    assert sizes == [(32, 48), (43, 32), (64, 32)]
