"""What the server answers about images equals what the library answers."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
from PIL import Image
from starlette.testclient import TestClient

import hierax
from answers import EXACT, encoded, error_of, picture, send, served
from hierax.embedding.extractor import FeatureExtractor, vectors
from hierax.predict.features import features
from hierax.viz import to_image


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with served("hierax/femto") as client:
        yield client


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A JPEG that lies on its side by its EXIF, and a PNG with transparency."""
    exif = Image.Exif()
    exif[0x0112] = 6
    paths = [tmp_path / "side.jpg", tmp_path / "clear.png"]
    paths[0].write_bytes(encoded(picture(400, 300), "JPEG", exif=exif, quality=92))
    clear = picture(seed=2).convert("RGBA")
    clear.putalpha(picture(seed=3).convert("L"))
    paths[1].write_bytes(encoded(clear))
    return paths


def contents(files: list[Path]) -> list[bytes]:
    return [file.read_bytes() for file in files]


@pytest.mark.parametrize("size", [None, 128, "96x160"])
def test_classify_answers_as_the_library_does_at_any_size(client: TestClient, files: list[Path], size: Any) -> None:
    sides = tuple(map(int, size.split("x"))) if isinstance(size, str) else size
    wanted = list(hierax.classify(files, top_k=3, size=sides, precision="fp32", backend="torch"))
    fields = {} if size is None else {"size": size}
    found = send(client, "/v1/classify", *contents(files), top_k=3, **fields).json()["results"]
    for item, one in zip(found, wanted, strict=True):
        assert [p["label"] for p in item["predictions"]] == [p.label for p in one.predictions]
        assert [p["probability"] for p in item["predictions"]] == pytest.approx(
            [p.probability for p in one.predictions], abs=1e-6
        )
    assert found[0]["image"] == [*(sides if isinstance(sides, tuple) else (sides or 160,) * 2)]


@pytest.mark.parametrize(("layer", "l2"), [("pooled", False), ("pooled", True), ("stage2", False)])
def test_a_vector_is_the_row_of_embed_to_the_last_bit(
    client: TestClient, files: list[Path], layer: str, l2: bool
) -> None:
    extractor = FeatureExtractor("hierax/femto", layers=layer, l2=l2, **EXACT)
    wanted, _ = vectors(files, extractor, extractor.columns[0].name)
    fields = {"layer": layer, "l2": str(l2).lower()}
    found = send(client, "/v1/embed", *contents(files), **fields).json()["results"]
    assert np.array_equal(np.array([item["embedding"] for item in found], np.float32), wanted)
    array = np.load(io.BytesIO(send(client, "/v1/embed", *contents(files), format="npy", **fields).content))
    assert array.dtype == np.float32
    assert np.array_equal(array, wanted)


def test_vectors_as_arrow_keep_the_error_of_an_image(client: TestClient, files: list[Path]) -> None:
    pa = pytest.importorskip("pyarrow")
    answer = send(client, "/v1/embed", contents(files)[0], b"no picture", format="arrow")
    table = pa.ipc.open_stream(answer.content).read_all().to_pydict()
    assert table["name"] == ["0.png", "1.png"]
    assert len(table["embedding"][0]) > 100
    assert table["embedding"][1] is None
    assert table["error"] == [None, "1.png: not an image (PNG, JPEG, WebP, … are read)"]


