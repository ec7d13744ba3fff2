"""The commands around training, from pictures to a confusion matrix, at toy size."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from hierax.stopping import SIGNALS
from hierax.train.run_folder import RunRecorder
from training import pictures, same, weights

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)

TINY = (
    "embed_dim=8", "depths=[1,1,1,1]", "num_heads=[1,1,1,1]", "decoder_hidden_size=16", "decoder_depth=1",
    "decoder_num_heads=2", "image_size=64", "epochs=1", "batch_size=4", "workers=0",
)  # fmt: skip
PRETRAIN = ("--recipe", "mae_tiny_small_data_cpu", "--device", "cpu")
FINETUNE = ("--recipe", "finetune_tiny_small_data_cpu", "--device", "cpu")
SHORT = ("epochs=1", "batch_size=4", "workers=0", "image_size=64")


@pytest.fixture
def data(here: Path) -> Path:
    base = here / "data"
    pictures(base / "train", each=6)
    pictures(base / "val", each=2, seed=1)
    return base


def test_from_pictures_to_a_confusion_matrix(run: Run, data: Path) -> None:
    code, out, err = run("pretrain", "data", *TINY, "-o", "mae", *PRETRAIN)
    assert (code, out) == (0, "")
    assert "12 samples, 3 steps of 4 per epoch, 1 epoch; 4 to validate on; peak lr 8.75e-05, fp32 on cpu" in err
    assert "done: mae/model" in err
    code, _, err = run("finetune", "data", "--from", "mae", "-o", "tuned", *FINETUNE, *SHORT, "freeze=1")
    assert code == 0, err
    code, out, err = run("evaluate", "data", "--model", "tuned", "--device", "cpu", "--confusion", "c.png", "--json")
    assert code == 0, err
    assert json.loads(out)["samples"] == 4
    assert json.loads(out).keys() == {"loss", "top1", "balanced", "samples", "unreadable", "classes"}, "no top5 of two"
    assert Path("c.png").stat().st_size > 1000
    code, out, _ = run("evaluate", "data", "--model", "mae", "--device", "cpu", "--probe", "knn")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["stage1", "stage2", "stage3", "stage4"]


@pytest.mark.slow
def test_settings_may_stand_anywhere(run: Run, data: Path) -> None:
    code, _, err = run("pretrain", *TINY[:4], *PRETRAIN, "data", "-o", "first", *TINY[4:])
    assert code == 0, err
    code, _, err = run("pretrain", "-o", "second", *PRETRAIN, "data", *TINY)
    assert code == 0, err
    assert same(weights(Path("first")), weights(Path("second")))


@pytest.mark.slow
def test_a_run_is_repeated_from_its_configuration(run: Run, data: Path) -> None:
    assert run("pretrain", "data", "-o", "first", *PRETRAIN, *TINY)[0] == 0
    assert run("pretrain", "--config", "first/run.json", "-o", "second", "--device", "cpu")[0] == 0
    assert same(weights(Path("first")), weights(Path("second")))
    assert run("finetune", "data", "-o", "third", "--from", "scratch", *FINETUNE, *SHORT, *TINY[:3])[0] == 0
    code, _, err = run("finetune", "--config", "third/run.json", "-o", "fourth", "--device", "cpu", "epochs=2")
    assert code == 0, err
    assert json.loads(Path("fourth/run.json").read_text())["recipe"]["epochs"] == 2


@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_that_a_signal_stopped_exits_with_its_code_and_resumes(
    run: Run, data: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    command = ("pretrain", "data", "-o", "first", *PRETRAIN, *TINY)
    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "on_step", lambda *_: signal.raise_signal(number))
        code, _, err = run(*command)
    assert code == 128 + number
    assert "stopped after step 1 of 3; the same command resumes it" in err
    code, _, err = run(*command)
    assert (code, "resumed after step 1" in err) == (0, True)
    assert run(*command)[0] == 0, "a signal of an earlier command of the process does not count"


def test_a_finished_command_may_be_repeated(run: Run, data: Path) -> None:
    command = ("pretrain", "data", "-o", "first", *PRETRAIN, *TINY)
    assert run(*command)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in Path("first").rglob("*")}
    code, out, err = run(*command)
    assert (code, out, len(err.splitlines())) == (0, "", 1)
    assert err.startswith("hierax: first is already finished: model: step 3 of 3, loss ")
    assert run(*command, "--resume")[::2] == (0, err)
    assert run("pretrain", "--resume", "-o", "first")[::2] == (0, err)
    assert {path: path.stat().st_mtime_ns for path in Path("first").rglob("*")} == before
    code, _, err = run(*command, "epochs=2")
    assert code == 2
    assert err == (
        "hierax: first holds a finished run with other settings: epochs was 1, now 2; warmup_epochs was 0.04, "
        "now 0.08; choose another folder with -o (--overwrite would replace the run)\n"
    )
    assert run(*command, "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("pretrain", "-o", "x"), "DATA is missing"),
        (("pretrain", "data"), "-o RUN is missing"),
        (("pretrain", "none", "-o", "x"), "none: no such file or folder"),
        (("pretrain", "data", "-o", "x", "epocs=3"), "epocs is not a setting of a recipe; did you mean epochs"),
        (("pretrain", "data", "-o", "x", "nonsense"), "'nonsense' is not a setting; expected key=value"),
        (("pretrain", "data", "-o", "x", "--fast"), "no option --fast"),
        (("pretrain", "data", "-o", "x", "--recipe", "mae"), "no recipe 'mae'; did you mean"),
        (("pretrain", "data", "-o", "x", "--recipe", "in1k_tiny_from_400"), "is for finetune, not for pretrain"),
        (("pretrain", "data", "-o", "x", "--config", "notes.txt"), "notes.txt is damaged: "),
        (("finetune", "data", "-o", "x", "model=hiera_small_224"), "--from is missing"),
        (("finetune", "data", "-o", "x", "--from", "nowhere/at/all"), "nowhere/at/all"),
        (("finetune", "data/train/class0", "-o", "x", "--from", "scratch"), "the data has no classes"),
        (("evaluate", "data", "--model", "nowhere/at/all"), "nowhere/at/all"),
        (("recipes", "none"), "no recipe 'none'"),
    ],
)
def test_an_error_is_one_line_and_leaves_nothing(run: Run, data: Path, command: tuple[str, ...], message: str) -> None:
    code, out, err = run(*command)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert message in err
    assert not Path("x").exists()


def test_unreadable_pictures_are_told_by_the_exit_code_of_evaluation(run: Run, data: Path) -> None:
    assert run("finetune", "data", "-o", "third", "--from", "scratch", *FINETUNE, *SHORT, *TINY[:3])[0] == 0
    (data / "val" / "class0" / "0.png").write_bytes(b"x")
    code, out, err = run("evaluate", "data", "--model", "third", "--device", "cpu")
    assert code == 3
    assert "on 3 samples" in out
    assert "class0/0.png" in err


def test_a_recipe_that_was_printed_is_a_configuration(run: Run, data: Path) -> None:
    settings = json.loads(run("recipes", "mae_tiny_small_data_cpu")[1])
    (data.parent / "mine.json").write_text(json.dumps({**settings, "lr": 0.5}))
    assert run("pretrain", "data", "-o", "own", "--config", "mine.json", *PRETRAIN[2:], *TINY)[0] == 0
    assert json.loads(Path("own/run.json").read_text())["recipe"]["lr"] == 0.5


def test_a_recipe_in_a_file_starts_from_the_default_weights(
    run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mine.json").write_text(run("recipes", "finetune_tiny_small_data_cpu")[1])
    seen: list[str | None] = []
    monkeypatch.setattr("hierax.train.finetune", lambda *_, source, **__: seen.append(source))
    assert run("finetune", "data", "-o", "own", "--config", "mine.json")[0] == 0
    assert run("finetune", "data", "-o", "own", "--config", "mine.json", "--from", "scratch")[0] == 0
    assert seen == ["auto", None]


def test_recipes_are_listed_and_shown(run: Run) -> None:
    code, out, _ = run("recipes")
    assert code == 0
    assert "mae_in1k_base_400" in out
    assert json.loads(run("recipes", "mae_in1k_base_400")[1])["batch_size"] == 4096
    assert "def _pretrain_in1k(" in run("recipes", "mae_in1k_base_400", "--source")[1]


def test_a_dataset_is_counted(run: Run, data: Path) -> None:
    code, out, _ = run("stats", "data/train", "--json")
    assert code == 0
    assert json.loads(out)["classes"] == {"class0": 6, "class1": 6}


@pytest.mark.slow
def test_resume_goes_on_with_a_run_and_with_nothing_else(run: Run, data: Path) -> None:
    command = ("pretrain", "data", "-o", "first", *PRETRAIN, *TINY)
    assert run(*command, "--resume") == (2, "", "hierax: first contains no run to resume\n")
    assert run(*command)[0] == 0
    whole = weights(Path("first"))
    path = Path("first/run.json")
    values = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("finished", "result")}
    path.write_text(json.dumps(values))
    shutil.rmtree("first/model")
    shutil.rmtree("first/checkpoints")
    code, _, err = run("pretrain", "-o", "first", "--resume", "--device", "cpu", "workers=1")
    assert code == 0, err
    assert same(weights(Path("first")), whole)
    code, _, err = run(*command, "--resume", "--overwrite")
    assert code == 2
    assert "not allowed with argument" in err


@pytest.mark.slow
def test_a_run_s_folder_is_as_good_as_its_configuration(run: Run, data: Path) -> None:
    assert run("pretrain", "data", "-o", "first", *PRETRAIN, *TINY)[0] == 0
    assert run("pretrain", "--config", "first", "-o", "second", "--device", "cpu")[0] == 0
    assert same(weights(Path("first")), weights(Path("second")))


def test_pretraining_minds_no_labels(run: Run, data: Path) -> None:
    (data / "train" / "empty").mkdir()
    shutil.copytree(data / "train" / "class0", data / "val" / "other")
    assert run("pretrain", "data", "-o", "first", *PRETRAIN, *TINY)[0] == 0
    code, _, err = run("finetune", "data", "-o", "second", "--from", "first", *FINETUNE, *SHORT)
    assert (code, "empty has no images" in err) == (2, True)


def test_a_device_that_is_not_there_is_one_line(run: Run, data: Path) -> None:
    code, out, err = run("pretrain", "data", "-o", "x", *PRETRAIN[:2], *TINY, "--device", "toaster")
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert "device is 'toaster'; this machine has cpu" in err


def test_what_has_no_head_is_not_evaluated_but_probed(run: Run, data: Path) -> None:
    assert run("pretrain", "data", *TINY, "-o", "hog", *PRETRAIN, "target=hog")[0] == 0
    code, out, err = run("evaluate", "data", "--model", "hog", "--device", "cpu")
    assert (code, out) == (2, "")
    assert err == (
        "hierax: hog is an encoder without a head; expected a classifier, as hierax finetune makes them, or a probe\n"
    )
    assert run("evaluate", "data", "--model", "hog", "--device", "cpu", "--probe", "knn")[0] == 0


def test_arrays_without_labels_are_refused_in_one_line(run: Run, data: Path) -> None:
    np.save("x.npy", np.zeros((4, 2, 64), np.float32))
    code, _, err = run("finetune", "x.npy", "--from", "scratch", "-o", "x", *FINETUNE)
    assert (code, err) == (
        2,
        "hierax: the data has no classes; fine-tuning takes labels from x.labels.npy beside x.npy\n",
    )
