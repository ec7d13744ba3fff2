"""Artifacts on disk: whole or missing, never half; bounded; named after all that they were made from."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from hierax.digests import weights_digest
from hierax.engine import cache as cache_module
from hierax.engine.cache import ArtifactCache, artifact_key, default_folder
from hierax.notices import Notice
from small import randomize
from tasks import make


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path / "deep" / "folder")
    assert cache.read("key") is None
    cache.write("key", b"content")
    assert ArtifactCache(cache.folder).read("key") == b"content"
    cache.write("key", b"")
    assert cache.read("key") == b""


def test_nothing_but_the_entry_is_left_in_the_folder(tmp_path: Path) -> None:
    ArtifactCache(tmp_path).write("key", b"content")
    assert names(tmp_path) == ["key.artifact"]


@pytest.mark.parametrize(
    "damage",
    {
        "cut short": lambda whole: whole[:-1],
        "a byte too many": lambda whole: whole + b"x",
        "a flipped bit": lambda whole: whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:],
        "another digest": lambda whole: whole[:20] + bytes([whole[20] ^ 1]) + whole[21:],
        "another kind": lambda whole: b"X" + whole[1:],
        "empty": lambda whole: b"",
        "header only": lambda whole: whole[:30],
    }.items(),
    ids=lambda damage: damage[0],
)
def test_a_damaged_entry_is_none_and_is_removed(
    damage: tuple, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ArtifactCache(tmp_path)
    cache.write("key", b"some content")
    path = cache.path("key")
    path.write_bytes(damage[1](path.read_bytes()))
    assert cache.read("key") is None
    assert not path.exists()
    assert "damaged and will be made again" in caplog.text
    cache.write("key", b"anew")
    assert cache.read("key") == b"anew"


def test_an_entry_under_the_name_of_another_is_none(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    cache.write("one", b"some content")
    cache.path("one").rename(cache.path("two"))
    assert cache.read("two") is None


def _pipe(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def _folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.unlink()
    path.mkdir()


def _of_another_user(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module.os, "getuid", lambda: 4711)
    if not path.stat().st_uid:  # that of root is trusted
        os.chown(path, 4712, -1)


def _writable_by_others(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.chmod(0o666)


@pytest.mark.skipif(sys.platform == "win32", reason="neither pipes nor owners there")
@pytest.mark.parametrize(
    ("become", "reason"),
    [
        (_pipe, "not a regular file"),
        (_link, ""),
        (_folder, ""),
        (_of_another_user, "it belongs to another user"),
        (_writable_by_others, "others can write it"),
    ],
)
def test_only_a_regular_file_that_is_ours_alone_is_read_and_what_else_is_there_gives_way(
    become: Any, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ArtifactCache(tmp_path)
    cache.write("key", b"some content")
    become(cache.path("key"), monkeypatch)
    assert cache.read("key") is None
    assert "is not used, and will be made again: " + reason in caplog.text
    monkeypatch.undo()
    cache.write("key", b"anew")
    assert cache.read("key") == b"anew"


def test_a_folder_in_the_place_of_an_entry_is_moved_away_and_told_once(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    cache.path("key").mkdir()
    (cache.path("key") / "notes").write_text("mine")
    with pytest.warns(
        Notice, match=r"key.artifact: a folder was in the place of a cached file; it is now key.art.*moved"
    ):
        cache.write("key", b"content")
    assert cache.read("key") == b"content"
    cache.write("key", b"anew")
    (moved,) = tmp_path.glob("*.moved")
    assert (moved / "notes").read_text() == "mine"


@pytest.mark.skipif(sys.platform == "win32", reason="no modes there")
def test_what_is_written_is_for_nobody_else(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path / "cache")
    cache.write("key", b"content")
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert cache.path("key").stat().st_mode & 0o777 == 0o600


def test_a_write_that_fails_halfway_leaves_the_old_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ArtifactCache(tmp_path)
    cache.write("key", b"old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    cache.write("key", b"new")
    assert cache.read("key") == b"old"
    assert names(tmp_path) == ["key.artifact"]


def test_a_folder_that_cannot_be_written_to_is_logged_once_and_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = ArtifactCache(tmp_path / "file" / "folder")
    cache.write("key", b"content")
    cache.write("key", b"content")
    assert cache.read("key") is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "compiled models are not cached" in caplog.text


WRITER = """
import sys
from hierax.engine.cache import ArtifactCache
cache = ArtifactCache(sys.argv[1])
for _ in range(200):
    cache.write("key", sys.argv[2].encode() * 50_000)
    assert cache.read("key") in (b"a" * 50_000, b"b" * 50_000)
"""


def test_two_processes_may_write_the_same_entry(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*command, letter]) for letter in "ab"]
    assert [writer.wait(600) for writer in writers] == [0, 0]
    assert names(tmp_path) == ["key.artifact"]


def test_the_least_recently_used_entries_go_when_there_is_too_much(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path, max_bytes=3 * 1100)
    for age, key in enumerate("abc"):
        cache.write(key, bytes(1000))
        os.utime(cache.path(key), (1000 + age, 1000 + age))
    assert cache.read("a") is not None  # now the most recently used
    cache.write("d", bytes(1000))
    assert names(tmp_path) == ["a.artifact", "c.artifact", "d.artifact"]


def test_what_is_larger_than_all_that_may_be_kept_is_not_kept(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path, max_bytes=100)
    cache.write("key", bytes(101))
    assert names(tmp_path) == []


def test_what_a_killed_writer_left_is_swept_up(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    old, young = tmp_path / ".x.artifact.1.aa", tmp_path / ".y.artifact.2.bb"
    for part in (old, young):
        part.write_bytes(b"half")
    two_hours_ago = time.time() - 7200
    os.utime(old, (two_hours_ago, two_hours_ago))
    cache.write("key", b"content")
    assert names(tmp_path) == [".y.artifact.2.bb", "key.artifact"]


def test_the_folder_can_be_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HIERAX_CACHE", str(tmp_path / "here"))
    assert default_folder() == tmp_path / "here"
    monkeypatch.delenv("HIERAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "hierax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "hierax"


# -- keys -------------------------------------------------------------------------------------------------------------


def test_the_weights_digest_changes_with_any_value_name_shape_and_dtype() -> None:
    model = make("image", "features")
    first = weights_digest(model)
    assert weights_digest(model) == first
    with torch.no_grad():
        model.norm.bias[-1].add_(1e-6)
    others = [weights_digest(model), weights_digest(model.to(torch.bfloat16)), weights_digest(model.norm)]
    assert len({first, *others}) == 4


def test_the_order_of_strides_does_not_change_the_weights_digest() -> None:
    model = randomize(torch.nn.Conv2d(3, 4, 3))
    first = weights_digest(model)
    assert weights_digest(model.to(memory_format=torch.channels_last)) == first  # type: ignore[call-overload]


@pytest.mark.parametrize("changed", [{"size": (64, 96)}, {"weights": "other"}, {"config": {"eps": 1.0}}])
def test_a_key_changes_with_each_part(changed: dict) -> None:
    parts = {"size": (64, 64), "weights": "digest", "config": {"eps": 1e-6}}
    assert artifact_key(parts) == artifact_key(dict(reversed(parts.items())))
    assert artifact_key({**parts, **changed}) != artifact_key(parts)


@pytest.mark.parametrize("what", ["processor_kind", "_code_digest"])
def test_a_key_changes_with_the_processor_and_with_the_code(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = artifact_key({})
    monkeypatch.setattr(cache_module, what, lambda: "another")
    assert artifact_key({}) != before
