"""The Open Inference Protocol v2 as the client of Triton speaks it, with a server that listens."""

from __future__ import annotations

import concurrent.futures
import http.client
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from listening import running

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")

import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

import hierax
from hierax.serve import Limits, create_app

NAME = "hierax/femto"

# The client leaves connections to the garbage collector when it does not read an answer, as in is_server_live.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    app = create_app(precision="fp32", backend="torch", threads=1, limits=Limits(max_images=8, max_body=3_000_000))
    with running(app) as address:
        yield address


@pytest.fixture(scope="module")
def engine() -> Iterator[hierax.Engine]:
    opened = hierax.Engine(NAME, precision="fp32", backend="torch", threads=1, hidden_states=True)
    yield opened
    opened.close()


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    with triton.InferenceServerClient(address) as made:
        yield made


def picture(seed: int, size: tuple[int, int] = (90, 70)) -> bytes:
    random = np.random.default_rng(seed)
    low = Image.fromarray(random.integers(0, 255, (7, 9, 3), dtype=np.uint8))
    stream = io.BytesIO()
    low.resize(size).save(stream, "PNG")
    return stream.getvalue()


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def images(*contents: bytes, binary: bool = True, column: bool = False) -> Any:
    values = np.array(contents, dtype=np.object_).reshape(-1, 1) if column else np.array(contents, dtype=np.object_)
    given = triton.InferInput("image", list(values.shape), "BYTES")
    return given.set_data_from_numpy(values, binary_data=binary)


def pixels(values: np.ndarray, *, binary: bool = True) -> Any:
    return triton.InferInput("pixel_values", list(values.shape), "FP32").set_data_from_numpy(values, binary_data=binary)


def close(found: np.ndarray | None, expected: torch.Tensor) -> None:
    assert found is not None
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=2e-5)


def stage(out: Any, number: int) -> torch.Tensor:
    return out.reshaped_hidden_states[number].movedim(-1, 1)


# -- what it says of itself --------------------------------------------------------------------------------------------


def test_the_client_finds_the_server_and_the_model_ready(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(NAME)
    assert client.is_model_ready(NAME, "1")
    assert not client.is_model_ready("hierax/other")
    assert not client.is_model_ready(NAME, "2")


def test_the_metadata_names_the_server_its_model_and_the_tensors(client: Any) -> None:
    server = client.get_server_metadata()
    assert server["name"] == "hierax"
    assert server["version"] == hierax.__version__
    assert set(server["extensions"]) == {"binary_tensor_data", "classification"}
    model = client.get_model_metadata(NAME)
    assert model == client.get_model_metadata(NAME, "1")
    assert (model["name"], model["versions"]) == (NAME, ["1"])
    assert {entry["name"]: entry["shape"] for entry in model["inputs"]} == {
        "image": [-1],
        "pixel_values": [-1, 3, -1, -1],
    }
    outputs = {entry["name"]: entry["shape"] for entry in model["outputs"]}
    labels = hierax.load(NAME).config.num_labels
    assert outputs["logits"] == outputs["probabilities"] == [-1, labels]
    assert [len(outputs[f"stage{number}"]) for number in range(1, 5)] == [4] * 4


def test_the_repository_lists_the_model_and_refuses_to_load_others(client: Any) -> None:
    assert [(entry["name"], entry["state"]) for entry in client.get_model_repository_index()] == [(NAME, "READY")]
    with pytest.raises(InferenceServerException) as caught:
        client.load_model("other")
    assert caught.value.status() in ("404", "405")


def test_a_name_works_with_its_slash_and_with_the_slash_escaped(address: str) -> None:
    for path in ("/v2/models/hierax/femto", "/v2/models/hierax%2Ffemto", "/v2/models/hierax%2Ffemto/versions/1"):
        connection = http.client.HTTPConnection(address, timeout=30)
        connection.request("GET", path)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["name"]) == (200, NAME)
        connection.close()


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [True, False])
def test_the_outputs_for_pixels_are_those_of_the_engine(client: Any, engine: hierax.Engine, binary: bool) -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 64, 96)).astype(np.float32)
    names = ["logits", "stage1", "stage4"]
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
    found = client.infer(NAME, [pixels(values, binary=binary)], outputs=wanted, request_id="me-7")
    expected = engine(pixel_values=torch.from_numpy(values))
    assert found.get_response()["id"] == "me-7"
    assert found.get_response()["model_name"] == NAME
    close(found.as_numpy("logits"), expected.logits)  # type: ignore[union-attr]
    close(found.as_numpy("stage1"), stage(expected, 1))
    close(found.as_numpy("stage4"), stage(expected, 4))
    assert found.as_numpy("probabilities") is None


