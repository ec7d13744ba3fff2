"""Searching a collection through the server: only its own rows and images, as the library finds them."""

import asyncio
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("pyarrow")
from PIL import Image
from starlette.testclient import TestClient

import hierax
import hierax.serve.collection as served_collection
from answers import encoded, error_of, picture, send, served
from collections_of import collection as made_up
from collections_of import noise
from hierax.collection.projection import layout
from hierax.collection.store import CollectionError
from hierax.embedding import embed
from hierax.serve.errors import Refusal
from hierax.serve.service import Service

OPTIONS: dict[str, Any] = {"precision": "fp32", "backend": "torch", "threads": 1, "workers": 0}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images, of which the first two are equal, and their collection."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "images").mkdir()
    for number in range(10):
        content = encoded(picture(120, 90, seed=max(number, 1)))
        (folder / "images" / f"{number}.png").write_bytes(content)
    embed([folder / "images"], folder / "features", **OPTIONS)
    return folder


@pytest.fixture(scope="module")
def client(place: Path) -> Iterator[TestClient]:
    with served("hierax/femto", collection=place / "features") as client:
        yield client


def ids_of(client: TestClient) -> list[str]:
    return [row["id"] for row in client.get("/v1/collection/rows").json()["rows"]]


def test_an_image_finds_what_search_finds(client: TestClient, place: Path, tmp_path: Path) -> None:
    query = tmp_path / "query.png"
    query.write_bytes(encoded(picture(200, 150, seed=4)))
    (wanted,) = hierax.search(place / "features", query, top_k=4)
    (found,) = send(client, "/v1/search", query.read_bytes(), k=4).json()["results"]
    assert [(hit["id"], hit["path"], hit["score"]) for hit in found["hits"]] == [
        (hit.id, hit.path, hit.score) for hit in wanted.hits
    ]
    assert found["hits"][0]["name"] == Path(wanted.hits[0].path).name


def test_a_row_finds_what_search_finds_and_not_itself(client: TestClient, place: Path) -> None:
    for row in ids_of(client)[:3]:
        (wanted,) = hierax.search(place / "features", row, top_k=3)
        expected = [(hit.id, hit.score) for hit in wanted.hits]
        for answer in (client.get(f"/v1/search?k=3&id={row}"), client.post("/v1/search", json={"k": 3, "id": row})):
            (found,) = answer.json()["results"]
            assert [(hit["id"], hit["score"]) for hit in found["hits"]] == expected
            assert row not in [hit["id"] for hit in found["hits"]]


def test_rows_come_in_pages_and_by_their_id(client: TestClient) -> None:
    first = client.get("/v1/collection/rows?limit=4").json()
    rest = client.get("/v1/collection/rows?offset=4&limit=1000").json()
    assert (first["count"], len(first["rows"]), len(rest["rows"])) == (10, 4, 6)
    assert first["rows"][0]["name"] == "0.png"
    assert (first["rows"][0]["width"], first["rows"][0]["height"]) == (120, 90)
    row = rest["rows"][2]
    assert client.get(f"/v1/collection/rows?id={row['id']}").json() == {"offset": 6, "count": 10, "rows": [row]}
    assert client.get("/v1/collection/rows?offset=99").json()["rows"] == []


def test_a_thumbnail_is_the_image_of_a_row_within_the_side(client: TestClient) -> None:
    row = ids_of(client)[0]
    answer = client.get(f"/v1/collection/thumbnail/{row}?side=64")
    assert (answer.headers["content-type"], answer.headers["cache-control"]) == (
        "image/jpeg",
        "private, max-age=3600",
    )
    image = Image.open(io.BytesIO(answer.content))
    assert image.size == (64, 48)
    wanted = picture(120, 90, seed=1).resize((64, 48))
    assert np.abs(np.asarray(image, int) - np.asarray(wanted, int)).mean() < 4


@pytest.mark.parametrize("name", ["..%2Fimages%2F0.png", "0.png", "0" * 16, "%00", "a" * 5000])
def test_no_file_is_shown_that_is_not_the_id_of_a_row(client: TestClient, place: Path, name: str) -> None:
    answer = client.get(f"/v1/collection/thumbnail/{name}")
    assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")
    path = str(place / "images" / "0.png")
    for wanted in (path, name):
        answer = client.get("/v1/search", params={"id": wanted})
        assert answer.status_code in (400, 404), answer.text


def test_an_image_that_was_changed_is_not_shown(place: Path, tmp_path: Path) -> None:
    copy = tmp_path / "place"
    (copy / "images").mkdir(parents=True)
    (copy / "images" / "0.png").write_bytes(encoded(picture(seed=8)))
    embed([copy / "images"], copy / "features", **OPTIONS)
    (copy / "images" / "0.png").write_bytes(encoded(picture(seed=9)))
    with served("hierax/femto", collection=copy / "features") as client:
        answer = client.get(f"/v1/collection/thumbnail/{ids_of(client)[0]}")
        assert answer.status_code == 404
        assert "the file has changed" in error_of(answer)["message"]


def test_duplicates_are_those_of_the_library(client: TestClient, place: Path) -> None:
    wanted = hierax.duplicates(place / "features", threshold=0.99)
    found = client.get("/v1/collection/duplicates?threshold=0.99").json()
    assert found["threshold"] == 0.99
    assert [[m["id"] for m in group] for group in found["groups"]] == [[m.id for m in g.members] for g in wanted]
    assert found["groups"][0][1]["exact"]


