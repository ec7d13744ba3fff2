"""`hierax classify -o`: results are kept until the table is written, and an interrupted command resumes."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from hierax.predict import classify
from hierax.predict.unfinished import UnfinishedTable

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)

UNFINISHED = Path("labels.csv.unfinished")
Stop = Callable[[int, BaseException], None]


@pytest.fixture
def command(here: Path, classifier_folder: str) -> list[str]:
    """A command that classifies five images."""
    draw = np.random.default_rng(0)
    (here / "five").mkdir()
    for number in range(5):
        pixels = draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(here / "five" / f"{number}.png")
    return ["classify", "five", "--model", classifier_folder, "-o", "labels.csv"]


@pytest.fixture
def classified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images whose results are computed, in order."""
    names, real = list[str](), classify.classification_of

    def spied(path: Path, *rest: Any, **options: Any) -> Any:
        names.append(path.name)
        return real(path, *rest, **options)

    monkeypatch.setattr(classify, "classification_of", spied)
    return names


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Stop:
    """Lets the command fail with an error at an image, given by its number."""

    def set_up(number: int, error: BaseException) -> None:
        real = classify.classification_of

        def failing(path: Path, *rest: Any, **options: Any) -> Any:
            if path.name == f"{number}.png":
                monkeypatch.setattr(classify, "classification_of", real)
                raise error
            return real(path, *rest, **options)

        monkeypatch.setattr(classify, "classification_of", failing)

    return set_up


def rows(path: str = "labels.csv") -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def finished(run: Run, command: list[str]) -> list[dict[str, str]]:
    """The rows of the whole command, in a table of another name."""
    assert run(*command[:-1], "whole.csv")[0] == 0
    return rows("whole.csv")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "Input/output error")])
def test_the_same_command_resumes(
    run: Run, command: list[str], classified: list[str], stop: Stop, error: BaseException
) -> None:
    whole = finished(run, command)
    stop(3, error)
    code, _, err = run(*command)
    assert code in (2, 130)
    kept = "hierax: labels.csv.unfinished keeps 3 results; run the same command again to resume"
    assert err.splitlines()[-2] == kept
    assert not Path("labels.csv").exists()
    classified.clear()
    code, _, err = run(*command)
    assert code == 0
    assert "hierax: 3 results of 5 are already there" in err.splitlines()
    assert classified == ["3.png", "4.png"]
    assert rows() == whole
    assert not UNFINISHED.exists()


def test_a_table_that_is_written_at_once_leaves_no_other_file(run: Run, command: list[str]) -> None:
    before = set(os.listdir())
    assert run(*command)[0] == 0
    assert set(os.listdir()) - before == {"labels.csv"}


def test_an_error_before_the_first_result_leaves_no_file_and_no_advice(
    run: Run, command: list[str], stop: Stop
) -> None:
    stop(0, KeyboardInterrupt())
    code, _, err = run(*command)
    assert (code, err.splitlines()[-1]) == (130, "hierax: interrupted")
    assert "unfinished" not in err
    assert not UNFINISHED.exists()


def test_changed_and_unreadable_images_are_classified_again(
    run: Run, command: list[str], classified: list[str], stop: Stop
) -> None:
    Path("five/0.png").write_bytes(b"not an image")
    stop(4, KeyboardInterrupt())
    assert run(*command)[0] == 130
    Image.new("RGB", (40, 40), "red").save("five/0.png")
    Image.new("RGB", (50, 50), "blue").save("five/2.png")
    classified.clear()
    assert run(*command)[0] == 0
    assert classified == ["0.png", "2.png", "4.png"]
    assert rows() == finished(run, command)


@pytest.mark.parametrize("end", [b"", b'{"path": "five/3.png", "file": [1', b"\0" * 30, b'7\n[]\n{"path": 3}\n\xff\n'])
def test_what_a_kill_leaves_is_removed(
    run: Run, command: list[str], classified: list[str], stop: Stop, end: bytes
) -> None:
    whole = finished(run, command)
    stop(3, KeyboardInterrupt())
    assert run(*command)[0] == 130
    UNFINISHED.write_bytes(UNFINISHED.read_bytes() + end)
    stop(4, KeyboardInterrupt())
    assert run(*command)[0] == 130
    assert all(json.loads(line) for line in UNFINISHED.read_bytes().split(b"\n")[-2:-1])
    classified.clear()
    assert run(*command)[0] == 0
    assert classified == ["4.png"]
    assert rows() == whole


@pytest.mark.parametrize(
    ("more", "named"), [(["--top-k", "2"], "top_k"), (["--size", "96"], "preprocessing"), (["--model", ""], "model")]
)
def test_results_of_other_settings_are_not_mixed(
    run: Run, command: list[str], stop: Stop, more: list[str], named: str, tmp_path: Path
) -> None:
    if more == ["--model", ""]:
        from hierax import load

        other = load(command[3])
        next(other.parameters()).data.add_(1)
        other.save_pretrained(tmp_path / "other")
        more = ["--model", str(tmp_path / "other")]
    stop(3, KeyboardInterrupt())
    assert run(*command)[0] == 130
    kept = UNFINISHED.read_bytes()
    code, _, err = run(*command, *more)
    assert (code, err.splitlines()[-1]) == (
        2,
        f"hierax: labels.csv.unfinished has 3 results of other settings ({named}); use the same settings to resume, or "
        "pass --overwrite to begin again",
    )
    assert UNFINISHED.read_bytes() == kept
    assert run(*command, *more, "--overwrite")[0] == 0
    assert not UNFINISHED.exists()
    assert len(rows()) == 5


def test_overwrite_resumes_too(run: Run, command: list[str], classified: list[str], stop: Stop) -> None:
    Path("labels.csv").write_text("an older table")
    stop(2, KeyboardInterrupt())
    assert run(*command, "--overwrite")[0] == 130
    assert Path("labels.csv").read_text() == "an older table"
    classified.clear()
    assert run(*command, "--overwrite")[0] == 0
    assert classified == ["2.png", "3.png", "4.png"]


def test_another_file_of_this_name_is_not_replaced(run: Run, command: list[str]) -> None:
    UNFINISHED.write_text("my notes\n")
    code, _, err = run(*command)
    problem = "hierax: labels.csv.unfinished: not an unfinished table; delete it, or pass --overwrite"
    assert (code, err.splitlines()[-1]) == (2, problem)
    assert UNFINISHED.read_text() == "my notes\n"


def test_names_that_are_not_text_and_tables_with_the_longest_names(tmp_path: Path) -> None:
    image = tmp_path / os.fsdecode(b"caf\xe9.png")
    try:
        image.write_bytes(b"x")
    except OSError:
        pytest.skip("this disk has only names of valid text")
    table = tmp_path / ("t" * 251 + ".csv")
    first = UnfinishedTable(table, {"top_k": 1})
    first.add(image, {"label": "ä"})
    first.close()
    assert UnfinishedTable(table, {"top_k": 1}).get(image) == {"label": "ä"}
    assert UnfinishedTable(table, {"top_k": 1}).get(tmp_path / "other.png") is None


def test_the_views_of_a_video_come_back() -> None:
    found = classify.Prediction("run", 1, 0.1 + 0.2)
    result = classify.Classification(
        Path("a.mp4"), (found,), (classify.View(0.5, None, 2, (found, classify.Prediction("jump", 0, 0.5))),)
    )
    read = json.loads(json.dumps(result.to_dict(per_view=True)))
    assert classify.Classification.from_dict(Path("a.mp4"), read) == result
