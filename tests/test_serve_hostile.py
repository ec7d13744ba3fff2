"""Hostile requests to a server that listens: each kind of benchmarks/hostile_requests.py, and schemathesis."""

from __future__ import annotations

import importlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from hierax.serve import Limits, create_app
from hierax.serve.connection import protocol
from listening import running

PROGRAMS = Path(__file__).parent.parent / "benchmarks"
sys.path.append(str(PROGRAMS))
requests = importlib.import_module("hostile_requests")
sending = importlib.import_module("hostile_sending")
LIMITS = Limits(max_images=8, max_body=3_000_000, deadline_s=20, body_s=2, readers=2)
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
)


@pytest.fixture(scope="module")
def address() -> Iterator[Any]:
    app = create_app(precision="fp32", backend="torch", threads=1, limits=LIMITS)
    with running(app, http=protocol(), ws="none", log_config=None) as found:
        host, _, port = found.partition(":")
        yield sending.Address(host, int(port))
        state = app.state.hierax
        assert (state.admission.images, state.admission.bytes) == (0, 0)  # all room was given back


def attempt(address: Any, kind: str, number: int) -> list[int]:
    """The statuses of the answers to a hostile request; none if the server closed the connection."""
    try:
        return requests.KINDS[kind](address, random.Random(f"{kind}:{number}"))
    except TimeoutError:
        raise
    except OSError:
        return []


@pytest.mark.parametrize("kind", sorted(requests.KINDS))
def test_a_hostile_request_is_answered_without_a_fault(address: Any, kind: str) -> None:
    expected = sending.good_answer(address)
    for number in range(3):
        statuses = attempt(address, kind, number)
        assert not [status for status in statuses if status >= 500 and status not in (503, 504)], (number, statuses)
    assert sending.good_answer(address) == expected


@pytest.mark.slow
def test_two_thousand_hostile_requests_find_no_fault(address: Any, tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAMS / "hostile.py"), f"{address.host}:{address.port}", "--count", "2000"]
    done = subprocess.run([*command, "--threads", "4", "--seed", "1"], capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.slow
def test_schemathesis_finds_no_fault(address: Any, tmp_path: Path) -> None:
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    options = ["--phases", "examples,coverage,fuzzing", "--max-examples", "20", "--seed", "0", "--no-shrink"]
    options += ["--checks", ",".join(CHECKS), "--generation-database", "none", "--suppress-health-check", "all"]
    url = f"http://{address.host}:{address.port}/openapi.json"
    program = Path(sys.executable).with_name("schemathesis")
    command = [str(program), "run", url, "--no-color", "--continue-on-failure", "--request-timeout", "60", *options]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout[-6000:]
