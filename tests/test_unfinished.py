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
from hierax.predict.unfinished import UnfinishedResults

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
    assert "hierax: 3 of 5 results are already there" in err.splitlines()
    assert classified == ["3.png", "4.png"]
    assert rows() == whole
    assert not UNFINISHED.exists()


def test_a_table_that_is_written_at_once_leaves_no_other_file(run: Run, command: list[str]) -> None:
    before = set(os.listdir())
    assert run(*command)[0] == 0
    assert set(os.listdir()) - before == {"labels.csv"}


def test_a_table_in_a_new_folder(run: Run, command: list[str], stop: Stop) -> None:
    stop(2, KeyboardInterrupt())
    assert run(*command[:-1], "new/deep/labels.csv")[0] == 130
    assert os.listdir("new/deep") == ["labels.csv.unfinished"]
    assert run(*command[:-1], "new/deep/labels.csv")[0] == 0
    assert os.listdir("new/deep") == ["labels.csv"]


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
    problem = "hierax: labels.csv.unfinished: not written by an unfinished command; delete it, or pass --overwrite"
    assert (code, err.splitlines()[-1]) == (2, problem)
    assert UNFINISHED.read_text() == "my notes\n"


def test_two_commands_do_not_write_one_table(run: Run, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = list[tuple[int, str, str]]()
    real = UnfinishedResults.add

    def add(self: UnfinishedResults, *result: Any) -> None:
        real(self, *result)
        if self.count == 2:
            outcome.append(run(*command))

    monkeypatch.setattr(UnfinishedResults, "add", add)
    assert run(*command)[0] == 0
    ((code, _, err),) = outcome
    problem = "another command is writing there; wait until it has finished, or choose another output"
    assert (code, err.splitlines()[-1]) == (2, f"hierax: labels.csv.unfinished: {problem}")
    assert len(rows()) == 5
    assert not UNFINISHED.exists()


def test_results_of_other_images_are_not_deleted(run: Run, command: list[str], stop: Stop) -> None:
    stop(3, KeyboardInterrupt())
    assert run(*command)[0] == 130
    kept = UNFINISHED.read_bytes()
    Image.new("RGB", (40, 40), "red").save("one.png")
    other = ["classify", "one.png", *command[2:]]
    code, _, err = run(*other)
    assert code == 2
    assert err.splitlines()[-1] == (
        "hierax: labels.csv.unfinished has results of 3 other files, such as five/0.png; run that command again to "
        "finish it, or choose another output, or pass --overwrite to begin again"
    )
    assert UNFINISHED.read_bytes() == kept
    Path("five/1.png").unlink()  # a result of an image that is gone is of no use
    Image.new("RGB", (40, 40), "red").save("five/5.png")
    code, _, err = run(*command)
    assert (code, len(rows())) == (0, 5)
    assert "hierax: 2 of 5 results are already there" in err.splitlines()
    assert run(*other, "--overwrite")[0] == 0
    assert [row["path"] for row in rows()] == ["one.png"]


def test_an_image_that_changes_while_the_command_runs_is_classified_again(
    run: Run, command: list[str], classified: list[str], stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = UnfinishedResults.add

    def add(self: UnfinishedResults, path: Path, *result: Any) -> None:
        if path.name == "1.png":  # it was read already
            Image.new("RGB", (50, 50), "blue").save(path)
        real(self, path, *result)

    monkeypatch.setattr(UnfinishedResults, "add", add)
    stop(3, KeyboardInterrupt())
    assert run(*command)[0] == 130
    monkeypatch.setattr(UnfinishedResults, "add", real)
    classified.clear()
    assert run(*command)[0] == 0
    assert classified == ["1.png", "3.png", "4.png"]
    assert rows() == finished(run, command)


# -- commands that write files for each image


@pytest.fixture(params=["features", "explain", "segment"])
def writing(request: pytest.FixtureRequest, command: list[str], segmenter_folder: str) -> list[str]:
    """A command that writes files for each of five images."""
    model = segmenter_folder if request.param == "segment" else command[3]
    return [request.param, "five", "--model", model, "-o", "out"]


def interrupt(monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """Lets the next command end with Ctrl-C when it has kept some results."""
    real = UnfinishedResults.add

    def add(self: UnfinishedResults, *result: Any) -> None:
        if self.count == after:
            monkeypatch.setattr(UnfinishedResults, "add", real)
            raise KeyboardInterrupt
        real(self, *result)

    monkeypatch.setattr(UnfinishedResults, "add", add)


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def replaced(folder: str, work: Callable[[], Any]) -> set[str]:
    """The names of the files that `work` writes."""
    before = {path.name: path.stat().st_ino for path in Path(folder).iterdir()}
    work()
    return {path.name for path in Path(folder).iterdir() if before.get(path.name) != path.stat().st_ino}


def test_files_that_are_written_are_not_written_again(
    run: Run, writing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, whole, _ = run(*writing[:-1], "whole")
    assert code == 0
    interrupt(monkeypatch, after=3)
    code, _, err = run(*writing)
    assert code == 130
    place = f"out/{writing[0]}.unfinished"
    assert err.splitlines()[-2:] == [
        f"hierax: {place} keeps 3 results; run the same command again to resume",
        "hierax: interrupted",
    ]
    results = list[tuple[int, str, str]]()
    written = replaced("out", lambda: results.append(run(*writing)))
    ((code, out, err),) = results
    assert code == 0
    assert {name[0] for name in written} == {"3", "4"}
    assert contents("out") == contents("whole")
    assert out == whole.replace("whole/", "out/")
    assert "hierax: 3 of 5 results are already there" in err.splitlines()
    code, _, err = run(*writing)
    assert code == 2
    assert "more would be replaced; choose another folder, or pass --overwrite" in err


def test_deleted_files_and_changed_images_are_written_again(
    run: Run, writing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, after=4)
    assert run(*writing)[0] == 130
    Path("out/1.png").unlink()
    Image.new("RGB", (50, 50), "blue").save("five/2.png")
    written = replaced("out", lambda: run(*writing, "--json"))
    assert {name[0] for name in written} == {"1", "2", "4"}
    assert run(*writing[:-1], "whole")[0] == 0
    assert contents("out") == contents("whole")


def test_files_of_other_settings_are_not_mixed(run: Run, writing: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, after=3)
    assert run(*writing)[0] == 130
    before = contents("out")
    code, _, err = run(*writing, "--size", "96")
    assert code == 2
    assert f"out/{writing[0]}.unfinished has 3 results of other settings (preprocessing)" in err
    assert contents("out") == before


def test_files_of_another_command_are_not_replaced(
    run: Run, writing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("other").mkdir()
    Image.new("RGB", (40, 40), "red").save("other/cat.png")
    other = [writing[0], "other/cat.png", *writing[2:]]
    assert run(*other)[0] == 0
    interrupt(monkeypatch, after=2)
    assert run(*writing)[0] == 130
    before = contents("out")
    for both in (other, [writing[0], "five", "other/cat.png", *writing[2:]]):
        code, _, err = run(*both)
        assert code == 2, both
        assert "would be replaced; choose another folder, or pass --overwrite" in err
        assert contents("out") == before
    (Path("five") / "4.png").unlink()
    (Path("five") / "1.png").write_bytes((Path("five") / "0.png").read_bytes())
    for path in Path("out").glob("2*"):  # written, but not yet kept
        path.unlink()
    assert run(*writing)[0] == 0  # other inputs: files that the results name may still be replaced
    assert {name: before[name] for name in before if name.startswith("cat")}.items() <= contents("out").items()


def test_names_that_are_not_text_and_tables_with_the_longest_names(tmp_path: Path) -> None:
    image = tmp_path / os.fsdecode(b"caf\xe9.png")
    try:
        image.write_bytes(b"x")
    except OSError:
        pytest.skip("this disk has only names of valid text")
    table = tmp_path / ("t" * 251 + ".csv")
    first = UnfinishedResults(table, {"top_k": 1}, [image])
    first.add(image, {"label": "ä"})
    first.close()
    again = UnfinishedResults(table, {"top_k": 1}, [image, tmp_path / "other.png"])
    assert again.get(image) == {"label": "ä"}
    assert again.get(tmp_path / "other.png") is None
    again.close()


def test_the_views_of_a_video_come_back() -> None:
    found = classify.Prediction("run", 1, 0.1 + 0.2)
    result = classify.Classification(
        Path("a.mp4"), (found,), (classify.View(0.5, None, 2, (found, classify.Prediction("jump", 0, 0.5))),)
    )
    read = json.loads(json.dumps(result.to_dict(per_view=True)))
    assert classify.classification_from(Path("a.mp4"), read) == result
