"""`hierax.search`, `hierax.write_map`, `hierax.stats`: what the commands do, as functions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hierax
from small import image_config

search: Any = hierax.search  # for arguments of wrong types
embed: Any = hierax.embed
open_index: Any = hierax.Index


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


def test_a_collection_is_made_with_any_model_that_has_pooled_features(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = hierax.HieraForImageClassification(image_config(num_labels=3))
    classifier.save_pretrained(tmp_path / "saved")
    vectors = []
    for number, model in enumerate([classifier, tmp_path / "saved", hierax.load(tmp_path / "saved", task="features")]):
        hierax.embed(photos, tmp_path / str(number), model=model, workers=0)
        index = hierax.Index(tmp_path / str(number))
        vectors.append(index.vectors_of([str(path) for path in sorted(photos.rglob("*.png"))]))
    assert np.array_equal(vectors[0], vectors[1])
    assert np.array_equal(vectors[0], vectors[2])
    mae = hierax.HieraForPreTraining(image_config(num_query_pool=2))
    mae.save_pretrained(tmp_path / "mae")
    for number, model in enumerate([mae, tmp_path / "mae"]):
        hierax.embed(photos, tmp_path / f"mae-{number}", model=model, workers=0)
    one, two = (
        hierax.Index(tmp_path / f"mae-{number}").vectors_of([str(path) for path in sorted(photos.rglob("*.png"))])
        for number in range(2)
    )
    assert np.array_equal(one, two)
    backbone = hierax.HieraBackbone(image_config())
    with pytest.raises(ValueError, match=r"model is a HieraBackbone, which has no .* for the layer 'pooled'"):
        hierax.embed(photos, tmp_path / "none", model=backbone, workers=0)
    assert not (tmp_path / "none").exists()


def test_unreadable_files_may_be_named_twice(
    collection: Path, tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.png").write_bytes(b"no image")
    Image.new("RGB", (40, 40), "red").save("red.png")
    both = ["broken.png", str(tmp_path / "broken.png"), "red.png", str(tmp_path / "red.png")]
    found = {one.query: one for one in hierax.search(collection, both, top_k=2)}
    assert [found[name].error is None for name in both] == [False, False, True, True]
    assert found["red.png"].hits == found[both[3]].hits


def test_the_column_of_an_open_index_is_not_changed_in_silence(photos: Path, tmp_path: Path) -> None:
    hierax.embed(photos, tmp_path / "two", layers=("stage3", "pooled"), workers=0)
    index = hierax.Index(tmp_path / "two", column="stage3")
    message = "column is 'embedding', but the index has the column 'stage3'|index is of the column 'stage3'"
    works: list[Callable[[], object]] = [
        lambda: hierax.search(index, photos / "a" / "0.png", column="embedding"),
        lambda: hierax.duplicates(index, column="embedding"),
        lambda: hierax.outliers(index, column="embedding"),
        lambda: hierax.write_map(index, tmp_path / "map.html", column="embedding"),
    ]
    for work in works:
        with pytest.raises(ValueError, match=message):
            work()
    assert hierax.search(index, photos / "a" / "0.png", column="stage3")


@pytest.mark.parametrize(
    ("work", "error", "message"),
    [
        (lambda c: search(c, "a", top_k=0), ValueError, "top_k is 0; expected a whole number, at least 1"),
        (lambda c: search(c, "a", top_k=2.5), ValueError, "top_k is 2.5; expected a whole number"),
        (lambda c: search(c, Image.new("L", (1, 1))), TypeError, "queries is a Image; expected ids of rows"),
        (lambda c: search(c, ["a", 3]), TypeError, r"queries\[1\] is a int; expected ids of rows, or paths"),
        (lambda c: embed([Image.new("L", (1, 1))], c), TypeError, r"sources\[0\] is a Image; expected paths"),
        (lambda c: open_index(c).search(np.ones((1, 2)), 2.5), ValueError, "shape|k is 2.5"),
        (lambda c: hierax.stats(c.parent / "photos", workers=-1), ValueError, "workers is -1; expected a whole number"),
        (lambda c: hierax.Index(c).vectors_of("photos/0.jpg"), ValueError, "'photos/0.jpg' is not the id or path"),
    ],
)
def test_wrong_arguments_are_named(
    collection: Path, work: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        work(collection)


def test_numbers_of_numpy_are_numbers(collection: Path, photos: Path) -> None:
    assert len(hierax.search(collection, photos / "a" / "0.png", top_k=np.int64(2))[0].hits) == 2  # type: ignore[arg-type]
    [found] = hierax.classify(photos / "a" / "0.png", top_k=np.int64(2))  # type: ignore[arg-type]
    assert len(found.predictions) == 2
