"""Texts in drawings: in a font that has their characters, or something right in their place."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from hierax.demo.sheet import Row, demo_sheet
from hierax.notices import Notice
from hierax.viz import Tile, drawable, drawable_names, fonts, sheet

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)
OTHERS = ["猫の写真.jpg", "고양이.jpg", "قطة.jpg", "кот.jpg", "cat \N{GRINNING FACE}.jpg"]
_Having = Callable[..., None]


@pytest.fixture
def having(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Having]:
    """`having("a.ttf")`: a system that has these fonts alone."""

    def set_fonts(*places: str) -> None:
        fonts.find_font.cache_clear()
        monkeypatch.setattr(fonts, "_fonts", lambda: list(places))

    yield set_fonts
    fonts.find_font.cache_clear()


@pytest.fixture
def dejavu() -> str:
    """A font of many scripts, but without Chinese, Japanese or Korean."""
    matplotlib = pytest.importorskip("matplotlib")
    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


def told(names: list[str], kind: str = "image") -> tuple[list[str], list[str]]:
    """What is drawn, and what is said."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        shown = drawable_names(names, kind=kind)
    return shown, [str(one.message) for one in found if one.category is Notice]


def test_a_system_font_draws_what_it_has(having: _Having, dejavu: str, tmp_path: Path) -> None:
    (tmp_path / "broken.ttf").write_bytes(b"not a font")
    having(str(tmp_path / "broken.ttf"), str(tmp_path / "gone.ttf"), dejavu)
    for name in ("кот.jpg", "قطة.jpg", "naïve – “ü”", "cafe\N{COMBINING ACUTE ACCENT}"):
        assert fonts.find_font(fonts.drawable(name)) == dejavu
        assert "?" not in drawable(name)
    assert told(["кот.jpg", "a.jpg"]) == (["кот.jpg", "a.jpg"], [])


def test_without_a_font_numbers_are_drawn_and_the_names_are_said(having: _Having) -> None:
    having()
    shown, said = told(["a.jpg", *OTHERS, "what?.jpg"])
    assert shown == ["a.jpg", *(f"image {n}" for n in range(2, 7)), "what?.jpg"]
    (line,) = said
    assert "no font of this system has all characters of these names" in line
    assert all(f"image {n} is {name}" in line for n, name in enumerate(OTHERS, 2))
    assert told(["café.jpg"]) == (["cafe.jpg"], [])
    assert told(["bytes\udcff.jpg"])[0] == ["bytes\\xff.jpg"]


def test_names_that_no_font_has_are_written_without_accents(having: _Having) -> None:
    having()
    plain, accents = (sheet([[Tile(Image.new("RGB", (224, 9)), title)]]) for title in ("Stefan", "Stéfan"))
    assert np.array_equal(np.asarray(plain), np.asarray(accents))


def test_a_long_list_of_such_names_is_cut(having: _Having) -> None:
    having()
    (line,) = told(["猫"] * 25, kind="class")[1]
    assert line.endswith("class 20 is 猫, and 5 more")


def test_different_names_are_drawn_differently(having: _Having, dejavu: str) -> None:
    having(dejavu)
    tile = Image.new("RGB", (64, 64))
    drawn = [np.asarray(sheet([[Tile(tile, name)]])) for name in ("кот", "пёс", "???")]
    rows = [
        np.asarray(demo_sheet([Row(name, [], [], [])], heading="", notes=[], columns=[("", ""), ("", "")]))
        for name in ("кот", "пёс", "???")
    ]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert not np.array_equal(drawn[first], drawn[second])
        assert not np.array_equal(rows[first], rows[second])


def test_writing_without_spaces_is_wrapped(having: _Having, dejavu: str) -> None:
    having(dejavu)
    tile = Image.new("RGB", (224, 64))
    short, long = (sheet([[Tile(tile, "кот" * count)]]) for count in (1, 60))
    assert long.width == short.width
    assert long.height > short.height


def test_the_demo_says_which_number_is_which_name(run: Run, here: Path, having: _Having) -> None:
    having()
    (here / "a" / "cat.jpg").rename(here / "a" / "猫.jpg")
    code, out, err = run("demo", "a/猫.jpg", "-o", "mine")
    assert (code, "猫.jpg" in out) == (0, True)
    assert "image 1 is 猫.jpg" in err


def test_classes_of_a_confusion_matrix_have_a_font_or_a_number(having: _Having, dejavu: str, tmp_path: Path) -> None:
    from hierax.train.plots import draw_confusion

    having(dejavu)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_confusion(np.eye(2, dtype=int), ["кот", "قطة"], tmp_path / "a.png")
    with pytest.warns(Notice, match="class 1 is 猫"):
        draw_confusion(np.eye(2, dtype=int), ["кот", "猫"], tmp_path / "b.png")
