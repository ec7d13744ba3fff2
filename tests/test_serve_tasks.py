"""Reconstructions, masks, explanations, and several tasks at once: the server's answers equal the library's."""

import asyncio
import base64
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
from PIL import Image
from starlette.testclient import TestClient

import hierax
from answers import encoded, error_of, picture, send, served
from hierax import Engine, HieraForSemanticSegmentation
from hierax.predict.explain import explanations, open_explainer
from hierax.serve.engines import Models
from hierax.serve.routes import masks
from hierax.serve.service import Service
from small import image_config, randomize


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("segmenter")
    model: Any = randomize(HieraForSemanticSegmentation(image_config(segmentation_hidden_size=16)), 0.3)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def client(segmenter: str) -> Iterator[TestClient]:
    with served("hierax/femto", segmentation=segmenter) as client:
        yield client


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    path.write_bytes(encoded(picture(200, 150)))
    return path


def image_of(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


@pytest.mark.parametrize("options", [{}, {"mask_ratio": 0.3, "seed": 5, "size": 96}, {"statistics": "true"}])
def test_a_reconstruction_is_that_of_the_library(client: TestClient, file: Path, options: dict[str, Any]) -> None:
    (wanted,) = hierax.reconstruct(file, precision="fp32", backend="torch", **options)
    (item,) = send(client, "/v1/reconstruct", file.read_bytes(), **options).json()["results"]
    for found, tile in ((item["original"], wanted.tiles[0]), (item["reconstruction"], wanted.tiles[2])):
        assert np.array_equal(image_of(found), np.asarray(tile.picture))
    assert len(item["keep"]) == item["units"][0] * item["units"][1]
    assert item["loss"] > 0
    answer = send(client, "/v1/reconstruct", file.read_bytes(), format="png", **options)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), np.asarray(wanted.tiles[2].picture))


def test_units_that_are_kept_stay_as_they_are(client: TestClient, file: Path) -> None:
    keep = [number % 3 != 1 for number in range(25)]
    body = {"images": [{"data": base64.b64encode(file.read_bytes()).decode()}], "keep": keep}
    (item,) = client.post("/v1/reconstruct", json=body).json()["results"]
    assert item["keep"] == keep
    same = image_of(item["original"]) == image_of(item["reconstruction"])
    units = same.reshape(5, 32, 5, 32, 3).all(axis=(1, 3, 4))
    assert units.ravel().tolist() == keep


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"keep": "[true, false]"}, "keep", "keep has 2 entries; expected 25, for 5 x 5 mask units"),
        ({"keep": str([True] * 25).lower()}, "keep", "keep shows all of the mask units"),
        ({"keep": str([False] * 25).lower()}, "keep", "keep shows none of the mask units"),
        ({"keep": "[1, 0]"}, "keep", "expected a list of true and false"),
        ({"keep": str([True] * 24 + [False]).lower(), "mask_ratio": 0.5}, "mask_ratio", "expected one of them"),
        ({"mask_ratio": 1}, "mask_ratio", "mask_ratio"),
        ({"size": 100}, "size", "the nearest sizes are 96x96 or 128x128"),
        ({"statistics": "mine"}, "statistics", "expected one of visible, true"),
    ],
)
def test_a_wrong_mask_is_told(client: TestClient, fields: dict[str, Any], field: str, words: str) -> None:
    answer = send(client, "/v1/reconstruct", encoded(), **fields)
    assert (answer.status_code, error_of(answer)["field"]) == (400, field)
    assert words in error_of(answer)["message"]


@pytest.mark.parametrize("size", [None, 96])
def test_a_mask_is_that_of_the_library_at_the_size_of_the_image(
    client: TestClient, segmenter: str, file: Path, size: int | None
) -> None:
    (wanted,) = hierax.segment(file, model=segmenter, size=size, precision="fp32", backend="torch")
    assert wanted.mask is not None
    fields = {} if size is None else {"size": size}
    (item,) = send(client, "/v1/segment", file.read_bytes(), **fields).json()["results"]
    assert np.array_equal(image_of(item["mask"]), wanted.mask)
    expected = wanted.to_dict()
    assert {name: item[name] for name in ("width", "height", "areas")} == {
        name: expected[name] for name in ("width", "height", "areas")
    }
    answer = send(client, "/v1/segment", file.read_bytes(), format="png", **fields)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), wanted.mask)
    answer = send(client, "/v1/segment", file.read_bytes(), format="overlay", **fields)
    assert (answer.headers["content-type"], Image.open(io.BytesIO(answer.content)).size) == ("image/jpeg", (200, 150))


