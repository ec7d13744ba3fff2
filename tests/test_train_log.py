"""What a run says where there is no terminal, and its log after a crash."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from hierax.train import log as module
from hierax.train.log import RunLog
from hierax.train.progress import StepReport


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module.time, "monotonic", made)
    return made


def report(step: int) -> StepReport:
    return StepReport(step, step / 100, 0.75, 1e-3, 1.0, seconds=2.0, waited=0.5, images=8)


def lines_of(capsys: Any) -> list[str]:
    return capsys.readouterr().err.splitlines()


def followed(folder: Path, clock: Clock, *, total: int, first: int, last: int, seconds: float, **options: Any) -> None:
    """A log of the steps `first` to `last`, each of so many seconds."""
    log = RunLog(folder, total=total, **options)
    log.start(first - 1, 0)
    for step in range(first, last + 1):
        clock.now += seconds
        log.step(report(step))
    log.close()


def test_without_a_terminal_a_line_comes_now_and_then(tmp_path: Path, clock: Clock, capsys: Any) -> None:
    followed(tmp_path, clock, total=2000, first=1001, last=1012, seconds=2)
    expected = "step {} of 2,000 · loss 0.7500 · lr 1.0e-03 · 4.0 img/s · 25 % waiting for data · {} left"
    assert lines_of(capsys) == [expected.format("1,005", "0:33:10"), expected.format("1,010", "0:33:00")]


def test_lines_become_fewer_in_a_long_run(tmp_path: Path, clock: Clock, capsys: Any) -> None:
    followed(tmp_path, clock, total=100_000, first=1, last=10_000, seconds=2)
    found = [int(line.split()[1].replace(",", "")) for line in lines_of(capsys)]
    assert [b - a for a, b in itertools.pairwise(found)][:20] == [5] * 20
    assert found[-1] - found[-2] == 30, "once a minute"


def test_who_wants_quiet_gets_it(tmp_path: Path, clock: Clock, capsys: Any) -> None:
    followed(tmp_path, clock, total=10, first=1, last=1, seconds=100, quiet=True)
    assert lines_of(capsys) == []


def test_what_a_loss_of_power_left_of_the_log_is_taken_off(tmp_path: Path) -> None:
    good = json.dumps({"step": 1, "loss": 1.0}) + "\n"
    (tmp_path / "log.jsonl").write_bytes(good.encode() + b"\0\0\0\n" + b'{"loss": 3}\n[]\n\xff\n{"step": 2, "lo')
    log = RunLog(tmp_path, total=10, quiet=True)
    log.start(5, 0)
    log.close()
    assert (tmp_path / "log.jsonl").read_text() == good
