"""The OpenAPI document: its examples are executed against a live application, and its schemas hold for the answers."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("pyarrow")
pytest.importorskip("jsonschema")
import jsonschema
from starlette.testclient import TestClient

from answers import EXACT, encoded, picture, send, served
from hierax import HieraForSemanticSegmentation
from hierax.embedding import embed
from hierax.serve import create_app
from small import image_config, randomize

DOCUMENT = json.loads(json.dumps(create_app().openapi()))
OPERATIONS = [(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods]
POSTS = [path for method, path in OPERATIONS if method == "post" and path.startswith("/v1/")]
OF_FORMAT = {
    "json": "application/json",
    "png": "image/png",
    "npy": "application/octet-stream",
    "arrow": "application/vnd.apache.arrow.stream",
    "overlay": "image/jpeg",
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A server that has everything."""
    folder = tmp_path_factory.mktemp("document")
    model: Any = randomize(HieraForSemanticSegmentation(image_config(segmentation_hidden_size=16)), 0.3)
    model.save_pretrained(folder / "segmenter")
    (folder / "images").mkdir()
    for number in range(3):
        (folder / "images" / f"{number}.png").write_bytes(encoded(picture(seed=number)))
    embed([folder / "images"], folder / "features", workers=0, **EXACT)
    with served("hierax/femto", segmentation=folder / "segmenter", collection=folder / "features") as client:
        yield client


def operation(method: str, path: str) -> dict[str, Any]:
    return DOCUMENT["paths"][path][method]


def check(answer: Any, method: str, path: str) -> None:
    """The status is one of success, and the answer has the form that the document states."""
    assert answer.status_code == 200, f"{method} {path}: {answer.text[:500]}"
    content = operation(method, path)["responses"]["200"].get("content", {})
    if not content or not answer.content:
        return
    kind = answer.headers["content-type"].partition(";")[0]
    assert kind in content
    if kind == "application/json":
        schema = {**content[kind].get("schema", {}), "components": DOCUMENT["components"]}
        jsonschema.Draft202012Validator(schema).validate(answer.json())


def address(client: TestClient, path: str) -> str:
    row = client.get("/v1/collection/rows").json()["rows"][0]["id"]
    name = client.get("/v2/models").json()["models"][0] if "{name}" in path else ""
    return path.format(row=row, name=name if isinstance(name, str) else name["name"], version="1")


def examples(method: str, path: str) -> dict[str, Any]:
    parameters = operation(method, path).get("parameters", [])
    return {p["name"]: p["example"] for p in parameters if "example" in p and p["in"] == "query"}


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=lambda value: str(value))
def test_every_route_says_what_it_does_and_what_it_takes(method: str, path: str) -> None:
    stated = operation(method, path)
    assert stated["summary"]
    if not path.startswith("/v1/"):
        return  # the specification of the Open Inference Protocol says the rest
    assert stated["description"]
    for parameter in stated.get("parameters", []):
        assert parameter.get("description") or parameter["in"] == "path", parameter["name"]
    assert {"200", "400", "401", "429", "503", "504"} <= stated["responses"].keys()
    if method == "post":
        content = stated["requestBody"]["content"]
        assert {"multipart/form-data", "image/*", "application/octet-stream", "application/json"} <= content.keys()
        assert content["application/json"]["example"]


@pytest.mark.parametrize(("method", "path"), [o for o in OPERATIONS if o[0] == "get"], ids=lambda value: str(value))
def test_the_examples_of_what_can_be_read_are_answered(client: TestClient, method: str, path: str) -> None:
    given = examples(method, path)
    if (method, path) == ("get", "/v1/search"):
        given["id"] = client.get("/v1/collection/rows").json()["rows"][0]["id"]
    check(client.get(address(client, path), params=given), method, path)


@pytest.mark.parametrize("path", [path for method, path in OPERATIONS if method == "post"])
def test_the_example_of_a_json_body_is_answered(client: TestClient, path: str) -> None:
    body = operation("post", path).get("requestBody", {}).get("content", {}).get("application/json", {})
    shown = [body["example"]] if "example" in body else [e["value"] for e in body.get("examples", {}).values()]
    for example in shown:
        jsonschema.Draft202012Validator({**body.get("schema", {}), "components": DOCUMENT["components"]}).validate(
            example
        )
        check(client.post(address(client, path), json=example), "post", path)
    assert shown or path.startswith("/v2/")


@pytest.mark.parametrize("path", POSTS)
def test_the_examples_of_arguments_are_answered_in_a_query_and_in_a_form(client: TestClient, path: str) -> None:
    body = operation("post", path)["requestBody"]["content"]["application/json"]["example"]
    content, given = base64.b64decode(body["images"][0]["data"]), examples("post", path)
    check(client.post(path, params=given, content=content, headers={"Content-Type": "image/png"}), "post", path)
    check(send(client, path, content, **given), "post", path)


@pytest.mark.parametrize("path", POSTS)
def test_every_format_has_its_media_type(client: TestClient, path: str) -> None:
    parameters = {p["name"]: p for p in operation("post", path).get("parameters", [])}
    stated = operation("post", path)["responses"]["200"]["content"].keys()
    forms = parameters["format"]["schema"]["enum"] if "format" in parameters else []
    for form in forms:
        answer = send(client, path, encoded(), format=form)
        check(answer, "post", path)
        assert answer.headers["content-type"] == OF_FORMAT[form]
    assert not forms or {OF_FORMAT[form] for form in forms} == set(stated)


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=lambda value: str(value))
def test_the_examples_of_answers_have_the_form_of_the_document(method: str, path: str) -> None:
    stated = operation(method, path)["responses"]["200"].get("content", {}).get("application/json", {})
    if "example" in stated:
        schema = {**stated["schema"], "components": DOCUMENT["components"]}
        jsonschema.Draft202012Validator(schema).validate(stated["example"])
    needs_none = ("/v1/model", "/v1/collection", "/v1/view", "/v1/collection/thumbnail/{row}")
    assert "example" in stated or path in needs_none or not path.startswith("/v1/")


def test_an_error_of_one_image_has_the_form_of_the_document(client: TestClient) -> None:
    for path in (
        "classify",
        "embed",
        "features",
        "similarity",
        "reconstruct",
        "explain",
        "segment",
        "predict",
        "search",
    ):
        check(send(client, f"/v1/{path}", encoded(), b"no picture"), "post", f"/v1/{path}")


def test_an_error_has_the_form_of_the_document(client: TestClient) -> None:
    schema = {"$ref": "#/components/schemas/ErrorBody", "components": DOCUMENT["components"]}
    for answer in (client.get("/v1/nothing"), send(client, "/v1/classify", b""), client.post("/v1/classify?a=1")):
        jsonschema.Draft202012Validator(schema).validate(answer.json())
