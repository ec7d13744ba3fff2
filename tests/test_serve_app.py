"""The application around the routes: errors, keys, limits, life."""

import asyncio
import base64
import json
import os
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("fastapi")
from starlette.testclient import TestClient

from hierax.serve import Limits, limits, protocol, workers
from hierax.serve.app import State, application
from hierax.serve.run import Settings, listen
from serving import FakeService, fake_app


def ready(client: TestClient) -> TestClient:
    for _ in range(400):
        if client.get("/readyz").status_code == 200:
            return client
        time.sleep(0.01)
    raise AssertionError("not ready")


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(fake_app(limits=Limits(max_images=3, max_body=1000, queue_images=3))) as client:
        yield ready(client)


def error_of(response: Any) -> dict[str, Any]:
    assert response.json().keys() == {"error"}
    assert response.json()["error"].keys() == {"code", "message", "field"}
    return response.json()["error"]


def test_an_unknown_path_and_a_wrong_method_are_told_like_any_error(client: TestClient) -> None:
    assert error_of(client.get("/v1/nothing"))["code"] == "not_found"
    found = client.get("/v1/lengths")
    assert (found.status_code, error_of(found)["code"], found.headers["allow"]) == (405, "method", "POST")


def test_an_error_of_the_inference_protocol_has_its_form(client: TestClient) -> None:
    assert isinstance(client.get("/v2/nothing").json()["error"], str)


def test_a_fault_is_logged_and_its_details_are_not_told(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    found = client.get("/v1/broken")
    assert (found.status_code, error_of(found)["code"]) == (500, "fault")
    assert "secret" not in found.text
    assert "GET /v1/broken: RuntimeError: a secret detail" in caplog.text


def test_a_raw_body_is_one_image(client: TestClient) -> None:
    for kind in ("image/jpeg", "application/octet-stream"):
        found = client.post("/v1/lengths?name=a.jpg", content=b"12345", headers={"Content-Type": kind})
        assert found.json() == {"names": ["a.jpg"], "lengths": [5], "fields": {}}
        found = client.post("/v1/lengths?name=1e5", content=b"12345", headers={"Content-Type": kind})
        assert found.json()["names"] == ["1e5"]


def test_a_form_with_the_name_of_a_file_in_place_of_the_file_is_explained(client: TestClient) -> None:
    answer = client.post("/v1/lengths", files={"image": (None, "cat.jpg")})
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "image")
    message = answer.json()["error"]["message"]
    assert message.startswith("image is the text 'cat.jpg'; expected a file; curl -F image=@photo.jpg sends a form")


def test_a_form_has_files_and_arguments(client: TestClient) -> None:
    files = [("image", ("a.jpg", b"123")), ("image", ("ü.png", b"4567"))]
    found = client.post("/v1/lengths", files=files, data={"keep": "[true, false]", "label": "cat", "k": "5"}).json()
    assert (found["names"], found["lengths"]) == (["a.jpg", "ü.png"], [3, 4])
    assert found["fields"] == {"keep": [True, False], "label": "cat", "k": 5}


def test_a_json_body_has_images_in_base64(client: TestClient) -> None:
    data = base64.b64encode(b"123").decode()
    found = client.post("/v1/lengths", json={"images": [{"name": "a", "data": data}, {"data": data}], "k": [1]}).json()
    assert found == {"names": ["a", "image2"], "lengths": [3, 3], "fields": {"k": [1]}}


def test_an_argument_may_be_in_the_query_or_in_the_body_but_not_differ(client: TestClient) -> None:
    def post(query: str, field: str) -> Any:
        return client.post(f"/v1/lengths?k={query}", files={"image": b"1"}, data={"k": field})

    assert post("5", "5").json()["fields"] == {"k": 5}
    found = post("5", "6")
    assert (found.status_code, error_of(found)["field"]) == (400, "k")


