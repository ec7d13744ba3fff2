"""Packages that report to their makers are imported with that switched off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_USE = """
import sys
import hierax
if sys.argv[1] == "int8":
    from hierax.telemetry import import_nncf, import_openvino
    import_openvino().Core(), import_nncf().quantize
    import openvino_telemetry  # as importable as before
else:
    import torch
    size = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "image_size": 64}
    model = hierax.create_model("hiera_tiny_224", **size)
    hierax.Engine(model, backend="onnxruntime", cache_dir=False)(torch.zeros(1, 3, 64, 64))
"""


@pytest.mark.parametrize("package", ["onnxruntime", "int8"])
def test_nothing_is_written_to_the_home_of_the_user(package: str, tmp_path: Path) -> None:
    pytest.importorskip("nncf" if package == "int8" else "onnxruntime")
    own = {name: str(tmp_path) for name in ("HOME", "USERPROFILE")}
    gone = ("XDG_CACHE_HOME", "CI", "TF_BUILD", "JENKINS_URL", "ORT_DISABLE_TELEMETRY")
    environment = {name: value for name, value in os.environ.items() if name not in gone} | own
    command = [sys.executable, "-W", "ignore", "-c", _USE, package]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == []
