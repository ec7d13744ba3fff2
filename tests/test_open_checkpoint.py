"""A checkpoint that is open: what it tells, that everything takes it, and that commands open one once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

import hierax
from hierax import Engine, HieraBackbone, HieraForImageClassification, HieraForPreTraining, HieraModel, Preprocessing
from hierax.checkpoint import opened
from small import image_config, randomize


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    model = HieraForImageClassification(image_config(num_labels=3, license="MIT"))
    randomize(model)
    model.preprocessing = Preprocessing.for_model(model.config)
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    return str(path)


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often tensors were read since the last call."""
    read, calls = opened.read_tensors, []

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return read(*arguments, **options)

    monkeypatch.setattr(opened, "read_tensors", counted)

    def since() -> int:
        number = len(calls)
        calls.clear()
        return number

    return since


def test_it_tells_what_it_holds(folder: str) -> None:
    checkpoint = hierax.open_checkpoint(folder)
    assert (checkpoint.name, checkpoint.task, checkpoint.license) == (folder, "classification", "MIT")
    assert checkpoint.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert checkpoint.parts == {"encoder", "norm", "head"}
    assert checkpoint.preprocessing is not None
    assert checkpoint.preprocessing.output_size == (64, 64)


def test_labels_of_a_checkpoint_are_in_the_order_of_its_logits(tmp_path: Path) -> None:
    checkpoint = hierax.open_checkpoint("hierax/femto")
    assert checkpoint.labels == tuple(checkpoint.config.id2label[i] for i in range(30))
    hierax.convert("hierax/femto", tmp_path / "timm", to="timm")
    assert json.loads((tmp_path / "timm" / "config.json").read_text())["label_names"] == list(checkpoint.labels)


def test_everything_takes_it_and_reads_nothing_again(folder: str, count: Callable[[], int]) -> None:
    checkpoint = hierax.open_checkpoint(folder)
    assert count() == 1
    models = [
        hierax.load(checkpoint),
        checkpoint.model("features"),
        HieraModel.from_pretrained(checkpoint),
        HieraBackbone.from_pretrained(checkpoint, out_features=["stage2"]),
        HieraForPreTraining.from_pretrained(checkpoint, reinit=("decoder", "fusion", "encoder_norm")),
    ]
    assert [type(model).__name__ for model in models[:2]] == ["HieraForImageClassification", "HieraModel"]
    assert hierax.open_checkpoint(checkpoint) is checkpoint
    with Engine(checkpoint, device="cpu", backend="torch", precision="fp32") as engine:
        assert engine.source == folder
    assert hierax.AutoImageProcessor.from_pretrained(checkpoint).record == models[0].preprocessing
    assert count() == 0


def test_models_made_of_it_share_nothing(folder: str) -> None:
    checkpoint = hierax.open_checkpoint(folder)
    first = checkpoint.model()
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    assert all(bool(p.any()) for n, p in checkpoint.model().named_parameters() if n.endswith("proj.weight"))


@pytest.mark.parametrize("argument", [{"variant": "hiera_tiny_224"}, {"part": "model"}, {"revision": "main"}])
def test_what_chooses_a_checkpoint_is_for_opening_it(folder: str, argument: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="is open; expected it in open_checkpoint"):
        hierax.load(hierax.open_checkpoint(folder), **argument)


TORCH = ["--backend", "torch"]
SHORT = [*TORCH, "--seconds", "0", "--rounds", "1", "--no-memory"]
LOOKED_UP = {
    "classify": ["classify", "IMAGE", "--model", "MODEL", *TORCH],
    "classify a bare file": ["classify", "IMAGE", "--model", "FILE", *TORCH],
    "features": ["features", "IMAGE", "-o", "OUT/features", "--model", "MODEL", *TORCH],
    "reconstruct": ["reconstruct", "IMAGE", "-o", "OUT/masked.png", "--model", "MAE", *TORCH],
    "bench": ["bench", "--model", "MODEL", "--size", "64,96", "--batch-size", "1", "--precision", "fp32", *SHORT],
    "convert": ["convert", "MODEL", "OUT/timm", "--to", "timm"],
    "embed": ["embed", "DATA", "-o", "OUT/collection", "--model", "MODEL", *TORCH],
    "embed again": ["embed", "DATA", "-o", "OUT/collection", "--model", "MODEL", "--update", *TORCH],
    "search": ["search", "OUT/collection", "OTHER"],
    "features with attention": ["features", "IMAGE", "-o", "OUT/attention", "--attention", "--model", "MODEL"],
    "export": ["export", "-o", "OUT/export", "--format", "pt2", "--model", "MODEL"],
    "finetune": ["finetune", "DATA", "-o", "OUT/tuned", "--from", "MODEL", "epochs=1", "warmup_epochs=0", "workers=0"],
    "pretrain": ["pretrain", "DATA", "-o", "OUT/mae", "--from", "MAE", "epochs=1", "warmup_epochs=0", "workers=0"],
    "evaluate": ["evaluate", "DATA", "--model", "OUT/tuned"],
    "evaluate with a probe": ["evaluate", "DATA", "--model", "MAE", "--probe", "knn", "--train", "DATA"],
}
NOT_LOOKED_UP = {
    "duplicates": ["duplicates", "OUT/collection"],
    "outliers": ["outliers", "OUT/collection"],
    "map": ["map", "OUT/collection", "-o", "OUT/map.html"],
    "search for a stored image": ["search", "OUT/collection", "IMAGE"],
    "models": ["models"],
    "stats": ["stats", "DATA"],
}