@pytest.mark.parametrize("column", [True, False])
def test_the_outputs_for_images_are_those_of_the_engine(client: Any, engine: hierax.Engine, column: bool) -> None:
    contents = [picture(seed) for seed in range(3)]
    found = client.infer(NAME, [images(*contents, column=column)])
    expected: Any = engine([opened(content) for content in contents])
    close(found.as_numpy("logits"), expected.logits)
    close(found.as_numpy("probabilities"), expected.logits.softmax(-1))
    assert found.as_numpy("stage1") is None  # maps are large: they are asked for by name


def test_the_pooled_output_is_that_of_the_task_features(client: Any) -> None:
    wanted = [triton.InferRequestedOutput("pooler_output")]
    found = client.infer(NAME, [images(picture(1))], outputs=wanted).as_numpy("pooler_output")
    with hierax.Engine(NAME, task="features", precision="fp32", backend="torch", threads=1) as features:
        expected: Any = features(opened(picture(1)))
    close(found, expected.pooler_output)


def test_another_size_of_the_view_can_be_asked_for(client: Any) -> None:
    wanted = [triton.InferRequestedOutput("stage4")]
    found = client.infer(NAME, [images(picture(1))], outputs=wanted, parameters={"size": 96}).as_numpy("stage4")
    assert found.shape[2:] == (3, 3)


def test_a_classification_names_the_most_probable_labels_in_order(client: Any, engine: hierax.Engine) -> None:
    wanted = [triton.InferRequestedOutput("probabilities", class_count=3)]
    found = client.infer(NAME, [images(picture(1), picture(2))], outputs=wanted).as_numpy("probabilities")
    expected: Any = engine([opened(picture(seed)) for seed in (1, 2)])
    assert found.shape == (2, 3)
    for row, logits in zip(found, expected.logits, strict=True):
        values, indices = logits.softmax(-1).topk(3)
        for text, value, index in zip(row, values.tolist(), indices.tolist(), strict=True):
            probability, position, label = text.decode().split(":", 2)
            assert (int(position), label) == (index, engine.config.id2label[index])
            assert float(probability) == pytest.approx(value, abs=2e-5)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_are_answered(client: Any, algorithm: str) -> None:
    plain = client.infer(NAME, [images(picture(3))]).as_numpy("logits")
    compressed = client.infer(NAME, [images(picture(3))], request_compression_algorithm=algorithm)
    np.testing.assert_allclose(compressed.as_numpy("logits"), plain, rtol=0, atol=1e-6)


def test_many_threads_at_the_same_time_get_the_answers_to_their_own_images(address: str, engine: Any) -> None:
    contents = [picture(seed) for seed in range(24)]

    def ask(content: bytes) -> Any:
        with triton.InferenceServerClient(address, network_timeout=60, connection_timeout=60) as client:
            return client.infer(NAME, [images(content)]).as_numpy("logits")[0]  # type: ignore[index]

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        found = list(pool.map(ask, contents))
    for row, content in zip(found, contents, strict=True):
        close(row, engine(opened(content)).logits[0])


def test_an_asynchronous_request_of_the_client_is_answered(address: str) -> None:
    with triton.InferenceServerClient(address, concurrency=3) as client:
        pending = [client.async_infer(NAME, [images(picture(seed))]) for seed in range(6)]
        found: list[Any] = [one.get_result().as_numpy("logits") for one in pending]
    assert all(np.isfinite(one).all() for one in found)


def test_statistics_count_images_and_failures(client: Any) -> None:
    def counts() -> tuple[int, int]:
        (entry,) = client.get_inference_statistics(NAME)["model_stats"]
        return entry["inference_count"], entry["inference_stats"]["fail"]["count"]

    before = counts()
    client.infer(NAME, [images(picture(1), picture(2))])
    with pytest.raises(InferenceServerException):
        client.infer(NAME, [images(b"no image")])
    assert counts() == (before[0] + 2, before[1] + 1)


# -- errors ------------------------------------------------------------------------------------------------------------


def refused(client: Any, *given: Any, name: str = NAME, **options: Any) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(name, list(given), **options)
    return str(caught.value.status()), caught.value.message()


GOOD = np.zeros((1, 3, 32, 32), np.float32)


def test_wrong_names_are_told_what_there_is(client: Any) -> None:
    status, message = refused(client, images(picture(1)), name="other/model")
    assert (status, "'hierax/femto'" in message) == ("404", True)
    status, message = refused(client, images(picture(1)), model_version="2")
    assert (status, "'1'" in message) == ("404", True)
    status, message = refused(client, images(picture(1)), outputs=[triton.InferRequestedOutput("logit")])
    assert (status, "'logit'" in message, "logits" in message) == ("400", True, True)
    given = triton.InferInput("picture", [1], "BYTES").set_data_from_numpy(np.array([b"a"], np.object_))
    status, message = refused(client, given)
    assert (status, "expected either 'image' or 'pixel_values'" in message) == ("400", True)
    status, message = refused(client, images(picture(1)), pixels(GOOD))
    assert (status, "expected either" in message) == ("400", True)


