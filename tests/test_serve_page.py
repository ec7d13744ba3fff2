"""The files of the page of `hierax serve`, without a browser."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import pytest

pytest.importorskip("fastapi")
from fastapi import FastAPI
from fastapi.testclient import TestClient

import hierax
from hierax.serve import docs, page
from hierax.serve.app import application
from serving import FakeService

FOLDER = Path(hierax.__file__).parent / "assets/serve"
FILES = sorted(FOLDER.iterdir())


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(application(FakeService(), routers=[page.router], api_key="secret")) as client:
        yield client


def test_the_page_opens_without_a_key(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text == (FOLDER / "index.html").read_text(encoding="utf-8")


def test_the_page_may_load_only_from_its_server(client: TestClient) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; img-src 'self' blob: data:;")
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_of_the_page_is_served(client: TestClient, path: Path) -> None:
    answer = client.get(f"/assets/{path.name}")
    assert answer.status_code == 200
    assert answer.content == path.read_bytes()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_address_in_a_file_of_the_page_is_answered(client: TestClient, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    addresses = [f"/{address}" for address in re.findall(r'(?:src|href)="(assets/[^"]+)"', text)]
    assert addresses or path.suffix != ".html"
    addresses += [f"/assets/{name}" for name in re.findall(r'from "\./([^"]+)"', text)]
    addresses += [f"/assets/photos/{name}" for name in re.findall(r'"([a-z]+\.jpg)"', text)]
    assert {address: client.get(address).status_code for address in addresses} == dict.fromkeys(addresses, 200)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_of_the_page_names_no_other_server(path: Path) -> None:
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", path.read_text(encoding="utf-8")))
    assert addresses <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_of_the_page_has_no_style_or_script_that_its_policy_blocks(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".html":
        assert not re.search(r"\sstyle=|<style|\son\w+=|<script(?! type=\"module\" src=)", text)
    assert "innerHTML" not in text
    assert "eval(" not in text


def test_a_file_that_did_not_change_is_not_sent_again(client: TestClient) -> None:
    tag = client.get("/assets/app.js").headers["etag"]
    answer = client.get("/assets/app.js", headers={"If-None-Match": tag})
    assert (answer.status_code, answer.content) == (304, b"")


@pytest.mark.parametrize(
    "name", ["nothing.js", "../cat.jpg", "%2e%2e/cat.jpg", "photos/../../page.py", "photos", "/etc/passwd", "a\0b"]
)
def test_an_asset_that_is_not_listed_is_not_found(client: TestClient, name: str) -> None:
    answer = client.get("/assets/" + name.replace("\0", "%00"))
    assert answer.status_code == 404 or "/assets/" not in str(answer.url)
    assert not answer.is_success


def test_the_credits_of_the_bundled_photos_are_on_the_page() -> None:
    script = (FOLDER / "images.js").read_text(encoding="utf-8")
    credits = (FOLDER.parent / "CREDITS.md").read_text(encoding="utf-8")
    for name, author in re.findall(r"^\| `(?:photos/)?(\w+\.jpg)` \| ([^|(]+?) (?:\(.*?\) )?\|", credits, re.MULTILINE):
        assert re.search(rf'"{name}".*{re.escape(author)}', script), name


def test_no_address_of_the_page_or_of_the_api_page_starts_at_the_root() -> None:
    app = FastAPI()
    app.mount("/vision", application(FakeService(), routers=[page.router, docs.router]))
    with TestClient(app) as client:
        for path in ("/vision/", "/vision/docs"):
            text = client.get(path).text
            found = re.findall(r"""(?:src|href)="([^"#]+)"|url: '([^']+)'""", text)
            addresses = [urljoin(f"http://testserver{path}", one or other) for one, other in found]
            assert len(addresses) >= 4
            assert {address: client.get(address).status_code for address in addresses} == dict.fromkeys(addresses, 200)
            assert all(address.startswith("http://testserver/vision/") for address in addresses)
