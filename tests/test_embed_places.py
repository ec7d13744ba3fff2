"""Collections computed on several devices, and on a Ray cluster: the same rows as on one."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from hierax.collection.store import Manifest, shards
from hierax.embedding import CollectionError, FeatureExtractor, embed
from hierax.embedding.cluster import BlockWorker
from hierax.embedding.job import Job, on_devices
from hierax.embedding.run import devices
from pictures import COUNT, OPTIONS, pictures, same

LIMIT = 600  # seconds for a process or a thread
pytest_plugins = ("pictures",)


def test_all_gpus_are_taken_unless_some_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices("auto") == ["auto"]
    assert devices(["cuda:1", "cuda:3"]) == ["cuda:1", "cuda:3"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert devices("auto") == ["cuda:0", "cuda:1", "cuda:2"]
    assert devices("cpu") == ["cpu"]


def test_several_devices_write_what_one_writes(originals: Path, model: str, whole: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    tables: list[Any] = []
    report = embed(
        [originals], tmp_path / "out", model=model, device=["cpu", "cpu", "cpu"],
        on_progress=lambda p: seen.append(p.done), on_table=tables.append, **OPTIONS,
    )  # fmt: skip
    assert (report.done, report.pending) == (COUNT, 0)
    assert same(tmp_path / "out", whole)
    assert seen == sorted(seen)
    assert seen[-1] == COUNT
    assert sum(map(len, tables)) == report.rows


def test_what_one_device_meets_ends_all_and_what_was_written_stays(
    originals: Path, model: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = FeatureExtractor.clone

    def broken(self: FeatureExtractor, **changes: Any) -> Any:
        other = again(self, **changes)
        other.engine.close()
        return other

    monkeypatch.setattr(FeatureExtractor, "clone", broken)
    before = threading.enumerate()
    with pytest.raises(RuntimeError, match="closed"):
        embed([originals], tmp_path / "out", model=model, device=["cpu", "cpu"], **OPTIONS)
    for thread in threading.enumerate():  # engines end theirs on their own
        if thread not in before:
            thread.join(LIMIT)
            assert not thread.is_alive()
    monkeypatch.undo()
    embed([], tmp_path / "out", model=model, **OPTIONS)
    assert same(tmp_path / "out", whole)


def test_devices_are_let_go_when_the_caller_stops_listening(whole: Path, model: str, tmp_path: Path) -> None:
    extractor = FeatureExtractor(model, precision="fp32", backend="torch")
    manifest = Manifest.read(whole)
    (tmp_path / "out").mkdir()
    manifest.write(tmp_path / "out")
    (tmp_path / "out" / "listings").symlink_to(whole / "listings")
    job, stop = Job(tmp_path / "out", manifest), threading.Event()
    steps: Any = on_devices(job, job.blocks(), [extractor, extractor.clone()], stop=stop, workers=0)
    next(steps)
    steps.close()
    assert stop.is_set()
    assert 1 <= len(shards(tmp_path / "out")) <= 3


def test_an_extractor_is_sent_as_what_it_was_made_of(model: str, originals: Path) -> None:
    extractor = FeatureExtractor(model, layers=("pooled", "stage2"), l2=True, precision="fp32", backend="torch")
    sent = pickle.dumps(extractor)
    assert len(sent) < 10_000
    other = pickle.loads(sent)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    for name, vectors in extractor(pixels).items():
        assert (other(pixels)[name] == vectors).all()
    assert other.weights == extractor.weights


def test_a_machine_that_does_not_see_the_collection_says_so(whole: Path, model: str, tmp_path: Path) -> None:
    extractor = FeatureExtractor(model, precision="fp32", backend="torch")
    with pytest.raises(
        CollectionError,
        match=r"the folder does not exist on machine .*; a cluster needs a folder that all its machines share",
    ):
        BlockWorker(tmp_path / "elsewhere", Manifest.read(whole), extractor, 0)


def test_without_ray_the_extra_is_named(
    originals: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        ImportError, match=r"the package ray: pip install 'ray\[data,serve\]>=2.51' \(part of hierax\[ray\]\)"
    ):
        embed([originals], tmp_path / "out", model=model, ray=True, **OPTIONS)
    assert not (tmp_path / "out").exists()


def command(originals: Path, out: Path, model: str) -> list[str]:
    options = ["--ray", "--json", "--batch-size", "4", "--precision", "fp32", "--backend", "torch", "--workers", "0"]
    return [sys.executable, "-m", "hierax", "embed", str(originals), "-o", str(out), "--model", model, *options]


def whole_by_command(originals: Path, out: Path, model: str) -> Path:
    subprocess.run([part for part in command(originals, out, model) if part != "--ray"], check=False, timeout=LIMIT)
    return out


@pytest.mark.slow
def test_a_cluster_writes_what_one_machine_writes(originals: Path, model: str, tmp_path: Path) -> None:
    whole = whole_by_command(originals, tmp_path / "whole", model)
    done = subprocess.run(
        command(originals, tmp_path / "out", model), capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 3, done.stderr  # some pictures cannot be read
    assert json.loads(done.stdout)["done"] == COUNT
    said = [line for line in done.stderr.splitlines() if not line.startswith("hierax: ")]
    assert all("Set ray log level" in line for line in said), said
    assert same(tmp_path / "out", whole)


def actors() -> list[int]:
    """Processes of actors that compute."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"ray::" in title and b"MapWorker" in title:
                found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_a_worker_of_a_cluster_that_is_killed_loses_nothing(originals: Path, model: str, tmp_path: Path) -> None:
    many = pictures(tmp_path / "many", count=1600)
    whole = whole_by_command(many, tmp_path / "whole", model)
    process = subprocess.Popen(command(many, tmp_path / "out", model), stdout=subprocess.PIPE, text=True)
    end = time.monotonic() + LIMIT
    while not shards(tmp_path / "out") and time.monotonic() < end:
        time.sleep(0.02)
    killed = actors()
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    there = len(shards(tmp_path / "out"))
    out, _ = process.communicate(timeout=LIMIT)
    assert killed
    assert there < len(shards(whole))
    assert json.loads(out)["pending"] == 0
    assert same(tmp_path / "out", whole)