@pytest.mark.parametrize("number", [6, pytest.param(None, marks=pytest.mark.slow)])
def test_every_command_looks_a_checkpoint_up_once_and_opens_it_once(
    folder: str, count: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    """In this order, because some work on what others have written; the first commands in every run of the tests."""
    from hierax.checkpoint import files, preprocessing
    from hierax.checkpoint.bundled import bundled_folder
    from hierax.cli import main
    from hierax.predict import predictor

    for package in ("pyarrow", "matplotlib"):
        pytest.importorskip(package)
    locate, located = files.locate, []

    def counted(*arguments: Any, **options: Any) -> Any:
        located.append(arguments)
        return locate(*arguments, **options)

    for module in (opened, preprocessing, predictor):
        monkeypatch.setattr(module, "locate", counted)
    monkeypatch.chdir(tmp_path)
    draw = numpy.random.default_rng(0)
    for name in ("OTHER.png", "DATA/a/0.png", "DATA/a/1.png", "DATA/b/0.png", "DATA/b/1.png"):
        image = tmp_path / name
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=numpy.uint8)).save(image)
    mae = HieraForPreTraining(image_config(num_query_pool=2))
    mae.preprocessing = Preprocessing.for_model(mae.config)
    mae.save_pretrained("MAE")
    shutil.copy(str(bundled_folder("hierax/femto")) + "/model.safetensors", "FILE.safetensors")
    names = {"MODEL": folder, "IMAGE": "DATA/a/0.png", "OTHER": "OTHER.png", "FILE": "FILE.safetensors"}
    openings = {}
    expected = {**dict.fromkeys(LOOKED_UP, (1, 1)), **dict.fromkeys(NOT_LOOKED_UP, (0, 0))}
    for name in list(expected)[:number]:
        command = {**LOOKED_UP, **NOT_LOOKED_UP}[name]
        assert main([names.get(word, word) for word in command]) == 0, name
        openings[name] = (len(located), count())
        located.clear()
    assert openings == {name: expected[name] for name in openings}


@pytest.mark.parametrize("options", [[], ["--probe", "knn", "--train", "DATA"], ["--json"]])
def test_an_evaluation_opens_its_model_once(
    count: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    from hierax.cli import main

    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path("DATA", name).mkdir(parents=True)
        Image.new("RGB", (64, 64), "red").save(f"DATA/{name}/0.png")
    classifier: Any = randomize(HieraForImageClassification(image_config(num_labels=2, id2label={0: "a", 1: "b"})))
    classifier.save_pretrained("MODEL")
    assert main(["evaluate", "DATA", "--model", "MODEL", "--workers", "0", *options]) == 0
    assert count() == 1


def test_an_open_checkpoint_is_evaluated(count: Callable[[], int], tmp_path: Path) -> None:
    from hierax.train import evaluate, evaluate_segmentation

    for name in ("a", "b"):
        (tmp_path / "DATA" / name).mkdir(parents=True)
        Image.new("RGB", (64, 64), "red").save(tmp_path / "DATA" / name / "0.png")
    classifier: Any = randomize(HieraForImageClassification(image_config(num_labels=2, id2label={0: "a", 1: "b"})))
    classifier.save_pretrained(tmp_path / "MODEL")
    checkpoint = hierax.open_checkpoint(tmp_path / "MODEL")
    found = [
        evaluate(tmp_path / "DATA", model=model, workers=0, device="cpu").metrics
        for model in (checkpoint, tmp_path / "MODEL", classifier.eval())
    ]
    assert found[0] == found[1] == found[2]
    assert count() == 2  # the checkpoint was read once, the folder once
    with pytest.raises(ValueError, match="MODEL is a model for classification; expected"):
        evaluate_segmentation(tmp_path / "DATA", model=checkpoint)


def test_an_input_that_is_missing_is_said_before_weights_are_fetched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from hierax.checkpoint import files
    from hierax.cli import main

    config = tmp_path / "config.json"
    config.write_text('{"model_type": "hiera", "image_size": [224, 224]}')
    asked: list[str] = []

    def fetch(repository: str, file: str, hub: Any) -> Path | None:
        asked.append(file)
        return config if file == files.CONFIG else None

    monkeypatch.setattr(files, "fetch", fetch)
    monkeypatch.setattr(files, "reached", lambda repository, file, hub: hub)
    for command, out in {"classify": "out.csv", "features": "out", "reconstruct": "out.png"}.items():
        assert main([command, "missing.jpg", "--model", "someone/model", "-o", str(tmp_path / out)]) == 2
        assert "missing.jpg" in capsys.readouterr().err
    assert set(asked) == {files.CONFIG, files.PROCESSOR}
