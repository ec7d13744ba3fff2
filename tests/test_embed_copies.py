"""Copies among the sources of a collection: each has its rows, and the command tells how many there are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from samples import encoded, picture, write_parquet, write_tar

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)

FAST = ("--device", "cpu", "--workers", "0")


def write_images(file: Path) -> Path:
    file.parent.mkdir(parents=True)
    images = [encoded(picture(seed=i)) for i in range(3)]
    if file.suffix == ".tar":
        return write_tar(file, {f"{i}.png": image for i, image in enumerate(images)})
    if file.suffix == ".parquet":
        rows: dict[str, list[Any]] = {"image": [{"bytes": image, "path": None} for image in images]}
        return write_parquet(file, rows)
    file.write_bytes(images[0])
    return file


@pytest.mark.parametrize(("name", "count"), [("a.tar", 3), ("a.parquet", 3), ("a.png", 1)])
def test_rows_of_a_copied_source_are_counted(
    run: Run, here: Path, classifier_folder: str, monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", here / "cache")
    file = write_images(here / "d" / name)
    code, _, err = run("embed", "d", "-o", "out", "--model", classifier_folder, *FAST)
    assert (code, "cop" in err) == (0, False)
    copy = shutil.copy(file, file.with_stem("b"))
    code, out, err = run("embed", "-o", "out", "--update", *FAST)
    rows = "1 row is a copy" if count == 1 else f"{count} rows are copies"
    assert (code, out) == (0, f"{2 * count} rows in out\n")
    assert f"{rows} (the same bytes as another row); hierax duplicates out lists them" in err
    code, out, _ = run("duplicates", "out", "--json", "--threshold", "1")
    groups = [json.loads(line)["members"] for line in out.splitlines()]
    assert [[member["exact"] for member in group] for group in groups] == [[True, True]] * count
    Path(copy).rename(file.with_stem("c"))  # under another name they are new, and the old rows are gone
    code, out, err = run("embed", "-o", "out", "--update", "--json", *FAST)
    found = json.loads(out)
    assert (found["rows"], found["copies"], found["gone"], found["done"]) == (2 * count, count, count, count)
