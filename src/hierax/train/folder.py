"""The folder of a run: reads its description, and checks whether a run may be started or resumed in it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hierax.atomic import PARTS, sync_folder
from hierax.data.folders import split_folders
from hierax.locking import LOCK
from hierax.train.checkpoints import write_json
from hierax.train.description import DESCRIPTION, DamagedRun, read_description, read_object
from hierax.train.settings import RESUMABLE_SETTINGS, Recipe

_ELSEWHERE = "choose another folder with -o (--overwrite would replace the run)"


class RunExists(ValueError):
    """The folder holds something other than this run."""


def absolute_source(setting: str | os.PathLike[str]) -> str:
    """The absolute path of local data or weights, valid in any working folder; ids of the Hub are unchanged."""
    text = os.fspath(setting)
    return os.path.abspath(text) if os.path.exists(text) or any(c in text for c in "*?[{") else text


def read_previous(run: Path) -> dict[str, Any] | None:
    """The content of run.json, or None if the folder has none.

    Raises:
        RunExists: it is damaged.
    """
    path = run / DESCRIPTION
    if not path.exists():
        return None
    try:
        return read_description(path)
    except DamagedRun as error:
        raise RunExists(f"{error}; {_ELSEWHERE}") from None


def check_folder(run: Path, *, overwrite: bool) -> None:
    """Raises `RunExists` unless the folder is new or empty, or holds a run."""
    if run.is_file():
        raise RunExists(f"{run} is a file; expected a folder for the run")
    if (run / DESCRIPTION).exists():
        if not overwrite:
            read_previous(run)
        return
    # locks and temporary files may remain from a run that was killed before it wrote anything
    if run.exists() and any(not (path.name.startswith(LOCK) or path.match(PARTS)) for path in run.iterdir()):
        raise RunExists(f"{run} is not empty and contains no run; choose another folder with -o")


def check_settings(run: Path, previous: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raises `RunExists` if the run in the folder has other settings than requested; names all of them."""
    first = {
        **previous,
        "recipe": Recipe.from_dict(previous["recipe"]).to_dict(),
    }  # with settings that are newer than the run
    then, now = ({**{k: v for k, v in s.items() if k != "recipe"}, **s["recipe"]} for s in (first, settings))
    others = [
        f"{key} was {then.get(key)!r}, now {now[key]!r}"
        for key in sorted(set(now) - RESUMABLE_SETTINGS)
        if then.get(key) != now[key]
    ]
    if others:
        finished = "holds a finished run with other settings"
        problem = finished if previous.get("finished") else "holds a run with other settings"
        raise RunExists(f"{run} {problem}: {'; '.join(others)}; {_ELSEWHERE}")


def check_places(run: Path, places: Mapping[str, str | None], *, overwrite: bool) -> None:
    """Raises `ValueError` if the run's folder is inside of its data, because the run's images would count as samples,
    or if overwriting the folder would delete the data or weights.
    """
    for name, place in places.items():
        if not place or not os.path.exists(place):
            continue
        there, here = Path(place).resolve(), run.resolve()
        if overwrite and there.is_relative_to(here):
            raise ValueError(f"{name} is {place}, inside the run {run}, which --overwrite would delete")
        parts = split_folders(there)  # files beside a training and a validation set are not read
        read = parts if parts and parts[1] else (there,)
        if name not in ("from", "teacher") and any(here.is_relative_to(part) for part in read if part):
            raise ValueError(f"the run {run} lies inside {name}, {place}, and would become part of it")


def delete_run_files(folder: Path) -> None:
    """Deletes the content of a run's folder; run.json last, because it marks a folder that may be deleted. It calls the
    run unfinished from now on, because a finished run has weights.
    """
    description = folder / DESCRIPTION
    with contextlib.suppress(DamagedRun):
        previous = read_object(description)  # of any kind of run
        if previous.get("finished"):
            write_json(description, {k: v for k, v in previous.items() if k not in ("finished", "result")})
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in (LOCK, DESCRIPTION):
            path.unlink()
    sync_folder(folder)  # no checkpoint of this run may come back beside the next run.json
    description.unlink(missing_ok=True)
    sync_folder(folder)
