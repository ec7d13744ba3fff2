"""File names with control characters are shown by all commands, and never obeyed by the terminal."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from collections_of import collection, noise
from hierax.notices import printable

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)
NAMES = ["a\x1b[31mred.png", "b\x1b]0;title\x07.png", "c\n0.9999  fake.png", "d\r\x7f\x9b2J.png", "e\u202egnp.png"]


@pytest.fixture
def nasty(here: Path) -> Path:
    os.mkdir("nasty")
    for number, name in enumerate(NAMES):
        levels = np.random.default_rng(number).integers(0, 256, (80, 90, 3), dtype=np.uint8)
        Image.fromarray(levels).save(Path("nasty", name))
    Path("nasty", "broken\x1b[2J.png").write_text("no image")
    return here / "nasty"


def check(text: str) -> None:
    for character in text:
        assert character == "\n" or character.isprintable(), repr(text)
    assert "\n0.9999  fake" not in text


def test_what_is_shown_is_one_line_of_visible_characters() -> None:
    assert printable("caf\udce9 \ud83d") == "caf\\xe9 \\ud83d"
    assert printable("a\x1b[2J\nb\tü\u2028…\x9b") == "a\\x1b[2J\\nb\\tü\\u2028…\\x9b"


def test_commands_over_files_escape_names(run: Run, nasty: Path, classifier_folder: str, segmenter_folder: str) -> None:
    for command in (
        ("classify", "nasty", "--model", classifier_folder),
        ("features", "nasty", "-o", "maps", "--model", classifier_folder),
        ("explain", "nasty", "-o", "heat", "--model", classifier_folder),
        ("segment", "nasty", "-o", "segmented", "--model", segmenter_folder),
        ("stats", "nasty"),
        ("embed", "nasty", "-o", "out", "--model", classifier_folder, "--workers", "0"),
        ("classify", "nasty/none\x1b[2J.png"),
    ):
        _, out, err = run(*command)
        check(out + err)
        assert "\\x1b[" in out + err or command[0] in ("embed", "stats"), command


def test_commands_over_a_collection_escape_names(run: Run, nasty: Path) -> None:
    paths = [str(nasty / name) for name in NAMES]
    collection(Path("rows"), np.tile(noise(1), (5, 1)) + 0.01 * noise(5, seed=1), paths=paths)
    for command in (
        ("search", "rows", paths[0]),
        ("search", "rows", "no\x1b[2J", paths[2]),
        ("duplicates", "rows", "--threshold", "0.5", "--html", "d.html"),
        ("outliers", "rows"),
        ("map", "rows", "-o", "map\x1b[2J.html"),
    ):
        code, out, err = run(*command)
        check(out + err)
        assert "\\x1b" in out + err, command
        assert code in (0, 3)
    _, out, _ = run("outliers", "rows", "--json", "--alike", "1")
    assert {json.loads(line)["path"] for line in out.splitlines()} <= set(paths)


def test_words_are_no_query(run: Run, here: Path) -> None:
    collection(Path("rows"), noise(5))
    code, _, err = run("search", "rows", "a cat on the grass")
    assert code == 2
    assert "Hiera has no text encoder" in err
    assert "text encoder" not in run("search", "rows", "photos/missing.jpg")[2]


def test_the_british_spelling_of_neighbors_still_works_but_is_not_shown(run: Run, here: Path) -> None:
    collection(Path("rows"), noise(9))
    assert run("outliers", "rows", "--neighbours", "3") == run("outliers", "rows", "--neighbors", "3")
    assert "neighbours" not in run("outliers", "--help")[1]
