"""`hierax.search`, `hierax.write_map`, `hierax.stats`: what the commands do, as functions."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hierax


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "photos"
    for number in range(4):
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        levels = np.random.default_rng(number).integers(0, 256, (40, 50, 3)).astype(np.uint8)
        Image.fromarray(levels).save(folder / "ab"[number % 2] / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def collection(photos: Path) -> Path:
    hierax.embed(photos, photos.parent / "features", workers=0)
    return photos.parent / "features"


def test_a_collection_is_searched_by_folder_or_by_an_open_index(collection: Path, photos: Path) -> None:
    query = photos / "a" / "0.png"
    [found] = hierax.search(collection, query, top_k=2)
    assert (found.query, found.error, len(found.hits)) == (str(query), None, 2)
    assert str(query) not in [hit.path for hit in found.hits]
    assert hierax.search(hierax.Index(collection), [str(query)], top_k=2) == [found]


def test_a_query_that_is_no_file_is_an_error_of_its_own(collection: Path) -> None:
    [found] = hierax.search(collection, "words")
    assert found.error is not None
    assert "no text encoder" in found.error.problem


def test_a_map_is_written_and_its_places_returned(collection: Path, tmp_path: Path) -> None:
    places = hierax.write_map(collection, tmp_path / "map.html", method="pca", color_by="folder")
    assert (len(places.points), places.method) == (4, "pca")
    assert (tmp_path / "map.html").read_text(encoding="utf-8").lower().startswith("<!doctype html")
    with pytest.raises(ValueError, match=r"map\.html would be replaced"):
        hierax.write_map(collection, tmp_path / "map.html")
    hierax.write_map(collection, tmp_path / "map.html", method="pca", overwrite=True)


@pytest.mark.parametrize(
    ("name", "given", "problem"),
    [
        ("map.jpg", {}, "is not the name of a page"),
        ("map.html", {"color_by": "labels.csv"}, "labels.csv: no such file"),
        ("map.html", {"column": "stage9"}, "no column 'stage9'"),
    ],
)
def test_what_a_map_cannot_be_is_a_value_error(
    name: str, given: dict[str, str], problem: str, collection: Path, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, hierax.CollectionError), match=problem):
        hierax.write_map(collection, tmp_path / name, **given)  # type: ignore[arg-type]
    assert not (tmp_path / name).exists()


def test_a_dataset_is_counted(photos: Path) -> None:
    found = hierax.stats(photos, workers=0)
    assert isinstance(found, hierax.DatasetStatistics)
    assert (found.samples, found.classes, found.channels) == (4, {"a": 2, "b": 2}, 3)
