"""Whatever a folder of features holds, commands answer, or say in a sentence which file is damaged."""

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import tampered
from tampered import Change, apply, changes, commands, problem, whole

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)
CHANGES = changes()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole(tmp_path_factory.mktemp("tampered") / "whole")


@pytest.mark.parametrize("change", CHANGES[::12], ids=lambda change: change.name)
def test_a_tampered_collection_is_answered_or_refused(
    run: "Run", original: Path, tmp_path: Path, change: Change
) -> None:
    folder = apply(change, original, tmp_path / "tampered")
    for command in commands(folder, original):
        code, _, err = run(*command)
        assert not problem(code, err)


@pytest.mark.slow
def test_no_tampered_collection_is_a_fault_or_takes_a_gigabyte(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, tampered.__file__, str(tmp_path)], capture_output=True, text=True)
    *lines, last = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, ""), last
    assert [line for line in lines if re.search(" [0-9]+: ", line)] == []
    assert last == f"{4 * len(CHANGES)} commands tried"


def test_each_change_has_a_name_and_they_are_many() -> None:
    assert len({change.name for change in CHANGES}) == len(CHANGES) > 248
