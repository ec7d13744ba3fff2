"""Runs of detection and instances: they can be repeated, stopped and resumed, and leave a folder that is whole."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hierax
from detection_sets import IDS, NAMES, coco_values, one_file, write_coco, write_images, write_yolo
from hierax.detection import evaluate_detection, finetune_detection, open_detection_splits, open_detector
from hierax.detection.steps import DetectionTrainer, last_whole
from hierax.notices import Notice
from hierax.train import TrainingStopped, finetune
from hierax.train.folder import RunExists, delete_run_files

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own

FAST = ("image_size=64", "width=32", "heads=2", "queries=8", "feedforward=16", "decoder_layers=2", "batch_size=2",
        "encoder_layers=1", "points=64", "steps=4", "evaluate_every=2", "lr=1e-3")  # fmt: skip


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trunk")
    torch.manual_seed(0)
    shape = {"embed_dim": 8, "depths": (1, 1, 2, 1), "num_heads": (1, 1, 2, 2), "image_size": (64, 64)}
    hierax.HieraForImageClassification(hierax.HieraConfig(**shape)).save_pretrained(folder)  # pyright: ignore[reportArgumentType]
    return folder


def train(source: Path, out: Path, trunk: Path | None, *settings: str, **options: Any) -> Path:
    options = {"device": "cpu", "quiet": True, "source": trunk, **options}
    return finetune_detection(source, out=out, settings=[*FAST, *settings], **options)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return open_detector(run).model.state_dict()


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize(("task", "head"), [("detect", "rt-detr"), ("detect", "d-fine"), ("instances", "mask2former")])
def test_a_run_writes_a_model_a_log_and_its_result(task: str, head: str, trunk: Path, tmp_path: Path) -> None:
    source = write_coco(tmp_path / "set")
    run = train(source, tmp_path / "run", trunk, f"head={head}", task=task)
    described = json.loads((run / "run.json").read_text())
    assert described["mode"] == task
    assert described["finished"] is True
    assert described["facts"] == {"images": 6, "objects": 6, "held_out": 3, "steps": 4}
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "validation" in line] == [2, 4]
    detector = open_detector(run)
    assert (detector.task, detector.classes, detector.category_ids) == (task, NAMES, IDS)
    assert evaluate_detection(source, model=run, device="cpu").to_dict() == described["result"]["last"]
    assert len(list((run / "checkpoints").iterdir())) == 2


@pytest.mark.slow
def test_yolo_folders_and_single_files_are_trained_on(trunk: Path, tmp_path: Path) -> None:
    run = train(write_yolo(tmp_path / "yolo"), tmp_path / "a", trunk)
    assert open_detector(run).category_ids == (0, 1)
    run = train(one_file(tmp_path / "file", count=5), tmp_path / "b", None, "model=hiera_tiny_224", "steps=1",
                "validation_fraction=0")  # fmt: skip
    assert json.loads((run / "run.json").read_text())["facts"]["held_out"] == 0


def test_a_run_that_starts_from_a_model_keeps_its_head(
    trunk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_coco(tmp_path / "set")
    first = train(source, tmp_path / "first", trunk, "head=d-fine", "steps=1")
    plain = ["image_size=64", "steps=1", "batch_size=2"]
    again = finetune_detection(source, out=tmp_path / "again", source=first, settings=plain, device="cpu")
    assert "d-fine, 64 pixels, 8 queries" in capsys.readouterr().err
    recipe = json.loads((again / "run.json").read_text())["recipe"]
    assert {name: recipe[name] for name in ("head", "width", "queries", "decoder_layers", "feedforward")} == {
        "head": "d-fine", "width": 32, "queries": 8, "decoder_layers": 2, "feedforward": 16
    }  # fmt: skip
    with pytest.raises(
        ValueError, match=r"queries is 60, but .* has 8; a run that starts from a model of detection keeps"
    ):
        train(source, tmp_path / "other", first, "head=d-fine", "queries=60")


@pytest.mark.parametrize("validated", [False, True])
def test_an_evaluation_of_the_training_data_takes_what_the_run_held_out(
    validated: bool, trunk: Path, tmp_path: Path
) -> None:
    source = one_file(tmp_path, count=8)
    options = {"validation": source} if validated else {}
    run = train(source, tmp_path / "run", trunk, "steps=1", "validation_fraction=0.25", **options)
    found = evaluate_detection(source, model=run, device="cpu")
    if validated:
        assert found.images == 8
        assert found.note == f"{source} is what the run was trained on; these numbers say nothing about other images"
        return
    _, held = open_detection_splits(source, fraction=0.25, seed=0)
    assert held is not None
    assert found.images == len(held) == 2
    assert found.note == f"the run was trained on {source}; only the 2 samples that it held out are evaluated"
    assert found.numbers == evaluate_detection(held, model=run, device="cpu").numbers
    values = json.loads(source.read_text())
    values["annotations"].pop()
    source.write_text(json.dumps(values))
    found = evaluate_detection(source, model=run / "model", device="cpu")
    assert found.images == 8
    assert "but has other samples now" in str(found.note)


def test_fewer_queries_than_objects_give_a_notice(trunk: Path, tmp_path: Path) -> None:
    with pytest.warns(Notice, match="an image has 2 objects, but the model has 1 queries and finds no more than that"):
        train(write_coco(tmp_path / "set"), tmp_path / "run", trunk, "queries=1", "steps=1")


def test_a_validation_set_without_objects_is_not_measured(trunk: Path, tmp_path: Path) -> None:
    source = write_coco(tmp_path / "set")
    file = source / "annotations" / "instances_val.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "annotations": []}))
    with pytest.warns(Notice, match=r"3 images to validate on, but no objects; the run is not measured"):
        run = train(source, tmp_path / "run", trunk)
    assert json.loads((run / "run.json").read_text())["result"]["last"] is None


class Killed(BaseException):
    """A process that ends at once."""


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = DetectionTrainer.training_step

    def training_step(self: DetectionTrainer, *arguments: Any, **options: Any) -> torch.Tensor:
        if self.state.global_step == step:
            raise Killed
        return real(self, *arguments, **options)

    monkeypatch.setattr(DetectionTrainer, "training_step", training_step)


@pytest.mark.parametrize("task", ["detect", "instances"])
def test_a_killed_run_resumes_to_the_same_weights(
    task: str, trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_coco(tmp_path / "set")
    whole = train(source, tmp_path / "whole", trunk, "steps=6", task=task)
    with monkeypatch.context() as patch:
        kill_at(3, patch)
        with pytest.raises(Killed):
            train(source, tmp_path / "killed", trunk, "steps=6", task=task)
    found = last_whole(tmp_path / "killed" / "checkpoints")
    assert found is not None
    assert found[1] == 2
    resumed = train(source, tmp_path / "killed", trunk, "steps=6", task=task)
    assert equal(weights(whole), weights(resumed))
    lines = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (whole, resumed)]
    scores = [[(line["step"], line["validation"]) for line in part if "validation" in line] for part in lines]
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_a_checkpoint_that_was_not_written_to_its_end_is_not_used(
    trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, run = write_coco(tmp_path / "set"), tmp_path / "run"
    with monkeypatch.context() as patch:
        kill_at(3, patch)
        with pytest.raises(Killed):
            train(source, run, trunk)
    checkpoints = run / "checkpoints"
    shutil.copytree(checkpoints / "checkpoint-2", checkpoints / "checkpoint-3")
    (checkpoints / "checkpoint-3" / "whole.json").unlink()
    found = last_whole(checkpoints)
    assert found is not None
    assert found[1] == 2
    train(source, run, trunk)
    whole = train(source, tmp_path / "whole", trunk)
    assert equal(weights(whole), weights(run))


def test_a_damaged_checkpoint_is_named(trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, run = write_coco(tmp_path / "set"), tmp_path / "run"
    with monkeypatch.context() as patch:
        kill_at(3, patch)
        with pytest.raises(Killed):
            train(source, run, trunk)
    file = run / "checkpoints" / "checkpoint-2" / "weights.pt"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(TrainingStopped, match=r"checkpoint-2 is damaged \(.* delete this folder to resume"):
        train(source, run, trunk)


@pytest.mark.slow
def test_a_signal_ends_a_run_after_its_step(trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, run = write_coco(tmp_path / "set"), tmp_path / "run"
    real = DetectionTrainer.training_step

    def training_step(self: DetectionTrainer, *arguments: Any, **options: Any) -> torch.Tensor:
        if self.state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(DetectionTrainer, "training_step", training_step)
        train(source, run, trunk)
    assert "finished" not in json.loads((run / "run.json").read_text())
    found = last_whole(run / "checkpoints")
    assert found is not None
    assert found[1] == 3
    train(source, run, trunk)
    assert json.loads((run / "run.json").read_text())["finished"] is True
    assert equal(weights(run), weights(train(source, tmp_path / "whole", trunk)))


@pytest.mark.slow
def test_a_run_that_was_killed_after_its_last_step_is_finished(
    trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, run = write_coco(tmp_path / "set"), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("hierax.detection.run._finish", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            train(source, run, trunk)
    (run / "unreadable.txt").write_text("1.png: truncated\n")  # found before it was killed
    train(source, run, trunk, quiet=False)
    assert f"hierax: done: {run / 'model'}\n" in capsys.readouterr().err
    result = json.loads((run / "run.json").read_text())["result"]
    assert (result["last"]["images"], result["unreadable"]) == (3, 1)
    assert equal(weights(run), weights(train(source, tmp_path / "whole", trunk)))


@pytest.mark.slow
def test_the_best_weights_are_kept_beside_the_last(
    trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hierax.detection.recipes.FEW_HELD", 1)
    scores = iter([0.5, 0.1])
    real = evaluate_detection

    def measured(*arguments: Any, **options: Any) -> Any:
        found = real(*arguments, **options)
        found.numbers["AP"] = next(scores)
        return found

    monkeypatch.setattr("hierax.detection.steps.evaluate_detection", measured)
    run = train(write_coco(tmp_path / "set"), tmp_path / "run", trunk)
    result = json.loads((run / "run.json").read_text())["result"]
    assert result["best"] == {"AP": 0.5, "step": 2}
    assert result["weights"] == "best"
    assert not equal(weights(run), weights(run / "model-last"))
    assert not (run / "best").exists()


def test_a_finished_run_is_left_as_it_is(trunk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_coco(tmp_path / "set")
    run = train(source, tmp_path / "run", trunk)
    before = (run / "model" / "model.safetensors").stat().st_mtime_ns
    train(source, run, trunk, quiet=False)
    assert (run / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert "is already finished: model: step 4 of 4, AP" in capsys.readouterr().err
    with pytest.raises(
        RunExists, match=r"holds a run with other settings: lr was 0.001, now 0.01; steps was 4, now 5; ch"
    ):
        train(source, run, trunk, "lr=1e-2", "steps=5")
    train(source, run, trunk, "workers=1")
    train(source, run, trunk, "steps=1", overwrite=True)
    assert json.loads((run / "run.json").read_text())["facts"]["steps"] == 1


def test_folders_of_other_runs_are_refused(trunk: Path, tmp_path: Path) -> None:
    source = write_coco(tmp_path / "set")
    for name, content, message in (
        ("a", {"run.json": '{"mode": "finetune", "recipe": {}}'}, "holds a run of another kind, not of detection"),
        ("b", {"run.json": "{"}, "is damaged"),
        (
            "d",
            {"run.json": '{"mode": "detect", "recipe": {"lr": 1}}'},
            "is damaged: recipe: the recipe lacks head, name",
        ),
        ("c", {"photo.txt": ""}, "is not empty and contains no run"),
    ):
        (tmp_path / name).mkdir()
        for file, text in content.items():
            (tmp_path / name / file).write_text(text)
        with pytest.raises(RunExists, match=message):
            train(source, tmp_path / name, trunk)
    with pytest.raises(RunExists, match="is not empty and contains no run"):
        train(source, tmp_path / "c", trunk, overwrite=True)
    assert (tmp_path / "c" / "photo.txt").exists()
    with pytest.raises(ValueError, match="lies inside data"):
        train(source, source / "train" / "run", trunk)


@pytest.mark.parametrize("name", ["data", "validation"])
def test_data_that_are_no_path_are_refused_by_name(name: str, tmp_path: Path) -> None:
    given: Any = {"data": tmp_path, name: ["a.json"]}
    with pytest.raises(TypeError, match=f"{name} is a list; expected a folder, a file"):
        finetune_detection(given.pop("data"), out=tmp_path / "run", **given)


def test_a_finished_run_that_is_overwritten_is_not_finished_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "run.json").write_text('{"mode": "detect", "recipe": {}, "finished": true, "result": {}}')
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            delete_run_files(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == {"mode": "detect", "recipe": {}}


def test_a_run_of_detection_is_refused_by_other_tasks(trunk: Path, tmp_path: Path) -> None:
    run = train(write_coco(tmp_path / "set"), tmp_path / "run", trunk, "steps=1")
    for number, folder in enumerate(("red", "blue")):
        write_images(tmp_path / "labeled" / folder, 2, first=2 * number)
    with pytest.raises(
        RunExists, match=r"run\.json describes a run of --task detect, not of this task; choose another"
    ):
        finetune(tmp_path / "labeled", out=run, quiet=True, device="cpu")


def test_data_that_has_changed_is_not_resumed(trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, run = write_coco(tmp_path / "set"), tmp_path / "run"
    with monkeypatch.context() as patch:
        kill_at(3, patch)
        with pytest.raises(Killed):
            train(source, run, trunk)
    write_images(source / "train", 1, first=20)
    file = source / "annotations" / "instances_train.json"
    values, new = json.loads(file.read_text()), coco_values(1, first=20)
    file.write_text(json.dumps({**values, "images": [*values["images"], *new["images"]]}))
    with pytest.raises(RunExists, match="the data has changed since the run began"):
        train(source, run, trunk)


def test_an_image_that_becomes_unreadable_is_passed_over(trunk: Path, tmp_path: Path) -> None:
    source = write_coco(tmp_path / "set")
    for number in (1, 7):
        folder = "train" if number < 6 else "val"
        file = source / folder / f"{number}.png"
        file.write_bytes(file.read_bytes()[:-400])  # its header is whole
    run = train(source, tmp_path / "run", trunk, "steps=6")
    result = json.loads((run / "run.json").read_text())["result"]
    assert result["unreadable"] == 1
    assert result["last"]["unreadable"] == 1
    assert "1.png" in (run / "unreadable.txt").read_text()


def test_images_that_are_all_unreadable_stop_the_run(trunk: Path, tmp_path: Path) -> None:
    source = write_coco(tmp_path / "set")
    for file in (source / "train").iterdir():
        file.write_bytes(file.read_bytes()[:-400])
    with pytest.raises(TrainingStopped, match="20 images in a row cannot be read; the first is"):
        train(source, tmp_path / "run", trunk)


def test_a_loss_that_is_not_finite_stops_the_run(trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DetectionTrainer, "training_step", lambda *_, **__: torch.tensor(float("nan")))
    with pytest.raises(TrainingStopped, match="the loss of step 1 is nan, so the run cannot continue; a lower lr may"):
        train(write_coco(tmp_path / "set"), tmp_path / "run", trunk)


def test_one_process_and_the_first_gpu_are_used(trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="uses one process; expected the command without torchrun"):
        train(write_coco(tmp_path / "set"), tmp_path / "run", trunk)


@pytest.mark.slow
def test_photos_of_any_form_can_be_learned(trunk: Path, tmp_path: Path) -> None:
    """A gray photo, one with transparency, a narrow one, and one of a single pixel row."""
    folder = tmp_path / "set"
    folder.mkdir()
    sizes = {
        "a.png": ("L", (50, 40)),
        "b.png": ("RGBA", (30, 200)),
        "c.png": ("RGB", (300, 20)),
        "d.png": ("P", (9, 1)),
    }
    images, annotations = [], []
    for number, (name, (mode, size)) in enumerate(sizes.items()):
        pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / name)
        images.append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
        box = [0, 0, size[0], size[1]]
        annotations.append({"id": number, "image_id": number, "category_id": 3, "bbox": box})
    (folder / "boxes.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "photo"}]})
    )
    run = train(folder, tmp_path / "run", trunk, "validation_fraction=0", "steps=6")
    assert evaluate_detection(folder, model=run, device="cpu").images == 4
