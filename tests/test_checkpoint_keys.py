"""Tensor names and shapes: those that the published packages wrote down themselves (`tests/data/keys`)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import hierax
from hierax import create_model
from hierax.checkpoint import opened as opening
from hierax.checkpoint.files import TensorFile
from hierax.checkpoint.load import load_model
from hierax.checkpoint.opened import DIALECTS, Checkpoint, open_checkpoint
from hierax.checkpoint.save import named_tensors
from hierax.model.config import variant_config

KEYS = Path(__file__).parent / "data" / "keys"
LISTS = sorted(path.name.removesuffix(".json") for path in KEYS.glob("*.json"))
STAGES = ("stage1", "stage2", "stage3", "stage4")


def shapes_of(name: str) -> dict[str, list[int]]:
    return json.loads((KEYS / f"{name}.json").read_text(encoding="utf-8"))["tensors"]


def our_model(name: str) -> Any:
    """The model of a key list, on the meta device."""
    _, model = name.split(".")
    with torch.device("meta"):
        if not name.startswith("transformers"):
            return create_model(model)
        config = variant_config("mae_hiera_tiny_224" if model == "HieraForPreTraining" else "hiera_tiny_224")
        backbone = {"out_features": STAGES, "norms": True} if model == "HieraBackbone" else {}
        return getattr(hierax, model)(config, **backbone)


def test_there_are_lists_of_all_kinds() -> None:
    assert len(LISTS) == 12
    assert {name.split(".")[0] for name in LISTS} == set(DIALECTS)


@pytest.mark.parametrize("name", LISTS)
def test_names_and_shapes_are_those_of_the_package(name: str) -> None:
    ours = named_tensors(our_model(name), name.split(".")[0])
    assert {key: list(tensor.shape) for key, tensor in ours.items()} == shapes_of(name)


def opened_from(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Checkpoint:
    """A bare file with these names and shapes, on the meta device."""
    tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes_of(name).items()}
    (tmp_path / "bare.pth").touch()
    monkeypatch.setattr(opening, "read_tensors", lambda path, *_, **__: TensorFile(tensors))
    return open_checkpoint(tmp_path / "bare.pth")


@pytest.mark.parametrize("name", LISTS)
def test_a_bare_file_of_the_package_is_recognized(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened = opened_from(name, monkeypatch, tmp_path)
    assert opened.dialect.name == name.split(".")[0]
    assert opened.unexpected == []
    expected = our_model(name).config
    assert opened.config.replace(id2label=expected.id2label, out_features=expected.out_features) == expected


@pytest.mark.parametrize("name", LISTS)
def test_every_tensor_of_the_package_finds_its_place(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened, model = opened_from(name, monkeypatch, tmp_path), our_model(name)
    features = {"out_features": model.config.out_features}
    norms = {"norms": True} if name.endswith("Backbone") else {}
    loaded = load_model(type(model), opened, device="meta", overrides={**features, **norms})
    report = loaded.loading_report
    assert (report.missing, report.reinitialized, report.ignored, report.unexpected) == ([], [], [], [])
    assert loaded.num_parameters() == json.loads((KEYS / f"{name}.json").read_text(encoding="utf-8"))["parameters"]
