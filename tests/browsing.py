"""A Chromium for the tests of the page, and servers that it opens. Import the fixtures that a module uses."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright", reason="no playwright: the page is NOT tested in a browser")
import uvicorn
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

import hierax

ASSETS = Path(hierax.__file__).parent / "assets"
CAT = ASSETS / "cat.jpg"
PHOTOS = sorted((ASSETS / "photos").glob("*.jpg"))
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SECONDS = 20
"""How long a test waits for what it expects."""
expect.set_options(timeout=SECONDS * 1000)


def chromium() -> str | None:
    """The program, or None if this machine has none."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


class Server:
    """An application on a port of this machine; it can go away and come back on the same port."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.start()

    def start(self) -> None:
        """Starts it, and waits until it is ready."""
        config = uvicorn.Config(self._make(), port=self.port, log_level="error", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        until = time.monotonic() + 60
        while not self._server.started:
            assert self._thread.is_alive(), "the server did not start"
            assert time.monotonic() < until, "the server did not start within a minute"
            time.sleep(0.02)

    def stop(self) -> None:
        """Goes away."""
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium without a window."""
    path = chromium()
    if path is None:
        pytest.skip("no Chromium on this machine: the page is NOT tested in a browser (apt-get install chromium)")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=_OPTIONS)
        yield found
        found.close()


class Visitor:
    """A page in the browser, and what went wrong in it."""

    def __init__(self, browser: Browser, url: str, **settings: Any) -> None:
        context = browser.new_context(accept_downloads=True, **{"viewport": {"width": 1280, "height": 860}, **settings})
        context.set_default_timeout(SECONDS * 1000)
        self.page: Page = context.new_page()
        self.url = url
        self.faults: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda message: self.faults.append(message.text) if _is_fault(message) else None)
        self.page.on("request", lambda request: self._note(request.url))

    def _note(self, address: str) -> None:
        if not address.startswith((self.url, "blob:", "data:")):
            self.elsewhere.append(address)

    def open(self, view: str = "") -> Page:
        """Opens a view, when the server has answered what it has."""
        answer = self.page.goto(self.url + (f"#{view}" if view else ""))
        assert answer is None or answer.ok, answer.status
        expect(self.page.locator("nav a:visible").first).to_be_visible()
        return self.page

    def give(self, *paths: Path) -> None:
        """Chooses files."""
        self.page.set_input_files("#files", list(paths))


def _is_fault(message: Any) -> bool:
    """A request that fails is written to the console by the browser itself; scripts and the policy are ours."""
    return message.type in ("error", "warning") and "Failed to load resource" not in message.text


@pytest.fixture
def visitors(browser: Browser) -> Iterator[Callable[..., Visitor]]:
    """`visitors(url, **settings of a context)`; at the end, no page may have had a fault or asked another server."""
    made: list[Visitor] = []

    def make(url: str, **settings: Any) -> Visitor:
        made.append(Visitor(browser, url, **settings))
        return made[-1]

    yield make
    for visitor in made:
        visitor.page.context.close()
        assert not visitor.faults
        assert not visitor.elsewhere


def answer(status: int, body: dict[str, Any], **headers: str) -> Callable[[Route], None]:
    """A handler of `page.route` that answers instead of the server."""
    return lambda route: route.fulfill(status=status, json=body, headers=headers)


def refusal(status: int, code: str, message: str) -> dict[str, Any]:
    """The body of an error."""
    return {"error": {"code": code, "message": message, "field": None}}


def drop(page: Page, name: str, content: bytes, kind: str = "image/jpeg") -> None:
    """Drops a file on the page, as from a file manager."""
    page.evaluate(
        """([name, bytes, type]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], name, {type}));
            for (const kind of ["dragenter", "dragover", "drop"])
                document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
        }""",
        [name, list(content), kind],
    )


def pixel(page: Page, selector: str, x: float, y: float) -> list[int]:
    """The color [r, g, b, a] of a canvas at shares of its size."""
    return page.evaluate(
        """([selector, x, y]) => {
            const canvas = document.querySelector(selector);
            const at = (v, size) => Math.min(size - 1, Math.floor(v * size));
            const copy = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
            copy.drawImage(canvas, -at(x, canvas.width), -at(y, canvas.height));
            return [...copy.getImageData(0, 0, 1, 1).data];
        }""",
        [selector, x, y],
    )