def test_the_map_is_that_of_the_library_and_is_computed_once(
    client: TestClient, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = layout(place / "features", points=7)
    found = client.get("/v1/collection/map?points=7").json()
    assert [(p["id"], p["x"], p["y"]) for p in found["points"]] == [(p.id, p.x, p.y) for p in wanted.points]
    assert (found["count"], found["method"]) == (10, wanted.method)
    monkeypatch.setattr("hierax.collection.projection.layout", None)
    assert client.get("/v1/collection/map?points=7").json() == found


def test_a_collection_that_grows_is_read_again_after_some_time(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(place / "images", tmp_path / "images")
    embed([tmp_path / "images"], tmp_path / "features", **OPTIONS)
    with served("hierax/femto", collection=tmp_path / "features") as client:
        (tmp_path / "images" / "new.png").write_bytes(encoded(picture(seed=77)))
        embed([tmp_path / "images"], tmp_path / "features", update=True, **OPTIONS)
        monkeypatch.setattr(served_collection, "_REFRESH", 1e9)
        assert client.get("/v1/collection").json()["count"] == 10
        monkeypatch.setattr(served_collection, "_REFRESH", 0)
        assert client.get("/v1/collection").json()["count"] == 11
        (found,) = send(client, "/v1/search", encoded(picture(seed=77)), k=1).json()["results"]
        assert found["hits"][0]["name"] == "new.png"
        shard = next((tmp_path / "features" / "data").glob("*.parquet"))
        shard.write_bytes(b"damaged")
        assert client.get("/v1/collection").json()["count"] == 11


def test_a_damaged_collection_is_told_at_the_start(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "features", tmp_path / "features")
    for file in (tmp_path / "features" / "index").glob("*"):
        file.unlink()
    shard = next((tmp_path / "features" / "data").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(CollectionError, match=r"part-0000-0000000\.parquet"):
        Service("hierax/femto", collection=tmp_path / "features", precision="fp32", backend="torch").open()
    with pytest.raises(CollectionError, match="no collection"):
        Service("hierax/femto", collection=tmp_path, precision="fp32", backend="torch").open()


def test_a_collection_of_a_model_that_is_not_there_is_told_at_the_start(tmp_path: Path) -> None:
    folder = made_up(tmp_path / "made", noise(5))
    with pytest.raises((ValueError, OSError), match="tiny"):
        Service("hierax/femto", collection=folder, precision="fp32", backend="torch").open()


def test_an_id_that_looks_like_a_number_is_found(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = client.get("/v1/search?id=12e4567890123456")
    assert (answer.status_code, "'12e4567890123456'" in error_of(answer)["message"]) == (404, True)


def test_a_query_needs_an_image_or_an_id(client: TestClient) -> None:
    answer = client.post("/v1/search", json={})
    assert (answer.status_code, error_of(answer)["field"]) == (400, "image")
    answer = send(client, "/v1/search", encoded(), id="0" * 16)
    assert (answer.status_code, error_of(answer)["field"]) == (400, "id")


def test_a_server_without_a_collection_says_so() -> None:
    with served("hierax/femto") as client:
        for path in ("/v1/collection", "/v1/collection/rows", "/v1/collection/map", "/v1/search?id=0"):
            assert "hierax serve --collection" in error_of(client.get(path))["message"]


@pytest.fixture
def growing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> served_collection.Collection:
    """A collection of 60 rows without a model, in `tmp_path`; the folder is looked at only if this is needed."""
    made_up(tmp_path, noise(60))
    monkeypatch.setattr(served_collection.Collection, "_open_queries", lambda *_: None)
    monkeypatch.setattr(served_collection, "_REFRESH", 1e9)
    models: Any = SimpleNamespace(settings=SimpleNamespace(max_pixels=None))
    return served_collection.Collection(tmp_path, models)


def test_rows_that_changed_a_moment_ago_are_read_again_at_once(
    growing: served_collection.Collection, tmp_path: Path
) -> None:
    first, second = noise(60), noise(80, seed=1)
    assert growing.search(first[7:8], 1)[0][0].path == "0/7.jpg"
    made_up(tmp_path, second)
    (hits,) = growing.search(second[71:72], 2)
    assert (hits[0].path, hits[0].score) == ("0/71.jpg", 1.0)
    made_up(tmp_path, second[:55])
    row = growing.rows(54, 5)["rows"][0]
    assert growing.search_row(row["id"], 1)[0].path == "0/54.jpg"


def test_rows_of_another_model_and_damaged_ones_are_never_compared(
    growing: served_collection.Collection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made_up(tmp_path, noise(60, seed=1), weights="of another model")
    for _ in range(2):
        with pytest.raises(Refusal, match="the collection is being changed, or cannot be read") as found:
            growing.search(noise(1), 1)
        assert (found.value.status, found.value.retry_after) == (503, 5)
    assert "start the server again" in caplog.text
    assert caplog.text.count("start the server again") == 1
    made_up(tmp_path, noise(60))
    assert growing.search(noise(60)[7:8], 1)[0][0].path == "0/7.jpg"
    for shard in (tmp_path / "data").glob("*"):
        shard.write_bytes(b"damaged")
    for call in (lambda: growing.rows(0, 5), lambda: asyncio.run(growing.long(growing.map, 5))):
        with pytest.raises(Refusal, match="cannot be read"):
            call()
