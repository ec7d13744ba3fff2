"""The checkpoints of a run: the last ones and the best one. Each is written completely or not at all."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from hierax.atomic import atomic_write, make_folder, sync_files, sync_folder
from hierax.checkpoint import sharded
from hierax.checkpoint.report import join_names
from hierax.checkpoint.steps import OLDER
from hierax.checkpoint.values import not_finite
from hierax.digests import file_digest
from hierax.locking import LOCK, FolderTaken, hold_lock
from hierax.train.description import read_object
from hierax.train.parallel import World

_STEP, _DIGESTS, _SHARED = "step-", "digests.json", "shared"


def write_text(path: Path, text: str) -> None:
    """Writes a file completely or not at all."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file completely or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Locks a run's folder for this process, if the file system has locks. The lock ends with the process.

    Raises:
        FolderTaken: another process has locked it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(folder / LOCK))
        except FolderTaken as error:
            problem = f"another process is training in {folder}; wait until it has ended, or stop it ({error})"
            raise FolderTaken(problem) from None
        yield


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


class DamagedCheckpoint(OSError):
    """A checkpoint is damaged or altered."""


class OlderCheckpoint(ValueError):
    """A checkpoint of an older version of hierax, which had other parameter groups in its optimizer."""


class Checkpoints:
    """The folder `checkpoints/` of a run: one folder per checkpoint, for the last `keep` checkpoints and the best one.

    Each contains `shared/`, which all ranks write and any number of ranks can read, `rank-N.pt` of each rank, and
    `digests.json`, which shows whether a file is damaged.
    """

    def __init__(self, run: Path, *, keep: int) -> None:
        self.folder, self.keep = run / "checkpoints", keep

    def steps(self) -> list[int]:
        """The steps after which there is a checkpoint, in ascending order."""
        if not self.folder.is_dir():
            return []
        found = [p.name.removeprefix(_STEP) for p in self.folder.iterdir() if p.name.startswith(_STEP)]
        return sorted(int(name) for name in found if name.isdecimal())

    def path(self, step: int) -> Path:
        """The path of the checkpoint after `step` steps."""
        return self.folder / f"{_STEP}{step}"

    def save(self, step: int, shared: dict[str, Any], own: Mapping[str, Any], *, world: World, best: int = 0) -> None:
        """Writes the checkpoint of `step` completely or not at all. Then deletes old checkpoints, but not that of
        `best`.

        All ranks must call this.

        Raises:
            OSError, RuntimeError, CheckpointException: the checkpoint cannot be written; no part of it remains.
        """
        part = self.folder / f".part-{step}"
        try:
            world.run_on_main(lambda: _make_empty_folder(part))
            sharded.write(shared, part / _SHARED, alone=world.size == 1)
            world.run_on_all_ranks(lambda: _write_rank_file(dict(own), part / f"rank-{world.rank}.pt"))
            world.run_on_main(lambda: sync_files(part))
            digests = world.run_on_all_ranks(lambda: _digests(part, world))
            everyone = {name: value for found in world.all_gather(digests) for name, value in found.items()}
            world.run_on_main(lambda: self._commit(part, step, best, everyone))
        except BaseException as error:
            shutil.rmtree(part, ignore_errors=True)  # frees space, if the disk is full
            if isinstance(error, OSError) and error.strerror and not error.filename:
                raise OSError(error.errno, error.strerror, str(self.path(step))) from error
            raise

    def _commit(self, part: Path, step: int, best: int, digests: Mapping[str, Any]) -> None:
        write_json(part / _DIGESTS, digests)
        sync_folder(part)
        os.replace(part, self.path(step))
        sync_folder(self.folder)
        for old in self.steps()[: -self.keep]:
            if old != best:
                shutil.rmtree(self.path(old), ignore_errors=True)

    def check(self, step: int, *, world: World) -> None:
        """Compares the checkpoint of `step` with its digests. All ranks must call this.

        Raises:
            DamagedCheckpoint: a file has changed; the message names it.
        """
        world.run_on_all_ranks(lambda: _check(self.path(step), world))

    def put_aside(self, step: int) -> Path:
        """Renames the checkpoint of `step`, so that it no longer counts and its name is free; returns the new path."""
        aside = self.folder / f"damaged-{step}"
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(self.path(step), aside)
        return aside

    def load(self, step: int, shared: dict[str, Any], *, world: World) -> tuple[dict[str, Any], bool]:
        """Reads the checkpoint of `step`, which was checked before, into `shared`. All ranks must call this.

        Returns:
            The values that this rank has saved (if the number of ranks has changed, those of the first rank), and
            whether the number of ranks is the same.

        Raises:
            DamagedCheckpoint: weights are NaN or infinite, so that training cannot continue.
        """
        path = self.path(step)
        world.run_on_main(
            lambda: [shutil.rmtree(part) for part in self.folder.glob(".part-*")]
        )  # parts of an interrupted write
        sharded.read(shared, path / _SHARED, alone=world.size == 1)
        world.run_on_all_ranks(lambda: _check_finite(path, shared))
        ranks = len(list(path.glob("rank-*.pt")))
        own = path / f"rank-{world.rank if world.rank < ranks else 0}.pt"
        return world.run_on_all_ranks(lambda: _read_rank_file(own)), ranks == world.size


