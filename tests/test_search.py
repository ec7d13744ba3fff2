"""`hierax search`: by rows of the collection, and by pictures, which only the collection's own model may embed."""

import argparse
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import hierax.embedding.search as indexing
from collections_of import collection, noise, unit
from hierax.cli import search as command
from hierax.collection.source import Source
from hierax.collection.store import CollectionError, source_id
from hierax.notices import Notice

VECTORS = noise(230)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """230 rows in five shards."""
    return collection(tmp_path / "rows", VECTORS)


def likest(row: int, count: int) -> list[str]:
    """Lines for the rows most like a row, without itself."""
    scores = np.round(unit(VECTORS) @ unit(VECTORS)[row], 6)
    best = np.argsort(-scores)[1 : count + 1]
    return [f"  {scores[other]:.4f}  0/{other}.jpg" for other in best]


def arguments(*given: str) -> Any:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(given)


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """In place of a model: the vector of `12.png` is row 12; any other file cannot be read."""
    asked = SimpleNamespace(paths=[])

    def embed(sources: list[Source], made: Any, **options: Any) -> tuple[np.ndarray, list[tuple[str, str]]]:
        paths = [Path(source.path) for source in sources]
        asked.paths += [path.name for path in paths]
        good = [int(path.stem) for path in paths if path.stem.isdecimal()]
        return VECTORS[good], [(str(p), "not an image") for p in paths if not p.stem.isdecimal()]

    monkeypatch.setattr(indexing, "embed_queries", embed)
    return asked


def test_a_row_is_searched_for_without_a_model_and_without_itself(
    folder: Path, embedded: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(arguments(str(folder), source_id("0/5.jpg"), "0/9.jpg", "--top-k", "3")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [source_id("0/5.jpg"), *likest(5, 3), "0/9.jpg", *likest(9, 3)]
    assert embedded.paths == []


def test_pictures_are_embedded_and_unreadable_ones_named(
    folder: Path, tmp_path: Path, embedded: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("12.png", "notes.png"):
        (tmp_path / name).write_text("-")
    assert command.run(arguments(str(folder), str(tmp_path / "12.png"), str(tmp_path / "notes.png"), "--json")) == 3
    out, err = capsys.readouterr()
    assert '"path": "0/12.jpg", "score": 1.0}' in out
    assert '"error": "not an image"' in out
    assert "notes.png: not an image" in err
    assert command.run(arguments(str(folder), str(tmp_path / "notes.png"), "missing.png")) == 2
    assert "missing.png: no such file" in capsys.readouterr().err


@pytest.fixture
def real(tmp_path: Path, features: Path) -> Path:
    """Six pictures, embedded by a small model with random weights; in the folder beside them the first one again."""
    from PIL import Image

    from hierax.embedding import embed

    for number in range(6):
        levels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        place = tmp_path / "pictures" / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(levels).resize((90, 80), Image.Resampling.NEAREST).save(place)
    shutil.copy(tmp_path / "pictures" / "0.png", tmp_path / "again.png")
    embed([tmp_path / "pictures"], tmp_path / "out", model=str(features), workers=0, precision="fp32", device="cpu")
    return tmp_path / "out"


def test_a_picture_finds_its_like_with_the_model_that_made_the_collection(
    real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(arguments(str(real), str(tmp_path / "again.png"), "--top-k", "1", "--device", "cpu")) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.endswith("pictures/0.png")
    assert float(line.split()[0]) > 0.9999


@pytest.mark.parametrize("query", ["pictures/1.png", "pictures"])
def test_a_file_that_has_changed_is_embedded_again(real: Path, tmp_path: Path, query: str) -> None:
    shutil.copy(tmp_path / "again.png", tmp_path / "pictures" / "1.png")
    with pytest.warns(Notice, match=r"pictures/1.png has changed since it was embedded$"):
        found = indexing.search(real, str(tmp_path / query), top_k=5, device="cpu")
    hits = next(result.hits for result in found if result.query.endswith("1.png"))
    assert (Path(hits[0].path).name, round(hits[0].score, 4)) == ("0.png", 1.0)
    assert [result.query.endswith("1.png") for result in found].count(True) == 1
    assert source_id(str(tmp_path / "pictures" / "1.png")) not in [hit.id for hit in hits]


def test_a_picture_is_not_searched_for_with_another_model(real: Path, tmp_path: Path, mae: Path) -> None:
    with pytest.raises(CollectionError, match=r"was made in another way: .*weights was"):
        command.run(arguments(str(real), str(tmp_path / "again.png"), "--model", str(mae), "--device", "cpu"))


def test_a_collection_of_a_model_that_was_passed_says_that_it_names_none(
    tmp_path: Path, real: Path, features: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hierax import HieraModel
    from hierax.embedding import embed

    model = HieraModel.from_pretrained(str(features))
    embed([tmp_path / "pictures"], tmp_path / "passed", model=model, workers=0, precision="fp32", device="cpu")
    picture, place = str(tmp_path / "again.png"), str(tmp_path / "passed")
    with pytest.raises(CollectionError, match=r"passed was made by a HieraModel object.*--model"):
        command.run(arguments(place, picture, "--device", "cpu"))
    assert command.run(arguments(place, picture, "--device", "cpu", "--model", str(features))) == 0
    assert "pictures/0.png" in capsys.readouterr().out


def test_a_contact_sheet_is_written_and_not_replaced_unasked(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "sheet.html"
    assert command.run(arguments(str(folder), "0/9.jpg", "--html", str(page))) == 0
    assert page.read_text().count("<figure") == 11
    with pytest.raises(ValueError, match="would be replaced"):
        command.run(arguments(str(folder), "0/9.jpg", "--html", str(page)))