def test_a_long_strip_is_refused_before_it_is_enlarged(client: TestClient) -> None:
    answer = send(client, "/v1/segment", encoded(picture(30_000, 20)), size=512)
    assert (answer.status_code, error_of(answer)["code"]) == (413, "too_large")


@pytest.mark.parametrize(("label", "method"), [("mammals", "gradcam"), (3, "gradcam"), (None, "gradcam")])
def test_an_explanation_is_that_of_the_library(client: TestClient, file: Path, label: Any, method: str) -> None:
    predictor = open_explainer("hierax/femto", method=method)
    pixels = hierax.HieraImageProcessor.from_pretrained("hierax/femto")(file).pixel_values
    (wanted,) = explanations(predictor, pixels, [label], method=method)
    fields = {} if label is None else {"label": label}
    (item,) = send(client, "/v1/explain", file.read_bytes(), method=method, **fields).json()["results"]
    assert (item["label"], item["index"]) == (wanted.label, wanted.index)
    np.testing.assert_allclose(item["values"], wanted.values, atol=1e-5)
    array = np.load(io.BytesIO(send(client, "/v1/explain", file.read_bytes(), format="npy", **fields).content))
    np.testing.assert_allclose(array, wanted.values, atol=1e-5)


def test_attention_needs_no_label(client: TestClient) -> None:
    (item,) = send(client, "/v1/explain", encoded(), method="rollout").json()["results"]
    assert (item["label"], item["index"], item["probability"]) == (None, None, None)
    assert 0 <= np.min(item["values"]) <= np.max(item["values"]) == 1
    answer = send(client, "/v1/explain", encoded(), format="png", method="rollout", size=128)
    assert Image.open(io.BytesIO(answer.content)).size == (128, 128)


def test_a_label_that_does_not_exist_is_told_with_similar_ones(client: TestClient) -> None:
    answer = send(client, "/v1/explain", encoded(), label="mamals")
    assert (answer.status_code, error_of(answer)["field"]) == (400, "label")
    assert "did you mean mammals" in error_of(answer)["message"]


def test_several_tasks_run_the_encoder_once(client: TestClient, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send(client, "/v1/predict", encoded(), tasks="classify,embed,features")  # opens the engines
    calls: list[Any] = []
    call = Engine.__call__
    monkeypatch.setattr(Engine, "__call__", lambda self, *a, **o: calls.append(self) or call(self, *a, **o))
    content = file.read_bytes()
    (item,) = send(client, "/v1/predict", content, tasks="classify,embed,features", stage=3).json()["results"]
    assert len(calls) == 1
    (classes,) = send(client, "/v1/classify", content).json()["results"]
    (vector,) = send(client, "/v1/embed", content).json()["results"]
    (mapped,) = send(client, "/v1/features", content, stage=3).json()["results"]
    assert len(calls) == 4
    assert [p["index"] for p in item["predictions"]] == [p["index"] for p in classes["predictions"]]
    np.testing.assert_allclose(
        [p["probability"] for p in item["predictions"]], [p["probability"] for p in classes["predictions"]], atol=1e-5
    )
    np.testing.assert_allclose(item["embedding"], vector["embedding"], atol=1e-4)
    assert item["shape"] == mapped["shape"]
    maps = [np.frombuffer(base64.b64decode(one["data"]), "<f4") for one in (item, mapped)]
    np.testing.assert_allclose(*maps, rtol=1e-3, atol=1e-3)


def test_a_task_that_cannot_be_combined_is_told(client: TestClient) -> None:
    answer = send(client, "/v1/predict", encoded(), tasks="classify,dance")
    assert (answer.status_code, error_of(answer)["field"]) == (400, "tasks")
    assert "some of classify, embed, features" in error_of(answer)["message"]


def test_an_output_that_is_not_finite_is_the_error_of_its_image(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    call = Engine.__call__

    def damaged(self: Any, *arguments: Any, **options: Any) -> Any:
        out = call(self, *arguments, **options)
        if arguments[0].mean() > 1:
            out.logits.fill_(torch.nan)
        return out

    monkeypatch.setattr(Engine, "__call__", damaged)
    white = encoded(Image.new("RGB", (64, 64), (255, 255, 255)))
    first, second = send(client, "/v1/classify", encoded(), white).json()["results"]
    assert "predictions" in first
    assert "the output of the model is not finite" in second["error"]["message"]


def test_an_open_engine_is_served_for_its_task_and_stays_open() -> None:
    with Engine("hierax/femto", precision="fp32", backend="torch") as engine:
        with served(engine=engine) as client:
            assert client.get("/v1/model").json()["tasks"] == ["classify", "predict"]
            (item,) = send(client, "/v1/classify", encoded()).json()["results"]
            assert send(client, "/v1/embed", encoded()).status_code == 404
        wanted = engine(encoded()).logits.softmax(-1).max().item()
        assert item["predictions"][0]["probability"] == pytest.approx(wanted, abs=1e-6)


def test_an_engine_of_features_gives_vectors() -> None:
    with (
        Engine("hierax/femto", task="features", precision="fp32", backend="torch") as engine,
        served(engine=engine) as client,
    ):
        (item,) = send(client, "/v1/embed", encoded()).json()["results"]
        np.testing.assert_allclose(item["embedding"], engine(encoded()).pooler_output[0].numpy(), atol=1e-4)


def test_a_model_of_clips_is_refused(tmp_path: Path) -> None:
    from hierax import HieraForVideoClassification
    from small import video_config

    model: Any = randomize(HieraForVideoClassification(video_config()))
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="takes clips; expected a model of images"):
        Service(str(tmp_path)).open()


def test_images_of_one_window_share_a_call_and_keep_their_masks(
    segmenter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    from hierax.serve.bodies import Upload
    from hierax.serve.service import Work

    service = Service("hierax/femto", segmentation=segmenter, precision="fp32", backend="openvino", threads=1)
    service.open()
    predictor = service.models.predictor("segmentation")
    uploads = [Upload("a", encoded(picture(90, 70, seed=seed))) for seed in range(3)]
    items = [service.reader.whole(upload, predictor, size=None) for upload in uploads]
    work = Work("segment", tuple(items[0][1].levels.shape))
    alone = [service.run(work, [item])[0] for item in items]
    calls: list[int] = []
    coarse = Engine.coarse_logits

    def counted(self: Any, *, pixel_values: Any) -> Any:
        calls.append(len(pixel_values))
        return coarse(self, pixel_values=pixel_values)

    monkeypatch.setattr(Engine, "coarse_logits", counted)
    together = service.run(work, items)
    assert calls == [3]
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))
    service.close()