@pytest.mark.parametrize(
    ("body", "kind", "status", "words"),
    [
        (b"", "image/jpeg", 400, "image is missing"),
        (b"x=1", "application/x-www-form-urlencoded", 415, "needs -H 'Content-Type: image/jpeg'"),
        (b"{", "application/json", 400, "not JSON"),
        (b"[" * 900, "application/json", 400, "not JSON"),
        (b"[]", "application/json", 400, "not a JSON object"),
        (b'{"images": 5}', "application/json", 400, "images is not a list"),
        (b'{"images": [{"data": "?"}]}', "application/json", 400, "not base64"),
        (b'{"images": [5]}', "application/json", 400, "images[0] is not"),
        (b'{"images": ["", "", "", ""]}', "application/json", 413, "4 images; expected at most 3"),
        (b"abc", "multipart/form-data", 400, "no boundary"),
        (b"abc", "multipart/form-data; boundary=x", 400, "damaged"),
        (
            b"--x\r\nContent-Disposition: form-data; name=image\r\n\r\nabc",
            "multipart/form-data; boundary=x",
            400,
            "end",
        ),
        (b"x" * 1001, "image/png", 413, "at most 1,000 bytes"),
    ],
)
def test_a_wrong_body_is_refused(client: TestClient, body: bytes, kind: str, status: int, words: str) -> None:
    found = client.post("/v1/lengths", content=body, headers={"Content-Type": kind})
    assert (found.status_code, words in error_of(found)["message"]) == (status, True), found.text


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
def test_json_with_very_many_values_is_refused_before_it_is_parsed(kind: str) -> None:
    values = b"[],[],[]," * 20_000
    bodies = {"application/json": b'{"images": [' + values + b"[]]}"}
    part = b'--x\r\nContent-Disposition: form-data; name="keep"\r\n\r\n[' + values[:90_000] + b"[]]\r\n"
    bodies["multipart/form-data; boundary=x"] = part * 3 + b"--x--\r\n"
    with TestClient(fake_app()) as client:
        found = ready(client).post("/v1/lengths", content=bodies[kind], headers={"Content-Type": kind})
    assert (found.status_code, "more than 100,000 values" in found.text) == (413, True), found.text


def test_an_id_stays_a_text(client: TestClient) -> None:
    for text in ("12e4567890123456", "0012345678901234"):
        assert client.post(f"/v1/lengths?id={text}", files={"image": b"1"}).json()["fields"] == {"id": text}


def test_a_body_without_a_length_is_measured_as_it_arrives(client: TestClient) -> None:
    parts = iter([b"x" * 600, b"x" * 600])
    found = client.post("/v1/lengths", content=parts, headers={"Content-Type": "image/png"})
    assert found.status_code == 413


def test_a_key_is_needed_everywhere_but_for_health_and_the_page() -> None:
    with TestClient(fake_app(api_key=["first", "second"])) as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/").status_code != 401
        for path in ("/v1/broken", "/openapi.json", "/docs", "/metrics", "/v1/nothing", "/v2/health/live"):
            for headers in ({}, {"Authorization": "Bearer third"}, {"Authorization": "Basic first"}):
                assert client.get(path, headers=headers).status_code == 401, path
        assert client.get("/openapi.json", headers={"Authorization": "Bearer second"}).status_code == 200
        assert client.get("/openapi.json").headers["www-authenticate"] == "Bearer"


def test_requests_are_refused_until_the_model_is_open() -> None:
    gate = threading.Event()
    with TestClient(fake_app(FakeService(opening=lambda: gate.wait(20)))) as client:
        assert client.get("/healthz").status_code == 200
        assert error_of(client.get("/readyz"))["code"] == "not_ready"
        found = client.post("/v1/lengths", content=b"1", headers={"Content-Type": "image/png"})
        assert (found.status_code, found.headers["retry-after"]) == (503, "1")
        gate.set()
        ready(client)


def test_a_deadline_that_passes_is_told() -> None:
    service = FakeService()
    with TestClient(fake_app(service)) as client:
        ready(client)
        service.gate.clear()
        headers = {"Content-Type": "image/png", "X-Deadline-Ms": "50"}
        found = client.post("/v1/lengths", content=b"1", headers=headers)
        service.gate.set()
        assert (found.status_code, error_of(found)["code"]) == (504, "deadline")
        assert client.post("/v1/lengths", content=b"1", headers=headers | {"X-Deadline-Ms": "0"}).status_code == 400


def test_a_page_of_another_site_may_not_send_images() -> None:
    foreign = {"Sec-Fetch-Site": "cross-site", "Origin": "https://b.example", "Content-Type": "image/png"}
    with TestClient(fake_app()) as client:
        assert ready(client).post("/v1/lengths", content=b"1", headers=foreign).status_code == 403
    with TestClient(fake_app(allow_origins=["https://b.example"])) as client:
        found = ready(client).post("/v1/lengths", content=b"1", headers=foreign)
        assert (found.status_code, found.headers["access-control-allow-origin"]) == (200, "https://b.example")


def test_the_page_of_the_api_loads_nothing_from_elsewhere() -> None:
    with TestClient(application(FakeService())) as client:
        page = client.get("/docs")
        assert page.status_code == 200
        assert "http://" not in page.text.replace("http://testserver", "")
        assert "https://" not in page.text
        assert client.get("/docs/swagger-ui.css").headers["content-type"].startswith("text/css")
        assert client.get("/docs/core.py").status_code == 404


def test_a_large_answer_is_the_same_json_in_pieces() -> None:
    from hierax.serve.app import to_json

    content = {"a": list(range(2000)), "b": [{"c": [0.5, None, True]}, []], "ü": [[1.25] * 1200] * 2, "d": {}, "e": "x"}
    assert json.loads(to_json(content)) == content


