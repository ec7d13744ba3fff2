"""`hierax doctor`: what is installed and found, in lines and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hierax import extras
from hierax.diagnosis import caches

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)


def test_doctor_says_what_there_is(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cache = tmp_path / "cache of hierax"
    cache.mkdir()
    (cache / "x.artifact").write_bytes(bytes(2_500_000))
    monkeypatch.setenv("HIERAX_CACHE", str(cache))
    real = extras.is_installed
    monkeypatch.setattr(extras, "is_installed", lambda module: module != "faiss" and real(module))
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    assert f"2.5 MB  {cache}" in out
    assert f"delete: rm -r '{cache}'" in out
    assert "missing: pip install 'faiss-cpu>=1.9' (part of hierax[search])" in out
    assert "hierax/femto     Apache-2.0" in out
    assert "telemetry: off" in out


def test_doctor_as_json_has_all_of_it(run: Run) -> None:
    found = json.loads(run("doctor", "--json")[1])
    assert set(found) == {"versions", "devices", "cpu", "engine", "extras", "caches", "licenses", "telemetry"}
    assert found["devices"][0]["name"] == "cpu"
    assert {"device", "precision", "backend"} == set(found["engine"])
    assert {entry["package"] for entry in found["extras"]} == set(extras.PACKAGES)


def test_only_caches_that_exist_are_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HIERAX_CACHE", str(tmp_path / "none"))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "nothing"))
    assert not [cache for cache in caches() if str(tmp_path) in cache["path"]]
