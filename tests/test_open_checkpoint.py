"""A checkpoint that is open: what it tells, that everything takes it, and that commands open one once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import hierax
from hierax import Engine, HieraBackbone, HieraForImageClassification, HieraForPreTraining, HieraModel, Preprocessing
from hierax.checkpoint import opened
from small import image_config, randomise


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    model = HieraForImageClassification(image_config(num_labels=3, license="MIT"))
    randomise(model)
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


def test_every_command_opens_a_checkpoint_once(folder: str, count: Callable[[], int], tmp_path: Path) -> None:
    from hierax.cli import main

    image = tmp_path / "images" / "a" / "a.png"
    image.parent.mkdir(parents=True)
    Image.effect_noise((64, 64), 90).convert("RGB").save(image)
    commands = {
        "classify": ("classify", str(image)),
        "features": ("features", str(image), "-o", str(tmp_path / "features")),
        "embed": ("embed", str(image), "-o", str(tmp_path / "collection")),
        "export": ("export", "-o", str(tmp_path / "export"), "--format", "pt2"),
    }
    openings = {}
    for name, command in commands.items():
        assert main([*command, "--model", folder]) == 0, name
        openings[name] = count()
    assert openings == dict.fromkeys(commands, 1)
