"""The guide of the server: its commands, and its clients in three languages."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

import hierax
from hierax import HieraForSemanticSegmentation
from hierax.cli import _parser
from hierax.cli.parsing import parse
from hierax.embedding import embed
from hierax.serve import create_app
from hierax.serve.errors import STATUS
from hierax.serve.reading import MOST_PIXELS
from listening import running
from small import image_config, randomize
from test_docs import Block, blocks, check_printed, commands, text_of

ASSETS = Path(hierax.__file__).parent / "assets"
OPTIONS = {"precision": "fp32", "backend": "torch", "threads": 1}
KEY = "a-key"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the guide names."""
    place = tmp_path_factory.mktemp("reader")
    for name in ("cat.jpg", "photo.jpg"):
        shutil.copy(ASSETS / "cat.jpg", place / name)
    shutil.copy(sorted((ASSETS / "photos").glob("*.jpg"))[0], place / "dog.jpg")
    (place / "notes.txt").write_text("no image")
    embed([place / "cat.jpg", place / "dog.jpg"], place / "features", precision="fp32", backend="torch")
    return place


@pytest.fixture(scope="module")
def address(reader: Path) -> Iterator[str]:
    segmenter: Any = randomize(HieraForSemanticSegmentation(image_config(segmentation_hidden_size=16)), 0.3)
    segmenter.save_pretrained(reader / "segmenter")
    sources = {"segmentation": reader / "segmenter", "collection": reader / "features"}
    with running(create_app(**sources, **OPTIONS)) as found:
        yield found


def shell(text: str, address: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command as the guide has it, but to the server of the test; HTTP errors are errors unless it shows one."""
    command = text.replace("localhost:8000", address)
    environment = {**os.environ, "KEY": KEY}
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def of_kind(*kinds: str) -> list[Block]:
    return [block for block in blocks("serve") if block.kind in kinds]


def lines(block: Block) -> list[str]:
    return [line for line in block.text.replace("\\\n", " ").splitlines() if line.strip()]


CURLS = [line for block in of_kind("sh") for line in lines(block) if not line.startswith(("hierax", "pip install"))]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("line", CURLS)
def test_every_curl_command_of_the_guide_is_answered(line: str, address: str, reader: Path) -> None:
    if "request.json" in line and line.startswith("curl"):
        shell(next(other for other in CURLS if other.startswith("echo")), address, reader)
    done = shell(line.replace("curl ", "curl --silent --show-error --fail-with-body ", 1), address, reader)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"error"' not in done.stdout
    if name := re.search(r" -o (\S+)", line):
        start = {"png": b"\x89PNG", "npy": b"\x93NUMPY", "jpg": b"\xff\xd8\xff"}[name[1].rpartition(".")[2]]
        assert (reader / name[1]).read_bytes().startswith(start)
    elif line.startswith("curl") and "metrics" not in line and "health" not in line:
        assert json.loads(done.stdout)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_what_the_guide_shows_is_printed(address: str, reader: Path) -> None:
    shown = [(block, *found) for block in of_kind("console") for found in commands(block) if found[0][0] == "curl"]
    assert shown
    for block, words, printed in shown:
        done = shell(shlex.join(words), address, reader)
        check_printed(printed, done.stdout.splitlines(), place=block.place)


def test_every_hierax_command_of_the_guide_has_options_that_exist() -> None:
    texts = [line for block in of_kind("sh", "text") for line in lines(block)]
    found = [line.partition("hierax serve")[2] for line in texts if "hierax serve" in line and "docker" not in line]
    found += [line.partition("hierax-tiny ")[2] for line in texts if "docker run" in line and "hierax-tiny " in line]
    assert len(found) >= 5
    for line in found:
        parse(*_parser(), ["serve", *shlex.split(line)])


def test_the_table_of_errors_has_every_code_with_its_status() -> None:
    table = text_of("serve").partition("| status | code |")[2].partition("\n\n")[0]
    found: dict[str, int] = {}
    for status, codes in re.findall(r"^\| ([\d, ]+) \| ([^|]+) \|", table, flags=re.MULTILINE):
        numbers, names = re.findall(r"\d+", status), re.findall(r"`(\w+)`", codes)
        found |= zip(names, map(int, numbers * len(names) if len(numbers) == 1 else numbers), strict=False)
    assert found == dict(STATUS)


def test_the_largest_size_is_that_of_the_server() -> None:
    assert "any side up to 1024," in text_of("serve")
    assert MOST_PIXELS == 1024 * 1024


def test_the_clients_in_python_are_answered(
    address: str, reader: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(reader)
    programs = [block for block in of_kind("python") if "localhost:8000" in block.text]
    assert len(programs) == 2
    for block in programs:
        if "tritonclient" in block.text:
            pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
        exec(compile(block.text.replace("localhost:8000", address), block.place, "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    (expected,) = hierax.classify(["cat.jpg"], top_k=1)
    shown = re.search(r"^mammals: (0\.\d\d)$", printed, re.MULTILINE)
    assert shown, printed
    assert float(shown[1]) == pytest.approx(expected.predictions[0].probability, abs=0.01)
    assert "(1, 320)" in printed
    assert ":mammals" in printed


def test_the_client_in_javascript_is_answered(address: str, reader: Path, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    (block,) = of_kind("js")
    program = tmp_path / "client.mjs"
    program.write_text(block.text.replace("localhost:8000", address))
    done = subprocess.run([node, program], cwd=reader, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "mammals", done.stderr


def test_the_application_of_the_guide_answers_below_its_path() -> None:
    from starlette.testclient import TestClient

    (block,) = [block for block in of_kind("python") if "create_app" in block.text]
    place: dict[str, object] = {}
    program = block.text.replace('api_key="secret"', 'api_key="secret", precision="fp32", backend="torch"')
    exec(compile(program, block.place, "exec"), place)
    with TestClient(place["app"]) as client:  # type: ignore[arg-type]
        assert client.get("/vision/healthz").json() == {"status": "alive"}
        assert client.get("/vision/v1/model").json()["error"]["code"] == "unauthorized"
        assert "KEY" in client.get("/vision/v2").json()["error"]  # the form of that protocol
