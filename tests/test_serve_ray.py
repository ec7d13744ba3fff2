"""The server on Ray Serve: the answers of one process, and copies that are replaced."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from hierax import extras
from hierax.cli import _parser
from hierax.cli.parsing import parse
from hierax.cli.serve import settings_of
from hierax.serve import create_app
from hierax.serve.ray import _plan, deploy, run
from hierax.serve.run import Settings
from listening import running

PHOTO = Path(extras.__file__).parent / "assets" / "cat.jpg"
ROUTES = ("/v1/classify?top_k=3", "/v1/embed", "/v1/features?stage=4", "/v1/similarity?stage=3&x=0.5&y=0.5")


def test_without_ray_serve_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    with pytest.raises(ImportError, match=r"^hierax serve --ray needs .*pip install 'ray\[data,serve\]"):
        deploy(Settings())


def test_a_cluster_needs_a_fixed_port() -> None:
    with pytest.raises(ValueError, match="port is 0; expected a fixed port"):
        deploy(Settings(port=0))


@pytest.mark.parametrize(("workers", "copies"), [(None, 3), (1, 1), (2, 2), (9, 9)])
def test_the_number_of_replicas_is_that_of_workers(
    workers: int | None, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, the CPUs of the machines decide."""
    machine = {"Alive": True, "Resources": {"CPU": 6.0}}
    lost = {"Alive": False, "Resources": {"CPU": 64.0}}
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(nodes=lambda: [machine, machine, machine, lost]))
    planned = _plan(Settings(workers=workers), started=False)
    assert (planned.copies, planned.cpus, planned.gpus) == (copies, 4, 0)
    arguments = ["serve"] if workers is None else ["serve", "--workers", str(workers)]
    assert settings_of(parse(*_parser(), arguments)).workers == workers


def test_a_cluster_that_others_reach_without_a_key_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("hierax.serve.ray.deploy", lambda _: 1 / 0)
    for settings in (Settings(), Settings(host="0.0.0.0", api_keys=("k",)), Settings(host="0.0.0.0")):
        with pytest.raises(ZeroDivisionError):
            run(settings, say=said.append)
    assert said == ["0.0.0.0 is reachable from other machines and no key is needed; --api-key-file asks for one"]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def children(pid: int) -> Iterator[int]:
    """All processes below a process."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield int(child)
            yield from children(int(child))


def copies(pid: int) -> list[int]:
    """The processes of a cluster that run the application."""
    found = []
    for child in children(pid):
        try:
            title = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if b"ServeReplica:hierax" in title:
            found.append(child)
    return found


def ask(address: str, path: str) -> tuple[int, object]:
    """The status and content of an answer, without its time."""
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("POST", path, PHOTO.read_bytes(), {"Content-Type": "image/jpeg"})
        answer = connection.getresponse()
        content = json.loads(answer.read())
    finally:
        connection.close()
    content.pop("milliseconds", None)
    return answer.status, content


def wait(address: str, process: subprocess.Popen[str], *, seconds: float = 180) -> None:
    """Waits until the application answers."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()[1]
        try:
            if ask(address, ROUTES[0])[0] == 200:
                return
        except (OSError, ValueError, http.client.HTTPException):
            pass
        time.sleep(0.3)
    raise AssertionError("the application does not answer")


@pytest.mark.slow
def test_a_cluster_answers_as_one_process_and_replaces_a_copy_that_is_killed() -> None:
    port = free_port()
    options = ["--precision", "fp32", "--backend", "torch", "--threads", "1", "--workers", "2", "--port", str(port)]
    command = [sys.executable, "-m", "hierax", "serve", "--ray", *options]
    environment = {**os.environ, "HIERAX_DEBUG": ""}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        address = f"127.0.0.1:{port}"
        wait(address, process)
        with running(create_app(precision="fp32", backend="torch", threads=1)) as plain:
            for route in ROUTES:
                assert ask(address, route) == ask(plain, route), route
        (before,) = copies(process.pid)
        os.kill(before, signal.SIGKILL)
        time.sleep(0.5)
        wait(address, process)
        (after,) = copies(process.pid)
        assert after != before
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=90)[1]
        assert process.returncode == 0, said
        assert "1 to 2 replicas, each with 1 CPU" in said
        assert "Traceback" not in said
    finally:
        process.kill()
        process.communicate()
