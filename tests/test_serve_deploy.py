"""The files for systemd, containers and nginx: they start the server, and nginx in front of it changes no answer."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

import hierax
from hierax.cli import _parser
from hierax.cli.parsing import parse
from hierax.cli.serve import read_keys
from hierax.serve import create_app
from hierax.serve.protocol.requests import HEADER_LENGTH
from listening import running
from serving import fake_app

DEPLOY = Path(__file__).parent.parent / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
PHOTO = Path(hierax.__file__).parent / "assets" / "cat.jpg"
MODEL = "/v2/models/hierax%2Ffemto"


UNIT = (DEPLOY / "hierax.service").read_text()
WITH_KEY = re.sub(r"^#(?=EnvironmentFile=)", "", UNIT, flags=re.MULTILINE)
assert WITH_KEY != UNIT


@pytest.mark.parametrize("text", [UNIT, WITH_KEY], ids=["open", "key"])
def test_the_unit_of_systemd_is_valid(text: str, tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "hierax.service"
    program = tmp_path / "hierax"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit.write_text(text.replace("/opt/hierax/bin/hierax", str(program)))
    done = subprocess.run([verify, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_unit_starts_the_server_with_options_that_exist() -> None:
    command = re.search(r"^ExecStart=\S+/hierax serve (.*)$", UNIT, re.MULTILINE)
    assert command
    chosen = parse(*_parser(), ["serve", *shlex.split(command[1])])
    assert (chosen.host, chosen.api_key_file) == ("127.0.0.1", None)


def test_the_container_starts_the_server_with_options_that_exist() -> None:
    container = re.search(r"exec hierax serve (.*?) \\?\"\$@", (DEPLOY / "Dockerfile").read_text())
    assert container
    words = re.sub(r"\$\{[^}]*\}", "", container[1]).replace('\\"', "")
    chosen = parse(*_parser(), ["serve", *shlex.split(words)])
    assert chosen.host == "0.0.0.0"


def test_the_image_has_every_file_that_the_build_of_the_wheel_reads() -> None:
    tomllib, root = pytest.importorskip("tomllib"), DEPLOY.parent
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    described = project["project"]
    needed = {"pyproject.toml", described["readme"], *described["license-files"], *wheel["sbom-files"]}
    copied = {word for line in re.findall(r"^COPY (?!--)(.*) \S+$", DOCKERFILE, re.MULTILINE) for word in line.split()}
    assert {name for name in needed if name not in copied and name.partition("/")[0] not in copied} == set()
    assert [name for name in copied if not (root / name).exists()] == []


def test_variables_and_options_in_the_files_exist() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (DEPLOY.parent / "src").rglob("*.py"))
    options = {option for action in _parser()[1]["serve"]._actions for option in action.option_strings}
    for path in (DEPLOY / "hierax.service", DEPLOY / "nginx.conf"):
        text = path.read_text(encoding="utf-8")
        assert [name for name in re.findall(r"\bHIERAX_\w+", text) if f'"{name}"' not in source] == [], path.name
        others = r"^#.*(?:/pip|systemctl) .*$"  # commands of other programs
        named = set(re.findall(r"(?<=[\s`])--[a-z][\w-]*", re.sub(others, "", text, flags=re.MULTILINE)))
        assert named - options == set(), path.name


def test_the_key_of_the_unit_reaches_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comments tell what to write into which file; systemd makes a variable of it."""
    unit = (DEPLOY / "hierax.service").read_text(encoding="utf-8")
    written = re.search(r"write the line (HIERAX_API_KEY)=\S* to (\S+)", unit)
    assert written
    assert f"\n#EnvironmentFile={written[2]}\n" in unit
    monkeypatch.setenv(written[1], "secret")
    assert read_keys(None) == ("secret",)


