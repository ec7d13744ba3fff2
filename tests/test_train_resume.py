"""Runs that stop and go on: signals, lost processes, other settings and data, two processes."""

import errno
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from hierax.train import RunExists, TrainingStopped, finetune, pretrain
from training import held, log, pictures, same, started, stepwise_pretraining, toy, unfinished, weights

pytest_plugins = ("runs",)

LIMIT = 600  # seconds for a process


def test_resuming_with_other_settings_lists_them(pretrained: Path, data: Path, tmp_path: Path) -> None:
    run = unfinished(shutil.copytree(pretrained, tmp_path / "run"))
    with pytest.raises(RunExists, match=r"epochs was 2, now 5; lr was 0.001, now 0.5; choose another folder with -o"):
        pretrain(data, out=run, recipe=held(epochs=5, lr=0.5), device="cpu", quiet=True)
    with pytest.raises(RunExists, match="validation was None, now"):
        pretrain(data, out=run, recipe=held(), validation=data, device="cpu", quiet=True)


def test_resuming_on_data_that_changed_is_an_error(data: Path, pretrained: Path, tmp_path: Path) -> None:
    run = unfinished(shutil.copytree(pretrained, tmp_path / "run"))
    more = shutil.copytree(data, tmp_path / "data")
    shutil.copy(more / "class0" / "0.png", more / "class0" / "9.png")
    values = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**values, "data": str(more)}))
    with pytest.raises(RunExists, match="started on other data: samples was 12, now 13"):
        pretrain(more, out=run, recipe=held(), device="cpu", quiet=True)


def test_neither_is_a_run_resumed_on_other_classes(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos")
    options: Any = {"source": None, "device": "cpu", "quiet": True, "recipe": toy("finetune", epochs=1)}
    run = unfinished(finetune(photos, out=tmp_path / "run", **options))
    (photos / "class0/7.png").rename(photos / "class1/8.png")
    with pytest.raises(RunExists, match="other data: class class0 was 8 samples, now 7 samples"):
        finetune(photos, out=run, **options)
    (photos / "class1/8.png").rename(photos / "class0/7.png")
    (photos / "class0").rename(photos / "other")
    with pytest.raises(RunExists, match="other data: class class0 was 8 samples, now not there"):
        finetune(photos, out=run, **options)


def test_a_run_that_was_killed_after_its_last_checkpoint_is_only_finished(pretrained: Path, tmp_path: Path) -> None:
    run = unfinished(shutil.copytree(pretrained, tmp_path / "run"))
    data = json.loads((run / "run.json").read_text())["data"]
    before = log(run)
    pretrain(data, out=run, recipe=held(), device="cpu", quiet=True)
    assert json.loads((run / "run.json").read_text())["finished"]
    assert log(run) == before
    assert same(weights(run), weights(pretrained))


def test_sigterm_saves_and_exits_with_0_and_the_rest_is_the_same(pretrained: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = stepwise_pretraining(data, run)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "step\n"
    process.stdin.write("go on\n")
    process.stdin.flush()
    assert process.stdout.readline() == "step\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    assert out == ""
    assert "stopped after step 2 of 6; the same command resumes it" in err
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-2"]
    resumed = pretrain(data, out=run, recipe=held(workers=1), device="cpu", quiet=True)
    assert same(weights(resumed), weights(pretrained))


def test_a_killed_worker_ends_the_run_in_one_sentence(data: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import os, training, hierax.data.view as view\n"
        "from hierax.cli import main\n"
        "before = view.TrainingView.__getitem__\n"
        "def getitem(self, draw):\n"
        "    if draw.epoch == 1: os.kill(os.getpid(), 9)\n"
        "    return before(self, draw)\n"
        "view.TrainingView.__getitem__ = getitem\n"
        "settings = ['embed_dim=8', 'depths=[1,1,1,1]', 'num_heads=[1,1,1,1]', 'decoder_hidden_size=16',\n"
        "            'decoder_depth=1', 'decoder_num_heads=2', 'image_size=64', 'epochs=9', 'batch_size=2']\n"
        f"sys.exit(main(['pretrain', {str(data)!r}, '-o', {str(tmp_path / 'run')!r}, '--recipe',\n"
        "    'mae_tiny_small_data_cpu', 'workers=1', 'checkpoint_every=1', *settings]))\n"
    )
    process = started(code)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 2, err
    assert "hierax: a decoding process was killed" in err.splitlines()[-1]
    assert "can resume after step" in err
    assert "Traceback" not in err


def test_the_seconds_of_a_run_are_those_of_all_its_parts(pretrained: Path, tmp_path: Path) -> None:
    whole = json.loads((pretrained / "run.json").read_text())
    run = unfinished(shutil.copytree(pretrained, tmp_path / "run"))
    pretrain(whole["data"], out=run, recipe=held(), device="cpu", quiet=True)
    result = json.loads((run / "run.json").read_text())["result"]
    assert result["last"] == whole["result"]["last"]
    assert result["seconds"] > 0


def test_a_process_that_is_killed_while_it_saves_leaves_the_checkpoint_before(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import os, training, hierax.train.checkpoints as state\n"
        "from hierax.train import pretrain\n"
        "def commit(self, part, step, *more):\n"
        "    if step == 6: os.kill(os.getpid(), 9)\n"
        "    return before(self, part, step, *more)\n"
        "before, state.Checkpoints._commit = state.Checkpoints._commit, commit\n"
        f"pretrain({str(data)!r}, out={str(run)!r}, recipe=training.toy(validation_fraction=0.25), device='cpu')\n"
    )
    process = started(code)
    process.communicate(timeout=LIMIT)
    assert process.returncode == -signal.SIGKILL
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"step-3", ".part-6"}
    pretrain(data, out=run, recipe=held(), device="cpu", quiet=True)
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"step-3", "step-6"}


