"""Locks of folders: one owner, given back when it ends, however it ends."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import hierax.locking as module
from hierax.locking import FolderTaken, NoLocks, hold_lock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".lock"


def test_a_lock_has_one_owner_who_is_named(path: Path) -> None:
    with hold_lock(path), pytest.raises(FolderTaken, match=f"process {os.getpid()} on "), hold_lock(path):
        pass
    assert not path.exists()
    with hold_lock(path):
        assert path.exists()


def test_a_shared_lock_has_several_owners_and_knows_when_it_is_alone(path: Path) -> None:
    with hold_lock(path, shared=True) as first:
        with hold_lock(path, shared=True) as second:
            assert not second.is_alone()
            with pytest.raises(FolderTaken), hold_lock(path):
                pass
        assert path.exists()
        assert first.is_alone()
    assert not path.exists()


def test_who_waits_gets_the_lock_that_is_given_back(path: Path) -> None:
    told: list[str] = []
    waiting, got = threading.Event(), threading.Event()

    def wait() -> None:
        with hold_lock(path, wait=True, on_wait=lambda owner: (told.append(owner), waiting.set())) as lock:
            assert lock.stands(), "the file that was waited for is gone; another one is locked"
            got.set()

    thread = threading.Thread(target=wait)
    with hold_lock(path):
        thread.start()
        assert waiting.wait(600)
        assert not got.is_set()
    thread.join(600)
    assert got.is_set()
    assert told[0].startswith(f"process {os.getpid()}")


HOLD = """
import sys; from pathlib import Path; from hierax.locking import hold_lock
with hold_lock(Path(sys.argv[1])):
    print("has it", flush=True); sys.stdin.read()
"""


def test_a_process_that_is_killed_gives_its_lock_back(path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"has it\n"
    with pytest.raises(FolderTaken, match=f"process {process.pid} on "), hold_lock(path):
        pass
    process.kill()
    process.communicate()
    assert path.exists(), "what it left is no obstacle"
    with hold_lock(path):
        pass


@pytest.mark.filterwarnings("ignore:.*fork")  # pytest's own threads
def test_a_process_that_is_forked_keeps_no_lock(path: Path) -> None:
    read, write = os.pipe()
    with hold_lock(path):
        child = os.fork()
        if not child:  # lives on when the owner has given the lock back
            os.close(write)
            os.read(read, 1)
            os._exit(0)
    try:
        with hold_lock(path):
            pass
    finally:
        os.close(write)
        os.waitpid(child, 0)
        os.close(read)


def test_a_lock_whose_folder_was_removed_no_longer_stands(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    with hold_lock(folder / ".lock", shared=True) as lock:
        assert lock.stands()
        folder.rename(tmp_path / "moved")
        assert not lock.stands()
        folder.mkdir()
        (folder / ".lock").touch()
        assert not lock.stands(), "another folder took its place"


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_warned_of(path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def flock(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module.fcntl, "flock", flock)
    with pytest.warns(NoLocks, match="this disk has no file locks; run one process at a time"), hold_lock(path):
        pass
