"""Runs: what is in their folder, what is refused, and what a run can start from."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hierax import HieraForImageClassification, HieraForPreTraining, HieraModel, load
from hierax.checkpoint.save import save_model
from hierax.train import RunExists, TrainingStopped, finetune, pretrain
from small import image_config, randomise
from training import log, pictures, same, started, toy, weights


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of eight pictures, of which a quarter is held out in all recipes below."""
    return pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="session")
def pretrained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(data, out=tmp_path_factory.mktemp("runs") / "mae", recipe=held(), device="cpu", quiet=True)


def held(task: str = "pretrain", **changes: Any) -> Any:
    return toy(task, validation_fraction=0.25, **changes)


def test_a_run_has_everything_in_its_folder(pretrained: Path) -> None:
    assert {p.name for p in pretrained.iterdir()} == {
        "run.json", "log.jsonl", "loss.png", "checkpoints", "model", "reconstructions", "tensorboard",
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


def test_run_json_is_the_whole_configuration(pretrained: Path, data: Path) -> None:
    run = json.loads((pretrained / "run.json").read_text())
    assert run["recipe"] == held().to_dict()
    assert (run["task"], run["data"], run["from"], run["validation"]) == ("pretrain", str(data), None, None)
    assert run["facts"] == {"samples": 12, "held_out": 4, "batch": 4}
    assert run["environment"]["torch"] == torch.__version__
    assert run["finished"] is True
    assert run["result"]["steps"] == 6


def test_two_runs_are_the_same_bit_by_bit(pretrained: Path, data: Path, tmp_path: Path) -> None:
    again = pretrain(data, out=tmp_path / "run", recipe=held(workers=1), device="cpu", quiet=True)
    assert same(weights(again), weights(pretrained))


def test_a_finished_run_is_an_error_unless_it_may_be_overwritten(pretrained: Path, data: Path, tmp_path: Path) -> None:
    run = shutil.copytree(pretrained, tmp_path / "run")
    with pytest.raises(RunExists, match="finished run; --overwrite starts anew"):
        pretrain(data, out=run, recipe=held(), device="cpu", quiet=True)
    (run / "mine.txt").write_text("x")
    pretrain(data, out=run, recipe=held(epochs=1), device="cpu", quiet=True, overwrite=True)
    assert not (run / "mine.txt").exists()


def unfinished(run: Path) -> Path:
    path = run / "run.json"
    values = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("finished", "result")}
    path.write_text(json.dumps(values))
    return run


def test_resuming_with_other_settings_lists_them(pretrained: Path, data: Path, tmp_path: Path) -> None:
    run = unfinished(shutil.copytree(pretrained, tmp_path / "run"))
    with pytest.raises(RunExists, match=r"epochs was 2, now 5; lr was 0.001, now 0.5; --overwrite"):
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


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_run_json_is_named(data: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunExists, match=r"run\.json is damaged"):
        pretrain(data, out=tmp_path, recipe=held(), device="cpu", quiet=True)


def test_a_folder_with_other_things_is_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(RunExists, match="is not empty and holds no run"):
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
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import time, training, hierax.train.loop as loop\n"
        "from hierax.train import pretrain\n"
        "slow = loop.Loop._step\n"
        "def step(self, *a):\n"
        "    print('step', flush=True); time.sleep(0.5); return slow(self, *a)\n"
        "loop.Loop._step = step\n"
        f"pretrain({str(data)!r}, out={str(run)!r}, recipe=training.toy(validation_fraction=0.25, workers=1), "
        "device='cpu')\n"
    )
    process = started(code)
    assert process.stdout is not None
    assert [process.stdout.readline().strip() for _ in range(2)] == ["step", "step"]
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.count("step") <= 1
    assert "stopped after step 2 of 6; the same command goes on from there" in err
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
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert "hierax: a process that decodes samples was killed" in err.splitlines()[-1]
    assert "can go on after step" in err
    assert "Traceback" not in err


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
    assert (result["finished"], result["result"]["best_step"], result["result"]["steps"]) == (True, 3, 6)


