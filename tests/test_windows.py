"""Windows of videos in duplicates, search, outliers and maps: never taken for files that are there more than once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from videos import video

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)


@pytest.fixture
def films(run: Run, here: Path, clips: str) -> Path:
    """A video that stands still, the same file again, and one that moves: nine windows."""
    os.mkdir("films")
    still = video([np.full((48, 64, 3), 90, np.uint8)] * 90)
    for name in ("a.mp4", "copy of a.mp4"):
        Path("films", name).write_bytes(still)
    Path("films/moving.mp4").write_bytes(video(90))
    how = ("--backend", "torch", "--precision", "fp32", "--device", "cpu", "--workers", "0")
    assert run("embed", "films", "-o", "out", "--model", clips, *how)[0] == 0
    return here / "films"


def name(path: str) -> str:
    return os.path.basename(path)


def test_windows_of_one_video_are_never_the_same_file(run: Run, films: Path) -> None:
    code, out, _ = run("duplicates", "out", "--threshold", "0.999", "--json", "--linkage", "first")
    groups = [json.loads(line)["members"] for line in out.splitlines()]
    exact = {name(m["path"]): m["exact"] for group in groups for m in group}
    first = next(group[0]["path"] for group in groups if "/a.mp4" in group[0]["path"])
    assert name(first) == "a.mp4#t=0"
    assert exact["a.mp4#t=1.067"] is False
    assert exact["copy of a.mp4#t=0"] is True
    assert exact["copy of a.mp4#t=1.067"] is False  # the same file, and not the same time as the first of the group
    assert code == 0


def test_equal_files_are_equal_window_by_window_at_any_threshold(run: Run, films: Path) -> None:
    _, out, _ = run("duplicates", "out", "--threshold", "1", "--json", "--whiten")
    groups = [[name(m["path"]) for m in json.loads(line)["members"]] for line in out.splitlines()]
    for time in ("0", "1.067", "2.133"):
        (group,) = [group for group in groups if f"a.mp4#t={time}" in group]
        assert f"copy of a.mp4#t={time}" in group


def test_nothing_advises_to_delete_a_video_because_its_windows_are_alike(run: Run, films: Path) -> None:
    _, out, err = run("duplicates", "out", "--threshold", "0.999", "--html", "page.html")
    assert "segments of 2 videos\n" in out
    assert "group of similar segments: " in err or "groups of similar segments: " in err
    page = Path("page.html").read_text()
    for text in (out, err, page):
        for word in ("picture", "redundant", "could go", "the same file<", "all but the largest of each group<"):
            assert word not in text, word
    assert "the same file and time" in page


def test_windows_are_verified_by_more_than_the_frame_they_begin_with(run: Run, films: Path) -> None:
    frames = [np.full((48, 64, 3), 90, np.uint8)] * 10 + [np.full((48, 64, 3), 200, np.uint8)] * 20
    Path("films/begins like a.mp4").write_bytes(video(frames))
    assert run("embed", "-o", "out", "--update", "--workers", "0")[0] == 0
    _, out, _ = run("duplicates", "out", "--threshold", "0.01", "--verify", "--json")
    members = [name(m["path"]) for line in out.splitlines() for m in json.loads(line)["members"]]
    assert "copy of a.mp4#t=0" in members
    assert "begins like a.mp4#t=0" not in members


def test_a_video_is_searched_for_window_by_window(run: Run, films: Path) -> None:
    Path("new.mp4").write_bytes(Path("films/moving.mp4").read_bytes())
    code, out, _ = run("search", "out", "new.mp4", "--top-k", "1", "--device", "cpu", "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["query"] for row in found] == ["new.mp4#t=0", "new.mp4#t=1.067", "new.mp4#t=2.133"]
    assert [name(row["hits"][0]["path"]) for row in found] == [f"moving.mp4#t={t}" for t in ("0", "1.067", "2.133")]


def test_a_video_of_the_collection_needs_no_model(run: Run, films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("no model is needed")

    monkeypatch.setattr("hierax.embedding.search.embed_queries", refuse)
    code, out, _ = run("search", "out", "films/moving.mp4", "--top-k", "1")
    assert code == 0
    assert [line for line in out.splitlines() if not line.startswith(" ")] == [
        "films/moving.mp4#t=0", "films/moving.mp4#t=1.067", "films/moving.mp4#t=2.133",
    ]  # fmt: skip


def test_maps_and_outliers_speak_of_windows(run: Run, films: Path) -> None:
    assert run("map", "out", "-o", "map.html", "--method", "pca")[0] == 0
    assert run("outliers", "out", "--html", "odd.html")[0] == 0
    assert run("search", "out", str(films / "a.mp4#t=0"), "--html", "found.html")[0] == 0
    for page in ("map.html", "odd.html", "found.html"):
        text = Path(page).read_text()
        assert "segments" in text
        assert "pictures" not in text
