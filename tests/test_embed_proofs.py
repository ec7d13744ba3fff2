"""The proofs of `hierax embed` in benchmarks/ at toy size: each runs whole, and each can fail. Never a speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from collections_of import collection, noise
from hierax.processing import ImageError, load_image

pytest_plugins = ("benches",)
pytestmark = pytest.mark.usefixtures("small_and_private")


def test_pictures_are_the_same_for_the_same_seed_and_can_be_read(script: Any, tmp_path: Path) -> None:
    written = [script("embed_pictures").write_pictures(tmp_path / name, 30, broken=0, jobs=1) for name in "ab"]
    assert written == [{}, {}]
    files = [sorted(path for path in (tmp_path / name).rglob("*.*")) for name in "ab"]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    assert len({path.suffix for path in files[0]}) >= 4
    assert len([load_image(path) for path in files[0]]) == 30


def test_every_kind_of_broken_file_is_refused(script: Any) -> None:
    pictures = script("embed_pictures")
    image = pictures.opened(pictures.shipped()[0]).resize((300, 200))
    for _, made in pictures.BROKEN.values():
        content = made(image)
        if content is not None:
            with pytest.raises(ImageError):
                load_image(content)
    assert len(pictures.BROKEN) == 10


@pytest.mark.slow  # three starts of the command
def test_a_killed_run_ends_as_an_uninterrupted_one(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proofs, folder = script("embed_proofs"), str(tmp_path)
    assert proofs.main(["pictures", folder, "--count", "40", "--broken", "10"]) == 0
    assert proofs.main(["kills", folder, "--kills", "1"]) == 0, capsys.readouterr().out
    out = capsys.readouterr().out
    assert "40 rows, 10 errors; differences after 1 kills: none" in out
    assert "1 x dangling link: No such file or directory (1)" in out


def test_differences_between_collections_are_seen(script: Any, tmp_path: Path) -> None:
    differences = script("embed_proofs").differences
    vectors = noise(100)
    for name, rows in (("one", vectors), ("same", vectors), ("row", vectors + 1e-6), ("fewer", vectors[:50])):
        collection(tmp_path / name, rows)
        (tmp_path / name / "errors.parquet").write_bytes(b"the same")
    assert differences(tmp_path / "one", tmp_path / "same") == []
    assert differences(tmp_path / "one", tmp_path / "row")[0] == "rows"
    assert differences(tmp_path / "one", tmp_path / "fewer") == ["2 and 1 shards"]
    (tmp_path / "same" / "data" / ".part-0.part").touch()
    assert differences(tmp_path / "one", tmp_path / "same") == [".part-0.part was left"]


@pytest.mark.slow
def test_peaks_of_memory_are_compared(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("embed_proofs").main(["memory", str(tmp_path), "--rows", "20,40"]) == 0
    out = capsys.readouterr().out
    assert "20 rows: " in out
    assert "40 rows: " in out
    assert "bars (1.05 x the first + 50 MB)" in out


def test_parts_that_look_the_same_are_taken_once(script: Any, tmp_path: Path) -> None:
    module, pictures = script("embed_duplicates"), script("embed_pictures")
    source = pictures.shipped()[0]
    again = tmp_path / "again.png"
    Image.open(source).save(again)
    parts = [part for path in (source, again, pictures.shipped()[1]) for part in module.parts_of(path)]
    kept = module.distinct(parts)
    assert {part.source for part in kept} == {source, pictures.shipped()[1]}
    assert len(kept) == len({(part.source, part.cells, part.number) for part in kept})


@pytest.mark.slow
def test_planted_duplicates_are_looked_for(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("embed_proofs").main(["duplicates", str(tmp_path), "--count", "40", "--planted", "8"]) in (0, 1)
    out = capsys.readouterr().out
    assert "40 pictures, 8 planted" in out
    assert out.count("| whitened, verified |") == 5
    truth = json.loads((tmp_path / "planted" / "truth.json").read_text())
    assert len({kind for _, _, kind in truth}) == 4
    assert all(Path(path).is_file() for *pair, _ in truth for path in pair)


def test_speeds_are_measured_and_compared(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    speed = script("embed_speed")
    code = speed.main(["--count", "4", "--rounds", "1", "--precisions", "auto", "--size", "64",
                       "--json", str(tmp_path / "found.json")])  # fmt: skip
    assert code in (0, 1)
    assert "| embed / transformers |" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["ratios"].keys() == {"embed / engine", "embed / transformers"}
    assert found["seconds"].keys() == {"engine", "embed", "transformers"}
