"""Whatever the folder of a run holds, training resumes from it, or says in a sentence which file is damaged."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

import tampered_runs
from hierax.notices import Notice
from hierax.train.teacher import TeacherOutputs
from hierax.train.teacher_cache import TeacherCache
from tampered_runs import Change, apply, changes, commands, problem, unfinished
from training import environment, pictures

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)
CHANGES = changes()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    place = tmp_path_factory.mktemp("runs")
    return unfinished(place, pictures(place / "data", each=8))


@pytest.mark.parametrize("change", CHANGES[::80], ids=lambda change: change.name)
def test_a_tampered_run_is_resumed_or_refused(
    run: Run, stopped: tuple[list[str], Path], tmp_path: Path, change: Change
) -> None:
    same, original = stopped
    folder = apply(change, original, tmp_path / "tampered")
    for command in commands(folder, same):
        code, _, err = run(*command)
        assert not problem(code, err, folder)


@pytest.mark.slow
def test_no_tampered_run_is_a_fault_or_hangs(tmp_path: Path) -> None:
    script = [sys.executable, tampered_runs.__file__, str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, env=environment(), check=False)
    *lines, last = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert [line for line in lines if re.search("[0-9]: |names no file", line)] == []
    assert last == f"{3 * len(CHANGES)} commands tried"


def test_each_change_has_a_name_and_they_are_many() -> None:
    assert len({change.name for change in CHANGES}) == len(CHANGES) > 248


KEPT = {"logits": torch.ones(2, 3, dtype=torch.float16)}


@pytest.mark.parametrize(
    ("name", "tensors"),
    {
        "other rows": {"logits": torch.ones(5, 3, dtype=torch.float16)},
        "other columns": {"logits": torch.ones(2, 9, dtype=torch.float16)},
        "integers": {"logits": torch.ones(2, 3, dtype=torch.int64)},
        "features besides": {**KEPT, "features": torch.ones(2, 3, dtype=torch.float16)},
        "nothing": {"other": torch.ones(1)},
    }.items(),
)
def test_answers_that_are_not_those_of_the_batch_are_asked_for_again(
    tmp_path: Path, name: str, tensors: dict[str, torch.Tensor]
) -> None:
    cache, key = TeacherCache(tmp_path, "teacher"), "ab12"
    shapes = [(2, 3), (2, 0)]
    kept = cache.put(key, TeacherOutputs(torch.ones(2, 3), None))
    found = cache.get(key, torch.device("cpu"), shapes=shapes)
    assert found is not None
    assert found.logits is not None
    assert kept.logits is not None
    assert torch.equal(found.logits, kept.logits)
    save_file(tensors, tmp_path / "ab" / "ab12.safetensors")
    assert cache.get(key, torch.device("cpu"), shapes=shapes) is None


def test_a_folder_in_the_place_of_answers_and_a_file_in_that_of_their_folder_are_moved_away(tmp_path: Path) -> None:
    cache, answers = TeacherCache(tmp_path, "teacher"), TeacherOutputs(torch.ones(2, 3), None)
    (tmp_path / "ab" / "ab12.safetensors" / "mine").mkdir(parents=True)
    (tmp_path / "cd").write_text("mine")
    for key, there in (("ab12", "ab12.safetensors: a folder"), ("cd34", "cd: a file")):
        assert cache.get(key, torch.device("cpu"), shapes=[(2, 3), (2, 0)]) is None
        with pytest.warns(Notice, match=rf"{there} was in the place of a .*; it is now .*\.moved"):
            cache.put(key, answers)
        assert cache.get(key, torch.device("cpu"), shapes=[(2, 3), (2, 0)]) is not None


def test_a_pipe_in_the_place_of_answers_is_not_waited_for(tmp_path: Path) -> None:
    import os

    cache = TeacherCache(tmp_path, "teacher")
    (tmp_path / "ab").mkdir()
    os.mkfifo(tmp_path / "ab" / "ab12.safetensors")
    assert cache.get("ab12", torch.device("cpu"), shapes=[(2, 3), (2, 0)]) is None