# -- what fine-tuning starts from, and what it changes --------------------------------------------------------------


def tuned(data: Path, source: Path | None, out: Path, **changes: Any) -> Any:
    recipe = held("finetune", **{"epochs": 1, "overrides": {}, **changes})
    return load(finetune(data, source=source, out=out, recipe=recipe, device="cpu", quiet=True))


def test_fine_tuning_starts_from_a_run(pretrained: Path, data: Path, tmp_path: Path) -> None:
    model = tuned(data, pretrained, tmp_path / "run", lr=0.0)
    before, after = load(pretrained).state_dict(), model.state_dict()
    assert isinstance(model, HieraForImageClassification)
    assert model.config.id2label == {0: "class0", 1: "class1"}
    assert model.config.num_query_pool == 3
    shared = [name for name in after if name.startswith("encoder.")]
    assert all(torch.equal(after[name], before[name]) for name in shared)


@pytest.mark.parametrize("dialect", ["transformers", "timm", "official"])
@pytest.mark.parametrize("kind", [HieraForImageClassification, HieraForPreTraining, HieraModel])
def test_fine_tuning_starts_from_every_dialect(data: Path, tmp_path: Path, dialect: str, kind: Any) -> None:
    if dialect == "timm" and kind is HieraForPreTraining:
        pytest.skip("timm has no decoder")
    pooled = {"num_query_pool": 2} if kind is HieraForPreTraining else {}
    source = randomise(kind(image_config(**pooled)))
    save_model(source, tmp_path / "source", dialect=dialect)  # type: ignore[arg-type]
    model = tuned(data, tmp_path / "source", tmp_path / "run", lr=0.0)
    weight = "encoder.blocks.3.mlp.fc1.weight"
    assert torch.equal(model.get_parameter(weight), source.get_parameter(weight))


def test_a_head_for_the_same_classes_is_kept(data: Path, tmp_path: Path) -> None:
    source = randomise(HieraForImageClassification(image_config(id2label={0: "class0", 1: "class1"}, num_labels=2)))
    save_model(source, tmp_path / "source")  # type: ignore[arg-type]
    model = tuned(data, tmp_path / "source", tmp_path / "run", lr=0.0)
    assert torch.equal(model.head.weight, source.get_parameter("head.weight"))


def test_fine_tuning_at_another_size_resizes_the_positions(pretrained: Path, data: Path, tmp_path: Path) -> None:
    model = tuned(data, pretrained, tmp_path / "run", image_size=(96, 128))
    assert model.config.image_size == (96, 128)
    assert model.preprocessing.crop_size == {"height": 96, "width": 128}


def test_fine_tuning_on_grey_pictures(pretrained: Path, data: Path, tmp_path: Path) -> None:
    model = tuned(data, pretrained, tmp_path / "run", overrides={"num_channels": 1}, lr=0.0)
    before = load(pretrained).get_parameter("encoder.patch_embed.proj.weight")
    after = model.get_parameter("encoder.patch_embed.proj.weight")
    torch.testing.assert_close(after, before.mean(1, keepdim=True) * 3)
    assert len(model.preprocessing.image_mean) == 1


@pytest.mark.parametrize("freeze", [2, "all"])
def test_frozen_stages_stay_as_they_are(pretrained: Path, data: Path, tmp_path: Path, freeze: Any) -> None:
    model = tuned(data, pretrained, tmp_path / "run", freeze=freeze, drop_path=0.5)
    before, after = load(pretrained).state_dict(), model.state_dict()
    changed = {name for name in after if name in before and not torch.equal(after[name], before[name])}
    last = {f"encoder.blocks.{i}" for i in ((2, 3) if freeze == 2 else ())}
    assert {".".join(name.split(".")[:3]) for name in changed} == last