def test_the_health_check_of_the_container_asks_the_server_and_no_proxy() -> None:
    check = re.search(r"^ +CMD (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert check
    _, *words = json.loads(check[1])
    elsewhere = {**os.environ, "http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}

    def asked(port: str) -> int:
        command = [sys.executable, *(word.replace("8000", port) for word in words)]
        return subprocess.run(command, env=elsewhere, stderr=subprocess.DEVNULL, timeout=120).returncode

    app = fake_app()
    with running(app) as address:
        assert asked(address.partition(":")[2]) == 0
        app.state.hierax.drain()
        assert asked(address.partition(":")[2]) == 1
    assert asked(str(free_port())) == 1


@contextlib.contextmanager
def nginx(address: str, place: Path, port: int) -> Iterator[str]:
    """nginx of the system with the file of the repository, in front of a server."""
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        pytest.skip("nginx is not installed")
    site = (DEPLOY / "nginx.conf").read_text()
    site = site.replace("listen 80;", f"listen 127.0.0.1:{port};").replace("127.0.0.1:8000", address)
    user = "" if os.getuid() else "user root; "  # else nginx's processes cannot write to the folder of the test
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "".join(f"{kind}_temp_path {place}/{kind};\n" for kind in kinds)
    (place / "site.conf").write_text(site)
    (place / "nginx.conf").write_text(
        f"{user}daemon off; worker_processes 1; pid {place}/pid; error_log {place}/error.log;\n"
        f"events {{ worker_connections 64; }}\nhttp {{ access_log off; {folders} include {place}/site.conf; }}\n"
    )
    process = subprocess.Popen([program, "-p", str(place), "-c", str(place / "nginx.conf")], stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def connect(address: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(address, timeout=60)


def answer(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, bytes]:
    connection.request(method, path, body, headers)
    found = connection.getresponse()
    return found.status, found.read()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_nginx_in_front_of_the_server_changes_no_answer(tmp_path: Path) -> None:
    app = create_app(precision="fp32", backend="torch", threads=1)
    image = {"Content-Type": "image/jpeg"}
    with running(app) as direct, nginx(direct, tmp_path, free_port()) as proxied:
        one, other = connect(direct), connect(proxied)
        route = "/v1/embed?format=npy"
        assert answer(other, "POST", route, PHOTO.read_bytes(), **image) == answer(
            one, "POST", route, PHOTO.read_bytes(), **image
        )
        for path in (MODEL, MODEL.replace("%2F", "/"), "/v1/model", "/metrics/nothing"):
            assert answer(other, "GET", path) == answer(one, "GET", path), path
        kept = other.sock
        content, length = large()
        status, content = answer(other, "POST", MODEL + "/infer", content, **{HEADER_LENGTH: str(length)})
        assert (status, len(content) > 4_000_000) == (200, True)
        assert other.sock is kept  # the connection was used for all of them
        status, _ = answer(other, "POST", "/v1/classify", bytes(64_000_001), **image)
        assert status == 413
        other.close()
        other = connect(proxied)
        status, content = answer(other, "POST", "/v1/classify", bytes(63_000_000), **image)
        assert (status, json.loads(content)["error"]["code"]) == (415, "unsupported_media")
        one.close()
        other.close()


def test_nginx_takes_a_slow_upload_for_the_server(tmp_path: Path) -> None:
    app = create_app(precision="fp32", backend="torch", threads=1)
    content = PHOTO.read_bytes()
    with running(app) as direct, nginx(direct, tmp_path, free_port()) as proxied:
        host, _, port = proxied.partition(":")
        with socket.create_connection((host, int(port)), timeout=60) as client:
            head = f"POST /v1/classify HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(content)}\r\n"
            client.sendall(head.encode() + b"Content-Type: image/jpeg\r\n\r\n" + content[:-1])
            time.sleep(0.3)
            assert app.state.hierax.admission.bytes == 0
            client.sendall(content[-1:])
            assert client.recv(100).startswith(b"HTTP/1.1 200")


def large() -> tuple[bytes, int]:
    """A request whose answer does not fit into nginx's buffers, and how many of its bytes are JSON."""
    pixels = np.zeros((8, 3, 224, 224), np.float32).tobytes()
    entry = {"name": "pixel_values", "shape": [8, 3, 224, 224], "datatype": "FP32"}
    wanted = [{"name": "stage1", "parameters": {"binary_data": True}}]
    head = json.dumps(
        {"inputs": [{**entry, "parameters": {"binary_data_size": len(pixels)}}], "outputs": wanted}
    ).encode()
    return head + pixels, len(head)
