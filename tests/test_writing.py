"""Files that cannot be written: the error names the path that was asked for, before the work where that is possible."""

import errno
import os
import stat
from pathlib import Path

import pytest
from PIL import Image

from hierax.atomic import atomic_write, check_writable, name_in_errors
from hierax.cli import main

Said = pytest.CaptureFixture[str]


@pytest.fixture
def photo(tmp_path: Path) -> str:
    Image.new("RGB", (40, 40), "red").save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    """A path below a file, where nothing can be made, whoever runs the tests."""
    (tmp_path / "file").write_text("mine")
    return tmp_path / "file" / "below"


WRITERS: dict[str, tuple[str, list[str]]] = {
    "classify": (".csv", ["classify", "PHOTO", "-o", "OUT"]),
    "classify to parquet": (".parquet", ["classify", "PHOTO", "-o", "OUT"]),
    "reconstruct": (".png", ["reconstruct", "PHOTO", "-o", "OUT"]),
    "bench": (".json", ["bench", "-o", "OUT"]),
    "features": ("", ["features", "PHOTO", "-o", "OUT"]),
    "demo": ("", ["demo", "PHOTO", "-o", "OUT"]),
    "export": ("", ["export", "--format", "pt2", "-o", "OUT"]),
    "convert": (".pth", ["convert", "hierax/femto", "OUT", "--to", "official"]),
    "convert to a folder": ("", ["convert", "hierax/femto", "OUT", "--to", "timm"]),
    "evaluate": (".png", ["evaluate", "DATA", "--confusion", "OUT"]),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_cannot_be_written_is_named_as_it_was_given(name: str, photo: str, blocked: Path, capsys: Said) -> None:
    if name in ("evaluate", "classify to parquet"):
        pytest.importorskip("matplotlib" if name == "evaluate" else "pyarrow")
    suffix, line = WRITERS[name]
    out = f"{blocked}{suffix}"
    given = {"PHOTO": photo, "OUT": out, "DATA": str(Path(photo).parent)}
    assert main([given.get(word, word) for word in line]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"hierax: {out}")
    assert "Not a directory" in last
    assert blocked.parent.read_text() == "mine"


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("iostream error")])
def test_a_full_disk_names_the_file(tmp_path: Path, sync: bool, error: Exception) -> None:
    path = tmp_path / "table.csv"
    path.write_text("before")

    def fill() -> None:
        with atomic_write(path, sync=sync) as part:
            part.write_text("half")
            raise error

    with pytest.raises(OSError, match=r"No space left on device|the disk may be full") as raised:
        fill()
    assert raised.value.filename == str(path)
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]


def test_an_error_of_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised, atomic_write(tmp_path / "table.csv"):
        (tmp_path / "missing.jpg").read_bytes()
    assert raised.value.filename == str(tmp_path / "missing.jpg")


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="other"), name_in_errors(tmp_path / "a", tmp_path / "b"):
        raise RuntimeError("other")


def test_a_check_makes_nothing_and_names_what_is_too_long(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder" / "table.csv")
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match="File name too long"):
        check_writable(tmp_path / ("n" * 300 + ".csv"))


@pytest.mark.parametrize("line", [["bench", "-o"], ["evaluate", ".", "--confusion"]])
def test_a_file_of_another_kind_or_one_that_is_there_is_not_replaced(
    line: list[str], photo: str, tmp_path: Path, capsys: Said
) -> None:
    there = tmp_path / ("there.json" if line[0] == "bench" else "there.png")
    there.write_text("mine")
    if line[0] == "evaluate":
        pytest.importorskip("matplotlib")
    assert main([*line, str(there)]) == 2
    assert f"{there} would be replaced" in capsys.readouterr().err
    assert main([*line, str(tmp_path / "photo.jpg")]) == 2
    assert "is not the name of" in capsys.readouterr().err
    assert there.read_text() == "mine"


@pytest.mark.parametrize(
    ("sync", "expected"), [(True, ["folder", "file", "replaced", "folder"]), (False, ["replaced"])]
)
def test_folder_and_file_are_on_the_disk_before_the_file_takes_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool, expected: list[str]
) -> None:
    done: list[str] = []
    replace = os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: done.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"))
    monkeypatch.setattr(os, "replace", lambda a, b: (replace(a, b), done.append("replaced"))[0])
    with atomic_write(tmp_path / "new" / "table.csv", sync=sync) as part:
        part.write_text("whole")
    assert done == expected
    assert (tmp_path / "new" / "table.csv").read_text() == "whole"


def test_of_several_that_write_a_file_the_first_one_counts(tmp_path: Path) -> None:
    path = tmp_path / "shard.parquet"
    with atomic_write(path, keep=True) as one, atomic_write(path, keep=True) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "other"  # the inner one was done first
    assert [file.name for file in tmp_path.iterdir()] == ["shard.parquet"]
