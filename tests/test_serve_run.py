"""The server as a program: its lines, signals, connections, and several processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("uvicorn")
from hierax.serve.run import Settings, lines, listen, url

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")]

PROGRAM = """
    import sys
    from hierax.console import say
    from hierax.serve.limits import Limits
    from hierax.serve.run import run
    from serving import FakeSettings
    if __name__ == "__main__":
        raise SystemExit(run(FakeSettings(port=0, {settings}), say=say))
"""


@dataclass
class Running:
    """A server in a process; `log` is what it writes to stderr."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int = 0

    @property
    def lines(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines()

    def get(self, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON of an answer, on a connection of its own."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text.startswith(b"{") else text.decode()
        finally:
            connection.close()

    def post(self, body: bytes) -> tuple[int, Any]:
        return self.get("/v1/lengths", method="POST", body=body, Content_Type="image/png")

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


def start(tmp_path: Path, settings: str) -> Running:
    program, log = tmp_path / "program.py", tmp_path / "log.txt"
    program.write_text(textwrap.dedent(PROGRAM.replace("{settings}", settings)), encoding="utf-8")
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "TMPDIR": str(tmp_path)}
    with log.open("wb") as stderr:
        return Running(subprocess.Popen([sys.executable, str(program)], env=environment, stderr=stderr), log)


@contextmanager
def running(tmp_path: Path, settings: str = "") -> Iterator[Running]:
    server = start(tmp_path, settings)
    try:
        wait_for(lambda: "Ctrl-C to stop" in server.log.read_text(encoding="utf-8"))
        server.port = int(server.lines[-1].partition("page http://127.0.0.1:")[2].partition(" ")[0])
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def test_the_lines_say_license_engine_and_addresses(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        home = f"http://127.0.0.1:{server.port}"
        line = f"hierax: bf16 on CPU (OpenVINO) · page {home} · API {home}/docs · Ctrl-C to stop"
        assert server.lines == ["hierax: fake: weights under Apache-2.0", line]
        assert server.post(b"123")[1]["lengths"] == [3]


def test_the_license_of_each_model_is_told() -> None:
    parts = {name: {"source": name, "license": "CC0", "device": "cpu", "precision": "fp32", "backend": "torch"}
             for name in ("model", "mae", "segmentation")}  # fmt: skip
    state: Any = SimpleNamespace(service=SimpleNamespace(describe=lambda: parts))
    assert lines(state, Settings())[:-1] == [f"{name}: weights under CC0" for name in parts]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_lets_accepted_requests_finish(tmp_path: Path, number: int, code: int) -> None:
    with running(tmp_path, "seconds=1.0") as server:
        found: list[tuple[int, Any]] = []
        client = threading.Thread(target=lambda: found.append(server.post(b"1234")))
        client.start()
        wait_for(lambda: "hierax_queue_images 1.0" in server.get("/metrics")[1])
        assert server.end(number) == code
        client.join()
        assert found[0][0] == 200
        assert found[0][1]["lengths"] == [4]
        with pytest.raises(ConnectionRefusedError):
            server.get("/healthz")


def test_what_does_not_finish_within_the_grace_is_cut_off(tmp_path: Path) -> None:
    with running(tmp_path, "seconds=8.0, limits=Limits(grace_s=1)") as server:
        found: list[tuple[int, Any]] = []
        client = threading.Thread(target=lambda: found.append(server.post(b"1")))
        client.start()
        wait_for(lambda: "hierax_queue_images 1.0" in server.get("/metrics")[1])
        begin = time.monotonic()
        server.end()
        assert time.monotonic() - begin < 6
        client.join()
        assert found[0][0] == 503
        assert found[0][1]["error"]["code"] == "draining"


def test_a_model_that_cannot_be_opened_ends_the_server(tmp_path: Path) -> None:
    for settings in ("problem='no such model'", "problem='no such model', workers=2"):
        server = start(tmp_path, settings)
        assert server.process.wait(60) == 1
        assert "ValueError: no such model" in server.lines[-1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_a_server_whose_model_is_being_opened(tmp_path: Path, number: int, code: int) -> None:
    server = start(tmp_path, "loading=60.0, limits=Limits(grace_s=2)")
    try:
        wait_for(lambda: "it is being opened" in server.log.read_text(encoding="utf-8"), 120)
        begin = time.monotonic()
        assert server.end(number) == code
        assert time.monotonic() - begin < 20
        assert server.lines == ["it is being opened"]
    finally:
        server.process.kill()
        server.process.wait()


def test_an_address_that_cannot_be_used_is_told() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"http://127.0.0.1:{port} cannot be used: address already in use; --port"):
            listen("127.0.0.1", port)
    with pytest.raises(OSError, match=r"--host is 'no\.such\.host\.invalid'"):
        listen("no.such.host.invalid", 0)


def test_addresses_are_written_as_a_browser_takes_them() -> None:
    assert [url(host, 80) for host in ("0.0.0.0", "::", "::1", "example.org")] == [
        "http://127.0.0.1:80",
        "http://[::1]:80",
        "http://[::1]:80",
        "http://example.org:80",
    ]
    assert [Settings(host=h).is_local for h in ("localhost", "127.0.0.2", "::1", "0.0.0.0", "a.example")] == [
        True, True, True, False, False,
    ]  # fmt: skip


def wait_for(condition: Any, seconds: float = 30) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_a_client_that_sends_half_a_header_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patched = "\n    import hierax.serve.connection\n    hierax.serve.connection._SECONDS = 0.3\n"
    monkeypatch.setitem(globals(), "PROGRAM", patched + PROGRAM)
    with running(tmp_path) as server, socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(b"POST /v1/lengths HTTP/1.1\r\nHost: ")
        assert client.recv(1000).startswith(b"HTTP/1.1 408")
        assert client.recv(1000) == b""


@pytest.mark.parametrize("library", ["h11", "httptools"])
def test_a_header_that_is_too_large_is_refused(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(library)
    patched = f"\n    import hierax.serve.connection as c\n    c.protocol = c._on_{library}\n"
    monkeypatch.setitem(globals(), "PROGRAM", patched + PROGRAM)
    with running(tmp_path) as server, socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        assert server.post(b"12")[1]["lengths"] == [2]
        client.sendall(b"GET / HTTP/1.1\r\n" + b"X-A: " + b"x" * 70_000)
        assert client.recv(1000)[9:12] in (b"431", b"400")
        assert server.get("/healthz")[0] == 200


@pytest.mark.parametrize("library", ["h11", "httptools"])
def test_large_bodies_and_pipelined_requests_are_not_taken_for_headers(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(library)
    patched = f"\n    import hierax.serve.connection as c\n    c.protocol = c._on_{library}\n"
    monkeypatch.setitem(globals(), "PROGRAM", patched + PROGRAM)
    head = b"POST /v1/lengths HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: 3000\r\n\r\n"
    with running(tmp_path) as server, socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        assert server.post(bytes(5_000_000))[1]["lengths"] == [5_000_000]
        client.sendall((head + bytes(3000)) * 40)
        answers = b""
        while answers.count(b'"lengths":[3000]') < 40:
            part = client.recv(100_000)
            assert part, answers[-300:]
            answers += part


def test_a_body_that_stops_arriving_is_cut_off(tmp_path: Path) -> None:
    with running(tmp_path, "limits=Limits(body_s=0.3)") as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            head = b"POST /v1/lengths HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: 100\r\n\r\nabc"
            client.sendall(head)
            assert client.recv(1000).startswith(b"HTTP/1.1 408")
        assert "hierax_queue_bytes 0.0" in server.get("/metrics")[1]


def test_a_client_that_leaves_takes_its_work_with_it(tmp_path: Path) -> None:
    with running(tmp_path, "seconds=0.5") as server:
        busy = threading.Thread(target=server.post, args=(b"1",))
        busy.start()
        wait_for(lambda: "hierax_queue_images 1.0" in server.get("/metrics")[1])
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            head = b"POST /v1/lengths HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: 3\r\n\r\nabc"
            client.sendall(head)
            wait_for(lambda: "hierax_queue_images 2.0" in server.get("/metrics")[1])
        wait_for(lambda: "hierax_queue_images 0.0" in server.get("/metrics")[1])
        busy.join()
        text = server.get("/metrics")[1]
        assert "hierax_images_total 1.0" in text
        assert 'hierax_requests_total{code="499",route="/v1/lengths"} 1.0' in text


@pytest.mark.slow
def test_a_process_that_is_killed_is_replaced_and_the_others_answer(tmp_path: Path) -> None:
    with running(tmp_path, "workers=2") as server:
        pids: set[int] = set()
        wait_for(lambda: pids.add(server.get("/v1/process")[1]["pid"]) or len(pids) == 2)
        gone = pids.pop()
        os.kill(gone, signal.SIGKILL)
        after: set[int] = set()
        wait_for(lambda: after.add(server.get("/v1/process")[1]["pid"]) or len(after - {gone}) == 2)
        wait_for(lambda: any(f"process {gone} was killed by signal 9" in line for line in server.lines))
        for _ in range(20):
            assert server.post(b"123")[0] == 200
        assert 'hierax_requests_total{code="200",route="/v1/lengths"} 20.0' in server.get("/metrics")[1]
        assert server.end() == 0
        for pid in after - {gone}:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    with running(tmp_path, "workers=2") as server:
        pids: set[int] = set()
        wait_for(lambda: pids.add(server.get("/v1/process")[1]["pid"]) or len(pids) == 2)
        server.end(signal.SIGKILL)

        def gone() -> bool:
            return not any(Path(f"/proc/{pid}").exists() for pid in pids)

        wait_for(gone)
