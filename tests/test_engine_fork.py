"""An engine that was used lives on in a forked child, or says why it cannot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hierax import Engine

pytest_plugins = ["engines"]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is forked there")

_PARENT = """
import os, sys, torch
import hierax
source, backend, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.set_num_threads(1)
engine = hierax.Engine(source, backend=backend, precision="auto" if backend == "auto" else "fp32", threads=threads)
pixels = torch.randn(3, 3, 64, 64)
expected = engine(pixels).logits
def both():
    return float((engine(pixels).logits - expected).abs().max()) < 1e-4 and engine(pixels[:1, :, :48]).logits.shape[0]
both()
sys.stdout.flush()
child = os.fork()
if child == 0:
{work}
    sys.exit(0)
_, status = os.waitpid(child, 0)
print("status", status)
"""


def forked(work: str, source: Path, backend: str, *, threads: int = 1) -> tuple[list[str], str]:
    """Lines on stdout, and stderr, of a process that uses an engine, forks, and does `work` in the child."""
    code = _PARENT.replace("{work}", "\n".join(f"    {line}" for line in work.splitlines()))
    command = [sys.executable, "-W", "ignore", "-c", code, str(source), backend, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    return done.stdout.split("\n")[:-1], done.stderr


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(("backend", "threads"), [("torch", 2), ("onnxruntime", 2), ("openvino", 1)])
def test_an_engine_that_was_used_answers_in_a_forked_child(backend: str, threads: int, classifier: Path) -> None:
    with Engine(
        classifier, backend=backend, precision="fp32", threads=threads
    ) as engine:  # keeps what the process reads
        for width in (64, 48):
            engine(torch.zeros(1, 3, 64, width))
    found, _ = forked("print('same', both() == 1, flush=True)", classifier, backend, threads=threads)
    assert found == ["same True", "status 0"]


@pytest.mark.usefixtures("own_cache")
def test_openvino_after_a_fork_is_an_error_where_it_was_asked_for_by_name(classifier: Path) -> None:
    work = """
for backend in ("openvino", "auto"):
    try:
        print(hierax.Engine(source, backend=backend).backend in ("onnxruntime", "torch"), flush=True)
    except RuntimeError as error:
        print(error, flush=True)"""
    found, errors = forked(work.strip(), classifier, "openvino")
    assert found[0].startswith("OpenVINO was used before this process was forked, and cannot be used in the child")
    assert found[1:] == ["True", "status 0"]
    assert "runs without it" in errors