def test_a_name_that_is_not_valid_text_is_escaped_in_arrow(client: TestClient, files: list[Path]) -> None:
    pa = pytest.importorskip("pyarrow")
    image = {"name": "\ud800", "data": base64.b64encode(contents(files)[0]).decode()}
    body = json.dumps({"images": [image], "format": "arrow"})
    answer = client.post("/v1/embed", content=body, headers={"content-type": "application/json"})
    assert pa.ipc.open_stream(answer.content).read_all()["name"].to_pylist() == ["\\ud800"]


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_a_map_is_the_array_that_features_writes(
    client: TestClient, files: list[Path], tmp_path: Path, stage: int
) -> None:
    (written,) = features(files[:1], tmp_path / "out", precision="fp32", backend="torch")
    assert written.arrays is not None
    wanted = np.load(written.arrays)[f"stage{stage}"]
    (item,) = send(client, "/v1/features", contents(files)[0], stage=stage).json()["results"]
    found = np.frombuffer(base64.b64decode(item["data"]), "<f4").reshape(item["shape"])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    array = np.load(io.BytesIO(send(client, "/v1/features", contents(files)[0], stage=stage, format="npy").content))
    assert np.array_equal(array, found)


def test_the_picture_of_a_map_has_the_size_of_the_view(client: TestClient, files: list[Path]) -> None:
    answer = send(client, "/v1/features", contents(files)[0], stage=4, format="png", size="128x192")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-model"] == "hierax/femto"
    assert Image.open(io.BytesIO(answer.content)).size == (192, 128)


def test_a_point_is_most_similar_to_itself(client: TestClient, files: list[Path]) -> None:
    (item,) = send(client, "/v1/similarity", contents(files)[0], stage=3, x=0.99, y=0.01).json()["results"]
    values = np.array(item["values"])
    assert item["cell"] == [0, 9]
    assert item["shape"] == list(values.shape) == [10, 10]
    assert values[0, 9] == pytest.approx(1, abs=1e-6)
    assert values.min() >= -1
    assert values.max() == values[0, 9]
    array = np.load(io.BytesIO(send(client, "/v1/features", contents(files)[0], stage=3, format="npy").content))
    units = array / np.linalg.norm(array, axis=0)
    np.testing.assert_allclose(values, np.einsum("chw,c->hw", units, units[:, 0, 9]), atol=1e-5)


def test_the_view_is_the_crop_that_the_model_sees(client: TestClient, files: list[Path]) -> None:
    from hierax.viz.maps import to_image

    processor = hierax.HieraImageProcessor.from_pretrained("hierax/femto")
    wanted = np.asarray(to_image(processor(files[0]).pixel_values[0], record=processor.record))
    found = Image.open(io.BytesIO(send(client, "/v1/view", contents(files)[0]).content))
    assert np.array_equal(np.asarray(found), wanted)


def test_photos_are_decoded_fast_where_the_precision_is_lower_than_fp32() -> None:
    photo = encoded(picture(500, 375), "JPEG")
    model = hierax.create_model("hiera_femto_160", num_labels=5).eval()
    views = []
    for precision, fast in (("fp32", False), ("bf16", True)):
        engine = hierax.Engine(model, precision=precision, backend="torch", threads=1)
        with served(engine=engine) as client:
            view = send(client, "/v1/view", photo).content
        expected = hierax.HieraImageProcessor(engine.preprocessing, fast=fast)(photo).pixel_values[0]
        found = np.asarray(Image.open(io.BytesIO(view)))
        np.testing.assert_array_equal(found, np.asarray(to_image(expected, record=engine.preprocessing)))
        views.append(view)
    assert views[0] != views[1]


def test_one_bad_image_of_several_is_an_entry_with_its_error(client: TestClient) -> None:
    cut = encoded()[:-200]
    answer = send(client, "/v1/classify", encoded(), cut, b"hello, this is text", encoded(seed_picture()))
    assert answer.status_code == 200
    items = answer.json()["results"]
    assert [item["name"] for item in items] == ["0.png", "1.png", "2.png", "3.png"]
    assert ["error" in item for item in items] == [False, True, True, False]
    assert items[1]["error"]["code"] == "unreadable_image"
    assert "1.png: " in items[1]["error"]["message"]
    assert items[2]["error"]["code"] == "unsupported_media"


def seed_picture() -> Image.Image:
    return picture(seed=5)


