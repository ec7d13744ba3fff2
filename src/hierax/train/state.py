"""Checkpoints of a run: whole or not at all, the last ones and the best, and what a run is resumed from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

_STEP = "step-"


def write_json(path: Path, value: Any) -> None:
    """A JSON file that is there whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("w") as file:
            json.dump(value, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


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
    """The folder `checkpoints/` of a run: one folder a checkpoint, the last `keep` of them."""

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

    def begin(self, step: int) -> Path:
        """An empty folder to write the checkpoint into; `commit` puts it in its place."""
        part = self.folder / f".part-{step}"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        return part

    def commit(self, step: int) -> Path:
        """Makes what was written since `begin` the checkpoint of `step`, and deletes the oldest beyond `keep`."""
        part, path = self.folder / f".part-{step}", self.path(step)
        _sync(part)
        if path.exists():
            shutil.rmtree(path)
        os.replace(part, path)
        _sync_folder(self.folder)
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.path(old), ignore_errors=True)
        return path

    def clean(self) -> None:
        """Removes what an interrupted write left."""
        for part in self.folder.glob(".part-*"):
            shutil.rmtree(part, ignore_errors=True)


def save_rank(folder: Path, state: Mapping[str, Any], rank: int) -> None:
    """One rank's own state as a file with its digest."""
    path = folder / f"rank-{rank}.pt"
    torch.save(dict(state), path)
    path.with_suffix(".sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())


def load_rank(folder: Path, rank: int) -> dict[str, Any] | None:
    """What `save_rank` wrote; None if that rank wrote nothing (another world size).

    Raises:
        ValueError: the file is damaged; names it.
    """
    path = folder / f"rank-{rank}.pt"
    if not path.exists():
        return None
    with contextlib.suppress(OSError):
        if hashlib.sha256(path.read_bytes()).hexdigest() == path.with_suffix(".sha256").read_text():
            return torch.load(path, map_location="cpu", weights_only=True)
    raise ValueError(f"{path} is damaged; delete {folder} to go on from the checkpoint before")


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
