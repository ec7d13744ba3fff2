"""Bounds of memory, many clients at once, and the bits of an answer."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
from starlette.testclient import TestClient

import hierax
from answers import EXACT, encoded, error_of, picture, send, served
from hierax.embedding import embed
from hierax.processing import HieraImageProcessor, Preprocessing
from hierax.serve import Limits
from hierax.serve.bodies import Upload
from hierax.serve.budget import Budget
from hierax.serve.reading import Reader
from hierax.serve.service import Service, Work


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with served("hierax/femto", limits=Limits(readers=4)) as client:
        yield client


def test_images_wait_for_room_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, most = Reader(room=150_000, max_pixels=None), 0
    lock, now = threading.Lock(), 0
    read = HieraImageProcessor._read

    def watched(self: Any, source: Any, name: str) -> Any:
        nonlocal now, most
        with lock:
            now += 60_000 if source == small else 300_000
            most = max(most, now)
        time.sleep(0.02)
        found = read(self, source, name)
        with lock:
            now -= 60_000 if source == small else 300_000
        return found

    monkeypatch.setattr(HieraImageProcessor, "_read", watched)
    small, large = encoded(picture(300, 200)), encoded(picture(600, 500))
    with ThreadPoolExecutor(8) as pool:
        record = Preprocessing()
        found = list(
            pool.map(lambda content: reader.pixels(Upload("a", content), record, size=None), [small] * 8 + [large] * 2)
        )
    assert len(found) == 10
    assert 120_000 <= most <= 300_000
    assert reader.room.taken == 0


def test_room_is_given_back_when_an_image_is_damaged() -> None:
    reader = Reader(room=10_000, max_pixels=None)
    for _ in range(3):
        with pytest.raises(hierax.ImageError):
            reader.pixels(Upload("a", encoded()[:-100]), Preprocessing(), size=None)
    assert reader.room.taken == 0


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_budget_lets_in_as_many_as_fit_and_a_larger_one_alone(anyio_backend: str) -> None:
    import asyncio

    budget, inside, most = Budget(100), 0, []

    async def hold(count: int) -> None:
        nonlocal inside
        async with budget.hold(count):
            inside += 1
            most.append(inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(hold(40) for _ in range(7)), hold(1000))
    assert max(most) == 2
    assert len(most) == 8
    assert budget.taken == 0


def test_an_answer_that_would_be_huge_is_refused(client: TestClient) -> None:
    files = [encoded(picture(16, 16))] * 20
    answer = send(client, "/v1/features", *files, stage=1, size=1024)
    assert (answer.status_code, error_of(answer)["code"]) == (413, "too_large")
    assert "ask for fewer images, a smaller size or a later stage" in error_of(answer)["message"]


def test_calls_of_an_engine_are_bounded_by_pixels() -> None:
    service = Service("hierax/femto", **EXACT)
    service.open()
    assert service.most(Work("classify", (3, 160, 160))) == 32
    assert service.most(Work("classify", (3, 640, 640))) == 2
    assert service.most(Work("classify", (3, 1024, 1024))) == 1
    service.close()


def test_an_answer_does_not_depend_on_the_requests_beside_it(client: TestClient) -> None:
    contents = [encoded(picture(100, 80, seed=seed)) for seed in range(6)]
    alone = [send(client, "/v1/embed", content).json()["results"][0]["embedding"] for content in contents]

    def ask(number: int) -> bool:
        which = [number % 6, (number * 5 + 1) % 6]
        found = send(client, "/v1/embed", *(contents[one] for one in which)).json()["results"]
        return [item["embedding"] for item in found] == [alone[one] for one in which]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(40)))


def test_the_vectors_of_the_fastest_backend_are_those_of_a_collection_to_the_last_bit(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pq = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "images").mkdir()
    contents = [encoded(picture(200, 150, seed=seed), "JPEG", quality=90) for seed in range(5)]
    for number, content in enumerate(contents):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(content)
    how = {"precision": "bf16", "backend": "openvino", "threads": 1}
    embed([tmp_path / "images"], tmp_path / "features", workers=0, **how)
    (shard,) = (tmp_path / "features" / "data").glob("*.parquet")
    table = pq.read_table(shard)
    wanted = np.stack([np.asarray(row, np.float32) for row in table["embedding"].to_pylist()])
    with served("hierax/femto", **how) as client:
        found = send(client, "/v1/embed", *contents).json()["results"]
    assert np.array_equal(np.array([item["embedding"] for item in found], np.float32), wanted)


def test_a_long_name_is_cut(client: TestClient) -> None:
    files = [("image", ("x" * 3000 + ".png", encoded()))]
    (item,) = client.post("/v1/classify", files=files).json()["results"]
    assert item["name"] == "x" * 255 + "…"


def test_a_model_for_another_task_is_told_at_the_start() -> None:
    with pytest.raises(ValueError, match="mae is hierax/femto, a model for classification; expected an MAE model"):
        Service("hierax/femto", mae="hierax/femto", **EXACT).open()
    with pytest.raises(ValueError, match="segmentation is hierax/femto, a model for classification; expected a segm"):
        Service("hierax/femto", segmentation="hierax/femto", **EXACT).open()
    with pytest.raises(OSError, match="nothing"):
        Service("hierax/femto", mae="nothing/here/at-all", **EXACT).open()


def test_a_masked_autoencoder_alone_is_served_for_reconstructions() -> None:
    with served("hierax/femto.mae") as client:
        assert client.get("/v1/model").json()["mae"]["units"] == [5, 5]
        (item,) = send(client, "/v1/reconstruct", encoded()).json()["results"]
        assert item["units"] == [5, 5]
        assert send(client, "/v1/classify", encoded()).status_code == 404


def test_what_the_server_has_is_told_without_opening_every_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    with served("hierax/femto", mae="hierax/femto.mae") as client:
        monkeypatch.setattr("hierax.serve.engines.Engine", None)
        assert client.get("/v1/model").json()["mae"]["source"] == "hierax/femto.mae"


def test_a_server_does_not_tell_where_its_files_are(tmp_path: Path) -> None:
    import shutil

    from hierax.checkpoint.bundled import bundled_folder

    folder = bundled_folder("hierax/femto")
    assert folder is not None
    shutil.copytree(folder, tmp_path / "mine")
    with served(tmp_path / "mine") as client:
        answers = [
            client.get("/v1/model"),
            send(client, "/v1/classify", encoded()),
            send(client, "/v1/segment", encoded()),
        ]
        answers.append(send(client, "/v1/embed", encoded(), format="npy"))
        assert (
            answers[0].json()["model"]["source"]
            == answers[1].json()["model"]
            == answers[3].headers["x-model"]
            == "mine"
        )
        assert not any(str(tmp_path) in answer.text for answer in answers)
