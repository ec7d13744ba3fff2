"""Runs: what is in their folder, what is refused, and what they tell."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hierax import HieraForPreTraining, load
from hierax.train import RunExists, TrainingStopped, finetune, pretrain
from training import held, log, same, toy, weights

pytest_plugins = ("runs",)


def test_a_run_has_everything_in_its_folder(pretrained: Path) -> None:
    assert {p.name for p in pretrained.iterdir()} == {
        "run.json", "log.jsonl", "loss.png", "report.html", "checkpoints", "model", "model-last", "reconstructions",
        "tensorboard",
    }  # fmt: skip
    assert [p.name for p in sorted((pretrained / "checkpoints").iterdir())] == ["step-3", "step-6"]
    assert {p.name for p in (pretrained / "reconstructions").iterdir()} == {"step-3.png", "step-6.png"}
    with Image.open(pretrained / "loss.png") as plot:
        assert plot.size == (960, 540)
    assert isinstance(load(pretrained), HieraForPreTraining)
    steps = [entry for entry in log(pretrained) if "validation" not in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3, 6]
    assert {"loss", "lr", "gradient_norm", "epoch", "images_per_second", "waited"} < set(steps[0])
    assert [entry["step"] for entry in log(pretrained) if "validation" in entry] == [3, 6]


def test_reconstructions_show_the_image_what_is_visible_and_what_is_made_of_it(pretrained: Path) -> None:
    """In this order, as `hierax reconstruct` does: only the column in the middle has units that are painted over."""
    with Image.open(pretrained / "reconstructions" / "step-6.png") as page:
        painted = (np.asarray(page) == (222, 222, 226)).all(-1).sum(0)
        places = np.flatnonzero(painted > 8)
        assert page.width / 3 < places.min() < page.width / 2 < places.max() < page.width * 2 / 3


def test_run_json_is_the_whole_configuration(pretrained: Path, data: Path) -> None:
    run = json.loads((pretrained / "run.json").read_text())
    assert run["recipe"] == held().to_dict()
    assert (run["mode"], run["data"], run["from"], run["validation"]) == ("pretrain", str(data), None, None)
    assert run["facts"] == {"samples": 12, "held_out": 4, "batch": 4}
    assert run["environment"]["torch"] == torch.__version__
    assert run["finished"] is True
    result, last = run["result"], log(pretrained)[-1]
    assert (result["steps"], last["step"]) == (6, 6)
    assert result["last"] == last["validation"]
    assert result["best"] == max(entry["validation"]["score"] for entry in log(pretrained) if "validation" in entry)
    assert 0 < result["seconds"] < 600


def test_two_runs_are_the_same_bit_by_bit(pretrained: Path, data: Path, tmp_path: Path) -> None:
    again = pretrain(data, out=tmp_path / "run", recipe=held(workers=1), device="cpu", quiet=True)
    assert same(weights(again), weights(pretrained))


def test_a_finished_run_is_left_as_it_is_unless_it_may_be_overwritten(
    pretrained: Path, data: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(pretrained, tmp_path / "run")
    assert pretrain(data, out=run, recipe=held(), device="cpu", quiet=True) == run
    with pytest.raises(
        RunExists, match="a finished run with other settings: epochs was 2, now 1; choose another folder"
    ):
        pretrain(data, out=run, recipe=held(epochs=1), device="cpu", quiet=True)
    assert same(weights(run), weights(pretrained))
    (run / "mine.txt").write_text("x")
    pretrain(data, out=run, recipe=held(epochs=1), device="cpu", quiet=True, overwrite=True)
    assert not (run / "mine.txt").exists()


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_run_json_is_named(data: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunExists, match=r"run\.json is damaged"):
        pretrain(data, out=tmp_path, recipe=held(), device="cpu", quiet=True)


def test_a_folder_with_other_things_is_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(RunExists, match="is not empty and contains no run"):
            pretrain(data, out=tmp_path, recipe=held(), device="cpu", quiet=True, overwrite=overwrite)
    assert (tmp_path / "thesis.txt").exists()


def test_overwriting_deletes_nothing_before_the_new_run_can_start(pretrained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(pretrained, tmp_path / "run")
    with pytest.raises(ValueError, match="no such file or folder"):
        pretrain(tmp_path / "typo", out=run, recipe=held(), device="cpu", quiet=True, overwrite=True)
    assert same(weights(run), weights(pretrained))


def test_overwriting_what_is_started_from_is_refused(pretrained: Path, data: Path, tmp_path: Path) -> None:
    run = shutil.copytree(pretrained, tmp_path / "run")
    for source in (run, run / "model"):
        with pytest.raises(ValueError, match=r"inside the run .*, which --overwrite would delete"):
            finetune(data, source=source, out=run, recipe=held("finetune"), device="cpu", overwrite=True)
    assert (run / "model").is_dir()


def test_a_folder_that_cannot_be_written_is_an_error_of_the_system(data: Path) -> None:
    with pytest.raises(OSError, match="/sys/hierax"):
        pretrain(data, out="/sys/hierax", recipe=held(), device="cpu", quiet=True)


def test_a_recipe_of_the_other_task_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="recipe toy is for finetune, not for pretrain"):
        pretrain(data, out=tmp_path / "run", recipe=held("finetune"), device="cpu")


def test_unreadable_files_are_replaced_counted_and_listed(data: Path, tmp_path: Path) -> None:
    bad = shutil.copytree(data, tmp_path / "data")
    (bad / "class0" / "3.png").write_bytes(b"not a picture")
    run = pretrain(bad, out=tmp_path / "run", recipe=toy(), device="cpu", quiet=True)
    assert json.loads((run / "run.json").read_text())["result"]["unreadable"] == 1
    assert "class0/3.png: " in (run / "unreadable.txt").read_text()


def test_too_many_unreadable_files_end_the_run(data: Path, tmp_path: Path) -> None:
    bad = shutil.copytree(data, tmp_path / "data")
    for number in range(5):
        (bad / "class1" / f"{number}.png").write_bytes(b"not a picture")
    with pytest.raises(TrainingStopped, match=r"of 16 samples could not be read, more than max_bad=0.1 allows; the fi"):
        pretrain(bad, out=tmp_path / "run", recipe=toy(), device="cpu", quiet=True)


def test_early_stopping_finishes_the_run(data: Path, tmp_path: Path) -> None:
    recipe = held("finetune", epochs=9, patience=1, lr=0.0)
    run = finetune(data, source=None, out=tmp_path / "run", recipe=recipe, device="cpu", quiet=True)
    result = json.loads((run / "run.json").read_text())
    assert (result["finished"], result["result"]["best_step"], result["result"]["steps"]) == (True, 6, 6)
    assert {"loss", "top1", "balanced", "score"} == set(result["result"]["last"])


def test_a_run_among_its_data_is_refused(data: Path, tmp_path: Path) -> None:
    """Its pictures of reconstructions would be samples when it goes on."""
    copied = shutil.copytree(data, tmp_path / "data")
    for out in (copied / "run", copied):
        with pytest.raises(ValueError, match=r"the run .* lies inside data, .*, and would become part of it"):
            pretrain(copied, out=out, recipe=held(), device="cpu", quiet=True)
    split = tmp_path / "split"
    for name in ("train", "val"):
        shutil.copytree(data, split / name)
    with pytest.raises(ValueError, match="lies inside data"):
        pretrain(split, out=split / "val" / "run", recipe=toy(epochs=1), device="cpu", quiet=True)
    pretrain(split, out=split / "runs" / "a", recipe=toy(epochs=1), device="cpu", quiet=True)


def test_unreadable_samples_of_validation_are_counted_and_listed(data: Path, tmp_path: Path, capsys: Any) -> None:
    for task in ("pretrain", "finetune"):
        bad = shutil.copytree(data, tmp_path / task / "data")
        (bad / "class0" / "0.png").write_bytes(b"not a picture")
        out = tmp_path / task / "run"
        options: dict[str, Any] = {"out": out, "recipe": toy(task), "validation": bad, "device": "cpu"}
        pretrain(data, **options) if task == "pretrain" else finetune(data, source=None, **options)
        assert [entry["validation"]["unreadable"] for entry in log(out) if "validation" in entry] == [1, 1]
        assert "class0/0.png: " in (out / "unreadable.txt").read_text()
        said = capsys.readouterr().err
        assert said.count("class0/0.png: ") == 1
        assert "1 sample could not be read" in said


def test_skipped_steps_are_told_at_the_end(data: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    from hierax.train.loop import Loop

    apply = Loop._apply
    monkeypatch.setattr(Loop, "_apply", lambda self, *, finite: apply(self, finite=finite and self.progress.step != 1))
    run = pretrain(data, out=tmp_path / "run", recipe=held(), device="cpu")
    assert "1 step was skipped because the loss or a gradient was not finite" in capsys.readouterr().err
    assert json.loads((run / "run.json").read_text())["result"]["skipped"] == 1


def test_the_panel_shows_pictures_from_all_over_the_held_out_set(data: Path) -> None:
    from hierax.data.sources import open_dataset
    from hierax.data.view import EvaluationView
    from hierax.processing import IMAGENET
    from hierax.train.reconstructions import ReconstructionSheet

    record = IMAGENET.replace(size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64})
    shown = ReconstructionSheet(data, EvaluationView(open_dataset(data), record, size=(64, 64)), record).examples
    assert [item.index for item in shown] == [0, 4, 8, 12]