@pytest.mark.parametrize(
    ("freeze", "message"), [(5, "allowed: 0 to 4 stages, or 'all'"), (2, "no weights are loaded; expected 0")]
)
def test_freezing_what_cannot_be_is_refused(
    pretrained: Path, data: Path, tmp_path: Path, freeze: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tuned(data, pretrained if freeze == 5 else None, tmp_path / "run", freeze=freeze)
    assert not (tmp_path / "run").exists()


def test_a_tiny_dataset_is_one_batch(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", classes=3, each=1)
    recipe = toy("finetune", batch_size=256)
    run = finetune(data, source=None, out=tmp_path / "run", recipe=recipe, device="cpu", quiet=True)
    assert json.loads((run / "run.json").read_text())["facts"] == {"samples": 3, "held_out": 0, "batch": 3}


def test_weighted_classes_count_by_the_inverse_of_their_frequency() -> None:
    from hierax.train.objective import balanced

    assert balanced([0] * 6 + [1] * 2, 2).tolist() == pytest.approx([8 / 12, 8 / 4])
    assert balanced([0, 0], 2).tolist() == [0.5, 1.0], "a class without samples weighs as one with one"


def test_imbalanced_data_are_trained_with_weights(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", each=6)
    for number in range(1, 6):
        (data / "class1" / f"{number}.png").unlink()
    recipe = toy("finetune", class_weights="balanced")
    assert finetune(data, source=None, out=tmp_path / "run", recipe=recipe, device="cpu", quiet=True).is_dir()


def test_several_true_labels_are_trained_with_binary_cross_entropy(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", random.normal(size=(12, 3, 64, 64)).astype(np.float32))
    np.save(tmp_path / "x.labels.npy", random.integers(0, 2, (12, 4)).astype(np.float32))
    recipe = toy("finetune", validation_fraction=0.25, mixup=0.5)
    run = finetune(tmp_path / "x.npy", source=None, out=tmp_path / "run", recipe=recipe, device="cpu", quiet=True)
    model: Any = load(run)
    assert (model.config.problem_type, model.config.num_labels) == ("multi_label_classification", 4)
    checks = [entry["validation"] for entry in log(run) if "validation" in entry]
    assert {"loss", "mean_average_precision", "score"} == set(checks[0])
    assert log(run)[0]["loss"] == pytest.approx(0.693, abs=0.02)
    recipe = recipe.replace(class_weights="balanced")
    with pytest.raises(ValueError, match="class_weights is 'balanced', but samples have none or several labels"):
        finetune(tmp_path / "x.npy", source=None, out=tmp_path / "other", recipe=recipe, device="cpu", quiet=True)


@pytest.mark.parametrize("shape", [(8, 512), (1, 32, 64, 64)])
def test_signals_and_volumes_are_pretrained_and_fine_tuned(tmp_path: Path, shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", (5 + 3 * random.normal(size=(6, *shape))).astype(np.float32))
    np.save(tmp_path / "x.labels.npy", np.arange(6) % 2)
    recipe = toy(image_size=None, batch_size=2, epochs=1, validation_fraction=0.34)
    run = pretrain(tmp_path / "x.npy", out=tmp_path / "run", recipe=recipe, device="cpu", quiet=True)
    model: Any = load(run)
    assert (model.config.image_size, model.config.num_channels) == (shape[1:], shape[0])
    assert model.preprocessing.image_mean == pytest.approx((5.0,) * shape[0], abs=0.3)
    assert not (run / "reconstructions").exists()
    recipe = toy("finetune", image_size=None, batch_size=2, epochs=1)
    tuned = finetune(tmp_path / "x.npy", source=run, out=tmp_path / "tuned", recipe=recipe, device="cpu", quiet=True)
    assert load(tuned).config.image_size == shape[1:]


def test_arrays_that_do_not_fit_the_model_are_refused(tmp_path: Path, pretrained: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((6, 8, 512), np.float32))
    with pytest.raises(ValueError, match=r"the data are arrays of shape \[8, 512\]; the model takes \[8, 64, 64\]"):
        pretrain(tmp_path / "x.npy", out=tmp_path / "run", recipe=toy(), source=pretrained, device="cpu", quiet=True)


def test_pictures_for_a_clip_model_are_refused(tmp_path: Path, data: Path) -> None:
    recipe = toy(model="mae_hiera_base_16x224", image_size=(4, 64, 64))
    with pytest.raises(ValueError, match=r"the data are pictures; the model takes \[3, 4, 64, 64\]"):
        pretrain(data, out=tmp_path / "run", recipe=recipe, device="cpu", quiet=True)


def test_data_without_classes_cannot_be_fine_tuned_on(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ValueError, match="the data has no classes"):
        finetune(data / "class0", source=None, out=tmp_path / "run", recipe=toy("finetune"), device="cpu", quiet=True)


def test_a_hog_run_exports_its_encoder_which_can_be_fine_tuned(data: Path, tmp_path: Path) -> None:
    run = pretrain(data, out=tmp_path / "hog", recipe=held(target="hog"), device="cpu", quiet=True)
    model: Any = load(run, new=("norm",))
    assert isinstance(model, HieraModel)
    assert not any("decoder" in name for name in weights(run))
    assert not (run / "reconstructions").exists()
    tuned = finetune(
        data, source=run, out=tmp_path / "tuned", recipe=held("finetune", lr=0.0), device="cpu", quiet=True
    )
    name = "encoder.blocks.2.attn.qkv.weight"
    assert torch.equal(load(tuned).get_parameter(name), model.get_parameter(name))


def test_a_process_that_is_killed_while_it_saves_leaves_the_checkpoint_before(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import os, training, hierax.train.state as state\n"
        "from hierax.train import pretrain\n"
        "def commit(self, part, step, best):\n"
        "    if step == 6: os.kill(os.getpid(), 9)\n"
        "    return before(self, part, step, best)\n"
        "before, state.Checkpoints._commit = state.Checkpoints._commit, commit\n"
        f"pretrain({str(data)!r}, out={str(run)!r}, recipe=training.toy(validation_fraction=0.25), device='cpu')\n"
    )
    process = started(code)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"step-3", ".part-6"}
    pretrain(data, out=run, recipe=held(), device="cpu", quiet=True)
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"step-3", "step-6"}


# -- what may change, what must not be lost ---------------------------------------------------------------------------


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


def test_two_processes_do_not_train_in_one_folder(data: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import time, training, hierax.train.loop as loop\n"
        "from hierax.train import pretrain\n"
        "slow = loop.Loop._step\n"
        "def step(self, *a):\n"
        "    print('step', flush=True); time.sleep(60); return slow(self, *a)\n"
        "loop.Loop._step = step\n"
        f"pretrain({str(data)!r}, out={str(tmp_path / 'run')!r}, recipe=training.toy(validation_fraction=0.25, "
        "workers=1), device='cpu')\n"
    )
    process = started(code)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "step\n"
        for overwrite in (False, True):
            with pytest.raises(ValueError, match=r"another process is training in .*run; let it end, or stop it first"):
                pretrain(
                    data, out=tmp_path / "run", recipe=held(workers=1), device="cpu", quiet=True, overwrite=overwrite
                )
        assert (tmp_path / "run" / "log.jsonl").exists()
    finally:
        process.kill()
        process.communicate()
    pretrain(data, out=tmp_path / "run", recipe=held(workers=1), device="cpu", quiet=True)


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
        assert "1 samples could not be read" in said


def test_skipped_steps_are_told_at_the_end(data: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    from hierax.train.loop import Loop

    apply = Loop._apply
    monkeypatch.setattr(Loop, "_apply", lambda self, *, finite: apply(self, finite=finite and self.progress.step != 1))
    run = pretrain(data, out=tmp_path / "run", recipe=held(), device="cpu")
    assert "1 steps were skipped, whose loss or gradient was not finite" in capsys.readouterr().err
    assert json.loads((run / "run.json").read_text())["result"]["skipped"] == 1


def test_the_panel_shows_pictures_from_all_over_the_held_out_set(data: Path) -> None:
    from hierax.data.sources import open_dataset
    from hierax.data.view import EvaluationView
    from hierax.processing import IMAGENET
    from hierax.train.panel import Panel

    record = IMAGENET.replace(size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64})
    shown = Panel(data, EvaluationView(open_dataset(data), record, size=(64, 64)), record).seen
    assert [item.index for item in shown] == [0, 4, 8, 12]