@pytest.mark.parametrize(
    ("content", "status", "code", "words"),
    [
        (encoded()[:-200], 422, "unreadable_image", "truncated"),
        (b"", 422, "unreadable_image", "an empty file"),
        (b"hello, this is text", 415, "unsupported_media", "not an image"),
    ],
)
def test_a_bad_image_alone_is_the_error_of_the_request(
    client: TestClient, content: bytes, status: int, code: str, words: str
) -> None:
    answer = send(client, "/v1/classify", content)
    assert (answer.status_code, error_of(answer)["code"]) == (status, code)
    assert words in error_of(answer)["message"]


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("P", "GIF"), ("I;16", "PNG"), ("CMYK", "JPEG"), ("RGB", "WEBP")],
)
def test_pictures_of_every_kind_are_read_as_the_library_reads_them(
    client: TestClient, tmp_path: Path, mode: str, kind: str
) -> None:
    image = picture()
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257)
    file = tmp_path / f"image.{kind.lower()}"
    file.write_bytes(encoded(image if mode == "I;16" else image.convert(mode), kind))
    (wanted,) = hierax.classify(file, precision="fp32", backend="torch")
    (found,) = send(client, "/v1/classify", file.read_bytes()).json()["results"]
    assert found["predictions"][0]["probability"] == pytest.approx(wanted.predictions[0].probability, abs=1e-6)


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    with served("hierax/femto", limits=limits(max_pixels=5000)) as client:
        answer = send(client, "/v1/classify", encoded())
        assert (answer.status_code, error_of(answer)["code"]) == (413, "too_large")
        assert "90 x 70 pixels; expected at most 5,000" in error_of(answer)["message"]


def limits(**values: Any) -> Any:
    from hierax.serve import Limits

    return Limits(**values)


@pytest.mark.parametrize(
    ("path", "field", "words"),
    [
        ("classify?topk=3", "topk", "did you mean top_k?"),
        ("classify?top_k=0", "top_k", "top_k is 0; expected a whole number from 1 to"),
        ("classify?top_k=many", "top_k", "top_k is 'many'"),
        ("classify?size=100000", "size", "size is 100000x100000; expected at most 1,048,576 pixels"),
        ("classify?size=1x1048576", "size", "size is 1x1048576; expected at most 1,048,576 pixels, such as 1024, and"),
        ("classify?size=-3", "size", "size is -3; expected one number, or rows and columns such as 320x448"),
        ("embed?layer=stage9", "layer", "layer is 'stage9'; expected one of pooled, stage1, stage2, stage3, stage4"),
        ("embed?format=xml", "format", "format is 'xml'; expected one of json, npy, arrow"),
        ("features?stage=5", "stage", "stage is 5; expected one of 1, 2, 3, 4"),
        ("similarity?x=1.5", "x", "x is 1.5; expected a number from 0 to 1"),
        ("similarity?x=NaN", "x", "x is 'NaN'; expected a number from 0 to 1"),
        ("similarity?x=" + "9" * 400, "x", "expected a number from 0 to 1"),
        ("classify?size=[1e999,160]", "size", "size is [inf, 160]; expected one number, or rows and columns"),
        ("classify?size=[160.5,160]", "size", "size is [160.5, 160]; expected one number, or rows and columns"),
        ("classify?size=160xx160", "size", "size is '160xx160'; expected one number, or rows and columns"),
    ],
)
def test_a_wrong_argument_is_told_with_its_name(client: TestClient, path: str, field: str, words: str) -> None:
    answer = send(client, f"/v1/{path}", encoded())
    assert (answer.status_code, error_of(answer)["field"]) == (400, field)
    assert words in error_of(answer)["message"]


def test_a_task_that_the_server_has_not_is_not_found(client: TestClient) -> None:
    assert client.get("/v1/model").json()["tasks"] == [
        "classify",
        "reconstruct",
        "embed",
        "features",
        "similarity",
        "explain",
        "predict",
    ]