@pytest.mark.parametrize(
    ("name", "values", "datatype", "words"),
    [
        ("pixel_values", np.zeros((1, 3, 32, 32), np.int32), "INT32", "datatype of pixel_values is 'INT32'"),
        ("pixel_values", np.zeros((3, 32, 32), np.float32), "FP32", "expected [N, 3, H, W]"),
        ("pixel_values", np.zeros((1, 4, 32, 32), np.float32), "FP32", "expected [N, 3, H, W]"),
        ("pixel_values", np.zeros((1, 3, 0, 32), np.float32), "FP32", "expected [N, 3, H, W]"),
        ("pixel_values", np.zeros((0, 3, 32, 32), np.float32), "FP32", "at least one image"),
        ("pixel_values", np.full((1, 3, 32, 32), np.nan, np.float32), "FP32", "not finite"),
        ("image", np.zeros((1,), np.float32), "FP32", "expected BYTES"),
        ("image", np.array([[b"a", b"b"]], np.object_), "BYTES", "expected [N] or [N, 1]"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_types_and_shapes_are_refused(client: Any, name: str, values: Any, datatype: str, words: str) -> None:
    given = triton.InferInput(name, list(values.shape), datatype).set_data_from_numpy(values)
    status, message = refused(client, given)
    assert status == "400"
    assert words in message


def test_a_damaged_image_is_named_by_its_number(client: Any) -> None:
    status, message = refused(client, images(picture(1), picture(2)[:200]))
    assert (status, "image 1" in message) == ("422", True)


def test_too_many_images_and_too_large_bodies_are_refused(client: Any) -> None:
    status, message = refused(client, images(*[picture(1)] * 9))
    assert (status, "at most 8" in message) == ("413", True)
    status, message = refused(client, pixels(np.zeros((1, 3, 512, 512), np.float32)))
    assert (status, "too large" in message) == ("413", True)
    status, _ = refused(client, pixels(np.zeros((1, 3, 512, 512), np.float32)), request_compression_algorithm="gzip")
    assert status == "413"


def test_large_maps_are_answered_as_bytes_only(client: Any) -> None:
    values = np.zeros((1, 3, 416, 416), np.float32)
    for names, binary in ((("stage1", "stage2"), True), (("stage4", "logits"), False)):
        wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
        assert client.infer(NAME, [pixels(values)], outputs=wanted).as_numpy(names[0]) is not None
    wanted = [triton.InferRequestedOutput("stage1", binary_data=False)]
    status, message = refused(client, *[images(*[picture(1)] * 8)], outputs=wanted, parameters={"size": 512})
    assert (status, "ask for binary_data" in message) == ("400", True)


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "64", 100_000, 2**70])
def test_a_wrong_size_of_the_view_is_refused(client: Any, size: Any) -> None:
    status, message = refused(client, images(picture(1)), parameters={"size": size})
    assert (status, "size is" in message) == ("400", True)


def test_a_request_whose_time_is_over_is_refused(client: Any) -> None:
    status, message = refused(client, images(picture(1)), timeout=1)
    assert (status, "deadline" in message) == ("504", True)


def send(address: str, body: bytes, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request("POST", f"/v2/models/{NAME}/infer", body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, json.loads(content)


def test_huge_claims_take_no_memory_and_no_time(address: str) -> None:
    entry = {"name": "pixel_values", "shape": [10**9, 3, 10**9, 10**9], "datatype": "FP32"}
    head = json.dumps({"inputs": [{**entry, "parameters": {"binary_data_size": 12}}]}).encode()
    status, answer = send(address, head + b"\0" * 12, **{"Inference-Header-Content-Length": str(len(head))})
    assert (status, "needs" in answer["error"]) == (400, True)
    status, answer = send(address, head, **{"Inference-Header-Content-Length": "9" * 19})
    assert (status, "Inference-Header-Content-Length" in answer["error"]) == (400, True)


def test_every_error_under_v2_is_one_text(address: str) -> None:
    connection = http.client.HTTPConnection(address, timeout=30)
    for method, path, status in (
        ("GET", "/v2/nothing", 404),
        ("DELETE", "/v2", 405),
        ("GET", "/v2/models/a%00b", 404),
        ("GET", "/v2/models/../../etc/passwd", 404),
        ("POST", "/v2/models/hierax/femto/infer", 400),
    ):
        connection.request(method, path)
        answer = connection.getresponse()
        found = json.loads(answer.read())
        assert (answer.status, list(found), type(found["error"])) == (status, ["error"], str), path
    connection.close()


def test_a_folder_gives_its_last_part_as_the_name_and_not_its_path(tmp_path: Path) -> None:
    from hierax.serve.protocol.served import Served

    model = hierax.load(NAME)
    model.save_pretrained(tmp_path / "mine")
    app = create_app(tmp_path / "mine", precision="fp32", backend="torch", threads=1)
    with running(app):
        assert Served.of(app.state.hierax.service).name == "mine"
