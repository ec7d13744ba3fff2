"""Checkpoints of a run: whole or not at all, the last ones and the best, and what a run is resumed from."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver

from hierax.train.parallel import World

LOCK = ".lock"
_STEP, _SIZES = "step-", "sizes.json"


def write_text(path: Path, text: str) -> None:
    """A file that is there whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """A JSON file that is there whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


class FolderTaken(ValueError):
    """Another process is writing to the folder."""


@contextlib.contextmanager
def taken(folder: Path) -> Iterator[None]:
    """A folder for this process alone, until it leaves or dies; where the file system knows locks.

    Raises:
        FolderTaken: another process has it.
    """
    path = folder / LOCK
    with path.open("w") as file:
        try:
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of the process: those that decode do not inherit it
        except ImportError:  # Windows
            pass
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise FolderTaken(f"another process is training in {folder}; let it end, or stop it first") from None
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # the disk may have become read-only
                path.unlink()


def rng_state() -> dict[str, Any]:
    """The state of PyTorch's random numbers, which drop path and dropout use; all others are keyed by the sample."""
    state: dict[str, Any] = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """The inverse of `rng_state`."""
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


class Checkpoints:
    """The folder `checkpoints/` of a run: one folder a checkpoint, the last `keep` of them and the best.

    Each holds `shared/`, which all ranks wrote together and any number of ranks can read, `rank-N.pt` of each rank,
    and `sizes.json`, by which a damaged one is told.
    """

    def __init__(self, run: Path, *, keep: int) -> None:
        self.folder, self.keep = run / "checkpoints", keep

    def steps(self) -> list[int]:
        """Steps after which there is a checkpoint, ascending."""
        if not self.folder.is_dir():
            return []
        found = [p.name.removeprefix(_STEP) for p in self.folder.iterdir() if p.name.startswith(_STEP)]
        return sorted(int(name) for name in found if name.isdecimal())

    def path(self, step: int) -> Path:
        """Where the checkpoint after `step` steps is."""
        return self.folder / f"{_STEP}{step}"

    def save(self, step: int, shared: dict[str, Any], own: Mapping[str, Any], *, world: World, best: int = 0) -> None:
        """Writes the checkpoint of `step`: whole or not at all; then deletes the oldest but that of step `best`.

        A call of all ranks.

        Raises:
            OSError, RuntimeError, CheckpointException: it cannot be written; nothing is left of it.
        """
        part = self.folder / f".part-{step}"
        try:
            world.on_first(lambda: _emptied(part))
            _together(state_dict_saver.save, shared, part, world)
            world.everywhere(lambda: torch.save(dict(own), part / f"rank-{world.rank}.pt"))
            world.on_first(lambda: self._commit(part, step, best))
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)  # on a full disk, this is the room that is missing
            raise

    def _commit(self, part: Path, step: int, best: int) -> None:
        files = sorted(path for path in part.rglob("*") if path.is_file())
        write_json(part / _SIZES, {path.relative_to(part).as_posix(): path.stat().st_size for path in files})
        _sync(part)
        os.replace(part, self.path(step))
        _sync_folder(self.folder)
        for old in self.steps()[: -self.keep]:
            if old != best:
                shutil.rmtree(self.path(old), ignore_errors=True)

    def load(self, step: int, shared: dict[str, Any], *, world: World) -> tuple[dict[str, Any], bool]:
        """Reads the checkpoint of `step` into `shared`; a call of all ranks.

        Returns:
            What this rank saved for itself (another number of ranks: what the first one did), and whether there were
            as many ranks.

        Raises:
            OSError: the checkpoint is damaged; names it.
        """
        path = self.path(step)
        world.on_first(lambda: [shutil.rmtree(part) for part in self.folder.glob(".part-*")])  # of an interrupted write
        world.everywhere(lambda: _check(path))
        _together(state_dict_loader.load, shared, path, world)
        ranks = len(list(path.glob("rank-*.pt")))
        own = path / f"rank-{world.rank if world.rank < ranks else 0}.pt"
        return torch.load(own, map_location="cpu", weights_only=True), ranks == world.size


def _together(act: Callable[..., Any], state: dict[str, Any], folder: Path, world: World) -> None:
    """Saves or loads what all ranks hold together."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # a single process is meant
        act(state, checkpoint_id=folder / "shared", no_dist=world.size == 1)


def _emptied(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _check(path: Path) -> None:
    """Raises `OSError` for a checkpoint that is not as it was written."""
    try:
        sizes = json.loads((path / _SIZES).read_text())
    except (OSError, ValueError):
        sizes = {_SIZES: -1}
    for name, size in sizes.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != size:
            raise OSError(f"{file} is damaged; delete the folder {path} to go on from the checkpoint before")


def _sync(folder: Path) -> None:
    """Has everything below a folder on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system can do this to folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