def test_settings_that_teach_nothing_may_change_when_a_run_goes_on(
    pretrained: Path, data: Path, tmp_path: Path
) -> None:
    """Which the messages about memory and workers ask for."""
    run = unfinished(shutil.copytree(pretrained, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints" / "step-6")
    changes: dict[str, Any] = {
        "workers": 1,
        "device_batch_size": 2,
        "keep": 5,
        "max_bad": 0.5,
        "max_skipped": 3,
        "checkpoint_every": 1,
    }
    pretrain(data, out=run, recipe=held(**changes, gradient_checkpointing=True), device="cpu", quiet=True)
    assert (
        json.loads((run / "run.json").read_text())["recipe"] == held(**changes, gradient_checkpointing=True).to_dict()
    )
    assert [p.name for p in sorted((run / "checkpoints").iterdir())] == [f"step-{n}" for n in (3, 4, 5, 6)]
    torch.testing.assert_close(weights(run), weights(pretrained), rtol=1e-4, atol=1e-5)


def test_a_batch_that_was_fitted_to_the_data_stays_when_its_parts_become_smaller(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", each=5)
    run = pretrain(data, out=tmp_path / "run", recipe=toy(batch_size=99), device="cpu", quiet=True)
    shutil.rmtree(unfinished(run) / "checkpoints" / "step-2")
    pretrain(data, out=run, recipe=toy(batch_size=99, device_batch_size=4), device="cpu", quiet=True)
    assert json.loads((run / "run.json").read_text())["facts"]["batch"] == 10


@pytest.mark.slow
def test_two_processes_do_not_train_in_one_folder(data: Path, tmp_path: Path) -> None:
    process = stepwise_pretraining(data, tmp_path / "run")
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "step\n"
        for overwrite in (False, True):
            with pytest.raises(
                ValueError, match=r"another process is training in .*run; wait until it has ended, or stop it"
            ):
                pretrain(
                    data, out=tmp_path / "run", recipe=held(workers=1), device="cpu", quiet=True, overwrite=overwrite
                )
        assert (tmp_path / "run" / "log.jsonl").exists()
    finally:
        process.kill()
        process.communicate()
    pretrain(data, out=tmp_path / "run", recipe=held(workers=1), device="cpu", quiet=True)


def test_a_run_whose_report_could_not_be_written_is_finished_by_the_next_command(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "report.html")

    run = unfinished(shutil.copytree(pretrained, tmp_path / "run"))
    (run / "report.html").unlink()
    options: Any = {"out": run, "recipe": held(), "device": "cpu", "quiet": True}
    data = json.loads((run / "run.json").read_text())["data"]
    with monkeypatch.context() as patch:
        patch.setattr("hierax.train.run_folder.write_report", full)
        with pytest.raises(TrainingStopped, match=r"^report.html: No space left on device; the same command finishes"):
            pretrain(data, **options)
    assert not json.loads((run / "run.json").read_text()).get("finished")
    pretrain(data, **options)
    assert json.loads((run / "run.json").read_text())["finished"]
    assert "</html>" in (run / "report.html").read_text()
    assert same(weights(run), weights(pretrained))
