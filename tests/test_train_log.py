"""What a run says where there is no terminal, and its log after a crash."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from hierax.train.log import RunLog, format_duration, format_metrics, result_sentence
from hierax.train.progress import StepReport


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def report(step: int, seconds: float = 2.0) -> StepReport:
    return StepReport(step, step / 100, 0.75, 1e-3, 1.0, seconds=seconds, waited=0.5, images=8)


def lines_of(capsys: Any) -> list[str]:
    """Lines on stderr, without the program's name."""
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("hierax: ") for line in lines)
    return [line.removeprefix("hierax: ") for line in lines]


def followed(folder: Path, clock: Clock, *, total: int, first: int, last: int, seconds: float, **options: Any) -> None:
    """A log of the steps `first` to `last`, each of so many seconds."""
    log = RunLog(folder, total=total, clock=clock, **options)
    log.start(first - 1, 0)
    for step in range(first, last + 1):
        clock.now += seconds
        log.step(report(step))
    log.close()


def test_without_a_terminal_a_line_comes_now_and_then(tmp_path: Path, clock: Clock, capsys: Any) -> None:
    followed(tmp_path, clock, total=2000, first=1001, last=1012, seconds=2)
    expected = "step {} of 2,000 · loss 0.7500 · lr 1.0e-03 · 4.0 img/s · 25 % waiting for data · {} left"
    found = [line for line in lines_of(capsys) if not line.startswith("this takes")]
    assert found == [expected.format("1,005", "0:33:10"), expected.format("1,010", "0:33:00")]


def test_lines_become_fewer_in_a_long_run(tmp_path: Path, clock: Clock, capsys: Any) -> None:
    followed(tmp_path, clock, total=100_000, first=1, last=10_000, seconds=2)
    found = [int(line.split()[1].replace(",", "")) for line in lines_of(capsys) if line.startswith("step")]
    assert [b - a for a, b in itertools.pairwise(found)][:20] == [5] * 20
    assert found[-1] - found[-2] == 30, "once a minute"


@pytest.mark.parametrize(
    ("steps", "total", "evaluated", "expected"),
    [
        ([9.0, 2.0, 2.0, 2.0], 364, 0.0, ["this takes about 12 minutes: 360 more steps of 2 s"]),
        ([9.0, 2.0, 2.0, 2.0], 364, 0.3, ["this takes about 13 minutes: 360 more steps of 2.2 s"]),
        ([9.0, 2.0, 2.0], 364, 0.0, []),
        ([211.0], 401, 0.0, ["this takes about 23 hours: 400 more steps of 2.1e+02 s"]),
        ([0.1, 0.1, 0.1, 0.1], 14, 0.0, ["this takes about 1 s: 10 more steps of 0.1 s"]),
        ([0.1, 0.1, 0.1, 0.1], 4, 0.0, []),
    ],
)
def test_how_long_a_run_takes_is_said_once_as_soon_as_it_is_known(
    tmp_path: Path, clock: Clock, capsys: Any, steps: list[float], total: int, evaluated: float, expected: list[str]
) -> None:
    log = RunLog(tmp_path, total=total, clock=clock, evaluated=evaluated)
    log.start(0, 0)
    for number, seconds in enumerate(steps):
        log.step(report(number + 1, seconds))
    log.close()
    assert [line for line in lines_of(capsys) if line.startswith("this takes")] == expected


def test_lengths_of_time_are_said_as_people_do() -> None:
    said = {
        0.2: "about 1 s", 48: "about 48 s", 60: "about a minute", 95: "about 2 minutes", 725: "about 12 minutes",
        5500: "about 1.5 hours", 10_800: "about 3 hours", 84_000: "about 23 hours", 172_800: "about 2 days",
    }  # fmt: skip
    assert {seconds: format_duration(seconds) for seconds in said} == said


def test_shares_are_said_in_per_cent_with_their_counts() -> None:
    metrics = {"loss": 0.6298, "top1": 5 / 6, "balanced": 1.0, "score": 5 / 6}
    assert format_metrics(metrics, 6) == ["loss 0.6298", "top-1 83.3 % (5 of 6)", "balanced 100.0 %"]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"best_step": 66, "weights": "best"}, "model: step 66 of 72, top-1 83.3 % (5 of 6), loss 0.63"),
        (
            {"best_step": 66, "weights": "last"},
            "model: step 72 of 72, top-1 66.7 % (4 of 6), loss 0.7, the last weights",
        ),
        ({"best_step": None, "weights": "last", "last": None}, "model: step 72 of 72, the last weights"),
    ],
)
def test_a_finished_run_says_which_weights_it_kept(result: dict[str, Any], expected: str) -> None:
    best, last = {"loss": 0.63, "top1": 5 / 6, "balanced": 0.8}, {"loss": 0.7, "top1": 4 / 6}
    assert result_sentence({"steps": 72, "best_metrics": best, "last": last, **result}, 6) == expected


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


def test_after_a_resume_the_loss_is_the_mean_of_the_steps_before_too(tmp_path: Path, clock: Clock) -> None:
    log = RunLog(tmp_path, total=100, clock=clock, quiet=True)
    log.start(16, 0, [9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0][-6:])  # those of the steps 11 to 16
    for step in range(17, 21):
        log.step(report(step))
    log.close()
    (entry,) = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert entry["loss"] == pytest.approx((1 + 2 + 3 + 4 + 5 + 6 + 4 * 0.75) / 10)