def test_wrong_limits_are_told() -> None:
    with pytest.raises(ValueError, match="max_batch is 0; expected a whole number above 0"):
        Limits(max_batch=0)
    with pytest.raises(ValueError, match="max_images is 300; expected at most queue_images, which is 256"):
        Limits(max_images=300)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"api_key": ""}, "api_key is empty"),
        ({"api_key": "secret\n"}, "the end of a line"),
        ({"api_key": ["first", ""]}, "api_key is empty"),
        ({"api_key": []}, "api_key is an empty list"),
        ({"allow_origins": ["https://b.example/"]}, "allow_origins has 'https://b.example/'; expected an address"),
        ({"allow_origins": "b.example"}, "allow_origins has 'b.example'"),
    ],
)
def test_a_key_or_a_site_that_no_request_can_have_is_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as found:
        fake_app(**options)
    assert "secret" not in str(found.value)


def test_a_script_of_a_permitted_site_reads_when_to_try_again() -> None:
    headers = {"Origin": "https://b.example", "Access-Control-Request-Method": "POST"}
    with TestClient(fake_app(allow_origins="https://b.example")) as client:
        answer = client.get("/v1/nothing", headers=headers)
        assert "Retry-After" in answer.headers["access-control-expose-headers"]
        asked = {"Access-Control-Request-Headers": "inference-header-content-length"}
        assert client.options("/v2", headers=headers | asked).status_code == 200


@pytest.mark.parametrize("host", ["", "a..b", "x" * 70])
def test_a_host_that_cannot_be_one_is_told(host: str) -> None:
    with pytest.raises((ValueError, OSError), match=f"--host is {repr(host) if host else 'empty'}"):
        listen(host, 0)


def test_a_server_that_works_on_nothing_is_not_stuck_without_grace() -> None:
    state = State(FakeService(), Limits(grace_s=0))

    async def live() -> None:
        await state.start()
        assert state.opened is not None
        await state.opened
        await state.close()

    asyncio.run(live())
    assert not state.is_stuck
    assert state.service.closed


def test_the_grace_begins_when_the_server_stops_accepting(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[float] = []

    async def wait_for(work: Any, seconds: float) -> None:
        found.append(seconds)
        await work

    async def live() -> None:
        state = State(FakeService(), Limits(grace_s=1000))
        state.drain()
        state.drained -= 20  # uvicorn waited that long for its connections
        await state.close()

    monkeypatch.setattr(asyncio, "wait_for", wait_for)
    asyncio.run(live())
    assert 100 < found[0] <= 980


def test_a_client_that_leaves_before_its_error_is_sent_is_no_fault() -> None:
    app = fake_app(api_key="secret")
    scope = {"type": "http", "method": "GET", "path": "/v1/process", "headers": [], "query_string": b""}

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    asyncio.run(app(scope, receive, send))


def test_a_request_that_is_refused_at_the_door_is_counted_for_its_route() -> None:
    service = FakeService()
    image = {"Content-Type": "image/png", "Authorization": "Bearer secret"}
    with TestClient(fake_app(service, api_key="secret", limits=Limits(queue_images=1, max_images=1))) as client:
        ready(client)
        client.post("/v1/lengths", content=b"1", headers={"Content-Type": "image/png"})
        client.get("/nothing", headers=image)
        service.gate.clear()
        first = threading.Thread(target=client.post, args=("/v1/lengths",), kwargs={"content": b"1", "headers": image})
        first.start()
        while not client.app.state.hierax.admission.images:  # type: ignore[attr-defined]
            time.sleep(0.01)
        assert client.post("/v1/lengths", content=b"1", headers=image).status_code == 429
        service.gate.set()
        first.join()
        text = client.get("/metrics", headers=image).text
    for code, route in ((401, "/v1/lengths"), (429, "/v1/lengths"), (200, "/v1/lengths"), (404, "other")):
        assert f'hierax_requests_total{{code="{code}",route="{route}"}} 1.0' in text, text


def test_a_server_that_stops_is_not_ready_in_any_protocol() -> None:
    app = application(FakeService(), routers=[protocol.router])
    with TestClient(app) as client:
        for path in ("/readyz", "/v2/health/ready"):
            assert ready(client).get(path).status_code == 200, path
        app.state.hierax.drain()
        for path in ("/readyz", "/v2/health/ready", "/v2/models/fake/ready"):
            assert client.get(path).status_code == 503, path
        assert client.get("/v2/health/live").status_code == 200


def test_threads_are_as_many_as_the_cores_that_the_server_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4, 5}, raising=False)
    monkeypatch.setattr(workers, "_Supervisor", lambda settings, *_: found.append(settings) or SimpleNamespace(run=int))
    assert limits._readers() == 6
    assert workers.supervise(Settings(workers=3), None, say=print) == 0  # type: ignore[arg-type]
    assert found[0].engine["threads"] == 2
