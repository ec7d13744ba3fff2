"""Several calls that write to one collection: nothing is lost, whoever is first and whoever is killed."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import hierax.embedding.plan as plan
from hierax.collection.store import Manifest
from hierax.embedding import CollectionError, FeatureExtractor, embed
from pictures import BAD, COUNT, OPTIONS, same

LIMIT = 600  # seconds to wait for another thread
pytest_plugins = ("pictures", "benches")


class Call(threading.Thread):
    """A call of `embed` beside the test's own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__()
        self._call, self.result = lambda: embed(*arguments, **options), None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._call()
        except Exception as error:
            self.result = error

    def outcome(self) -> Any:
        self.join(LIMIT)
        assert not self.is_alive()
        return self.result


@pytest.fixture
def while_listing(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """The first call that lists sources says so, and goes on when it is told to."""
    listing, go_on = threading.Event(), threading.Event()
    original = plan.list_sources

    def list_sources(*arguments: Any, **options: Any) -> Any:
        first = not listing.is_set()
        listing.set()
        assert not first or go_on.wait(LIMIT)
        return original(*arguments, **options)

    monkeypatch.setattr(plan, "list_sources", list_sources)
    yield listing, go_on
    go_on.set()


def paths(out: Path) -> list[str]:
    rows = pq.read_table(out / "data", columns=["path", "status"]).to_pylist()
    return sorted(Path(row["path"]).name for row in rows if row["status"] == "ok")


def files(folder: Path) -> list[str]:
    return sorted(path.name for n, path in enumerate(sorted(folder.parent.rglob("*.png"))) if n not in BAD
                  and path.parent == folder)  # fmt: skip


def test_a_second_call_with_other_sources_waits_and_is_refused(
    originals: Path, model: str, tmp_path: Path, while_listing: tuple[threading.Event, threading.Event]
) -> None:
    listing, go_on = while_listing
    first = Call(originals / "a", tmp_path / "out", model=model, **OPTIONS)
    assert listing.wait(LIMIT)
    told: list[str] = []
    options = {**OPTIONS, "on_wait": lambda owner: (told.append(owner), go_on.set())}
    with pytest.raises(CollectionError, match=r"/b is not among the sources of .*out; update adds it"):
        embed(originals / "b", tmp_path / "out", model=model, **options)
    assert first.outcome().rows == len(files(originals / "a"))
    assert paths(tmp_path / "out") == files(originals / "a")
    assert len(told) == 1
    assert told[0].startswith("process ")


def test_two_updates_at_once_both_count(
    originals: Path, model: str, tmp_path: Path, while_listing: tuple[threading.Event, threading.Event]
) -> None:
    listing, go_on = while_listing
    go_on.set()
    out = tmp_path / "out"
    embed(originals / "a" / "001.png", out, model=model, **OPTIONS)
    listing.clear()
    go_on.clear()
    first = Call(originals / "a", out, model=model, update=True, **OPTIONS)
    assert listing.wait(LIMIT)
    options = {**OPTIONS, "on_wait": lambda _: go_on.set()}
    embed(originals / "b", out, model=model, update=True, **options)
    assert first.outcome().pending == 0
    report = embed([], out, model=model, update=True, **OPTIONS)
    assert (report.done, report.gone, report.replaced) == (0, 0, 0)
    assert paths(out) == sorted(files(originals / "a") + files(originals / "b"))
    assert Manifest.read(out).inputs == tuple(str(originals / name) for name in ("a/001.png", "a", "b"))


def test_the_same_call_twice_writes_the_same(
    originals: Path, model: str, whole: Path, tmp_path: Path, while_listing: tuple[threading.Event, threading.Event]
) -> None:
    listing, go_on = while_listing
    first = Call(originals, tmp_path / "out", model=model, **OPTIONS)
    assert listing.wait(LIMIT)
    report = embed(originals, tmp_path / "out", model=model, **{**OPTIONS, "on_wait": lambda _: go_on.set()})
    assert report.rows == first.outcome().rows == COUNT - len(BAD)
    assert same(tmp_path / "out", whole)


def test_what_others_are_writing_is_left_alone(whole: Path, model: str, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    part = out / "data" / ".part-0000-0000001.parquet.7.abc.part"
    part.write_bytes(b"half")
    with plan.claim_folder(out):
        embed([], out, model=model, **OPTIONS)
        assert part.exists()
    embed([], out, model=model, **OPTIONS)
    assert not part.exists()


LEFT = (".lock", ".writers", ".manifest.json.7.abc.part", ".DS_Store", "listings/.0000.parquet.7.abc.part")


@pytest.mark.parametrize("written", ["nothing", "manifest", "listing"])
def test_what_a_kill_leaves_at_any_moment_of_the_first_write_is_no_obstacle(
    originals: Path, model: str, whole: Path, tmp_path: Path, written: str
) -> None:
    out = tmp_path / "out"
    for name in LEFT[: None if written != "nothing" else -1]:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"{")
    if written != "nothing":
        shutil.copy(whole / "manifest.json", out)
    if written == "listing":
        shutil.copy(whole / "listings" / "0000.parquet", out / "listings")
    embed(originals, out, model=model, **OPTIONS)
    (out / ".DS_Store").unlink()
    assert same(out, whole)


def test_a_call_that_is_refused_leaves_no_folder(model: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images in this folder"):
        embed(tmp_path / "empty", tmp_path / "deep" / "out", model=model, **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize("instead", [False, True])
def test_a_collection_that_is_removed_meanwhile_is_an_error_and_not_written_to(
    originals: Path, model: str, tmp_path: Path, instead: bool
) -> None:
    out = tmp_path / "out"

    def remove(_: Any) -> None:
        if not (tmp_path / "moved").exists():
            out.rename(tmp_path / "moved")
            if instead:
                embed(originals / "b", out, model=model, **OPTIONS)

    options = {**OPTIONS, "on_progress": remove}
    with pytest.raises(CollectionError, match=r"out was removed or moved while features were written"):
        embed(originals / "a", out, model=model, **options)
    if instead:
        assert paths(out) == files(originals / "b")
    else:
        assert not out.exists()


def test_a_daemon_decodes_itself(
    originals: Path, model: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="workers is 2, but this process is a daemon and cannot start processes"):
        embed(originals, tmp_path / "out", model=model, **{**OPTIONS, "workers": 2})
    extractor = FeatureExtractor(model, precision="fp32", backend="torch")
    monkeypatch.setattr("hierax.embedding.job.FEW", 1)
    embed(originals, tmp_path / "out", model=extractor, **{**OPTIONS, "workers": None})
    assert same(tmp_path / "out", whole)


@pytest.mark.slow  # two processes, twenty times
def test_twenty_races_lose_nothing(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("embed_races").main([str(tmp_path), "--times", "20", "--kills", "2"]) == 0, capsys.readouterr().out
    out = capsys.readouterr().out
    assert "20 x new: nothing lost" in out
    assert "20 x update: nothing lost" in out


def test_the_signal_that_ended_a_call_is_told(originals: Path, model: str, tmp_path: Path) -> None:
    def stop(_: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    report = embed(originals, tmp_path / "out", model=model, **{**OPTIONS, "on_progress": stop})
    assert (report.stopped, report.signal, report.pending) == (True, signal.SIGTERM, COUNT - 8)


@pytest.mark.slow  # some ten starts of the command
def test_signals_to_all_processes_end_a_run_in_order(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = script("embed_signals").main([str(tmp_path), "--times", "1", "--count", "40", "--workers", "0,2"])
    assert code == 0, capsys.readouterr().out
    assert "2 processes, SIGTERM: differences at the end: none" in capsys.readouterr().out