@pytest.mark.parametrize("task", ["reconstruct", "segment"])
def test_a_huge_size_is_refused_before_anything_is_made_of_it(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    monkeypatch.setattr("hierax.predict.reconstruct.draw_keep", None)
    for size in (1056, 1 << 20):
        answer = send(client, f"/v1/{task}", encoded(), size=size)
        assert (answer.status_code, error_of(answer)["field"]) == (400, "size")
        assert f"size is {size}x{size}; expected at most 1,048,576 pixels" in error_of(answer)["message"]


def test_whole_images_wait_for_room_before_they_are_decoded(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, steps = client.app.state.hierax.service, []  # type: ignore[attr-defined]
    read, segmented = service.reader.whole, masks._segmented
    monkeypatch.setattr(service.budget, "total", 8 * 200 * 150)
    monkeypatch.setattr(service.reader, "whole", lambda *a, **n: steps.append("read") or read(*a, **n))
    monkeypatch.setattr(masks, "_segmented", lambda *a: (segmented(*a), steps.append("done"))[0])
    answer = send(client, "/v1/segment", *[encoded(picture(200, 150))] * 6)
    assert answer.status_code == 200, answer.text
    assert steps == ["read", "done"] * 6


def test_no_thread_that_others_need_opens_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: dict[str, str] = {}
    real = Models._open

    def watched(self: Models, role: str) -> Any:
        looping = asyncio._get_running_loop() is not None
        opened[role] = "the event loop" if looping else threading.current_thread().name
        return real(self, role)

    monkeypatch.setattr(Models, "_open", watched)
    content = base64.b64encode(encoded()).decode()
    wanted = {
        "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [content]}],
        "outputs": [{"name": "stage4", "parameters": {"binary_data": True}}],
    }
    with served("hierax/femto", mae="hierax/femto.mae") as client:
        assert send(client, "/v1/reconstruct", encoded(), size=96).status_code == 200
        assert client.post("/v2/models/hierax/femto/infer", json=wanted).status_code == 200
        assert send(client, "/v1/embed", encoded()).status_code == 200
    assert opened.keys() >= {"classification", "mae", "stages", "head", "pooled"}
    names = ("the event loop", "hierax-engine", "hierax-reader")
    assert {role: where for role, where in opened.items() if where.startswith(names)} == {}