def _write_rank_file(own: dict[str, Any], path: Path) -> None:
    """Writes the values of a rank. Python writes the file, because its errors state the reason."""
    content = io.BytesIO()
    torch.save(own, content)
    with path.open("wb") as file:
        file.write(content.getbuffer())


def _read_rank_file(path: Path) -> dict[str, Any]:
    """Reads the values of a rank: tensors and plain values."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise DamagedCheckpoint(f"{path} contains more than plain values; no code of it was run") from None
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{path} is damaged ({type(error).__name__})") from None


def _check_finite(path: Path, shared: Mapping[str, Any]) -> None:
    for part in ("model", "average"):
        own = {n: t.to_local() if isinstance(t, DTensor) else t for n, t in shared.get(part, {}).items()}
        odd = not_finite(own)
        if odd:
            hold = "tensor holds" if len(odd) == 1 else "tensors hold"
            raise DamagedCheckpoint(
                f"{path}: {len(odd)} {hold} NaN or infinite values: {join_names(odd, 3)}; delete this folder to resume "
                "from the checkpoint before, or start another run with a lower lr"
            )


def _make_empty_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder.parent)
    folder.mkdir()


def _own_files(folder: Path, world: World) -> list[Path]:
    """The files of a checkpoint that this rank checks. All ranks list the files in the same order, and take them in
    turn.
    """
    return sorted(path for path in folder.rglob("*") if path.is_file())[world.rank :: world.size]


def _digests(folder: Path, world: World) -> dict[str, str]:
    """The digests of the files of this rank, by their paths in the folder."""
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in _own_files(folder, world)}


def _check(path: Path, world: World) -> None:
    """Raises `DamagedCheckpoint` if a file has changed. Every rank checks its share of the files.

    A checkpoint without digests was written by an older version, and a run cannot resume from it.
    """
    if (path / OLDER).is_file() and not (path / _DIGESTS).exists():
        raise OlderCheckpoint(
            f"{path} was written by an older hierax; its run cannot be resumed. Start another run from its weights: "
            f"--from {path}, and another folder with -o"
        )
    try:
        digests = read_object(path / _DIGESTS)
    except (OSError, ValueError):
        raise DamagedCheckpoint(f"{path / _DIGESTS} is damaged or missing") from None
    for needed in (f"{_SHARED}/.metadata", "rank-0.pt"):
        if needed not in digests:
            raise DamagedCheckpoint(f"{path / _DIGESTS} is damaged: {needed} is missing in it")
    for name in sorted(digests)[world.rank :: world.size]:
        file = path / name
        if not file.is_file():
            raise DamagedCheckpoint(f"{file} is missing")
        try:
            found = file_digest(file)
        except OSError as error:
            raise DamagedCheckpoint(f"{file} cannot be read ({error.strerror})") from None
        if found != digests[name]:
            raise DamagedCheckpoint(f"{file} is damaged: it is not what was written")
    if world.is_main:
        try:
            sharded.read_table(path / _SHARED)
        except (OSError, ValueError) as error:
            raise DamagedCheckpoint(str(error)) from None
