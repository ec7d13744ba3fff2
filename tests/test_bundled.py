"""The checkpoints that come with hierax: opened without a network, described by their files, meant where none is named.

Nothing here asks what the models answer: their weights may be others tomorrow.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import hierax
from hierax.checkpoint import bundled
from hierax.checkpoint.bundled import BUNDLED, bundled_folder, bundled_labels, bundled_parameters
from hierax.checkpoint.records import CheckpointRecord, find_record
from hierax.cli.models import note_of
from hierax.model.config import variant_config
from small import image_config

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)

ALONE = """
import importlib.abc, socket, sys

EXTRAS = {extras}


class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


def refuse(*arguments, **options):
    raise AssertionError(f"the network was asked: {{arguments}}")


sys.meta_path.insert(0, Absent())
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
"""
NETWORK = {"huggingface_hub", "requests", "httpx", "urllib3"}
EXTRAS = NETWORK | {
    "simplejpeg",
    "openvino",
    "onnxruntime",
    "matplotlib",
    "pyarrow",
    "datasets",
    "faiss",
    "ray",
    "transformers",
}


def alone(program: str, folder: Path, *, without: set[str]) -> str:
    """What a program prints that has no network, not even switched off, and lacks these packages."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    code = ALONE.format(extras=sorted(without)) + program
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=folder, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def record(name: str) -> CheckpointRecord:
    found = find_record(name)
    assert found is not None
    return found


# -- opening ---------------------------------------------------------------------------------------------------------


def test_every_way_to_open_one_works_without_the_hubs_client_and_without_a_network(tmp_path: Path) -> None:
    program = """
import torch
from hierax import (
    AutoImageProcessor, Engine, HieraBackbone, HieraForImageClassification, HieraForPreTraining, HieraModel, load
)

pixels = torch.zeros(1, 3, 160, 160)
print(type(load("hierax/femto")).__name__, type(load("hierax/femto.mae")).__name__, type(load("femto")).__name__)
print(*HieraModel.from_pretrained("hierax/femto")(pixels).pooler_output.shape)
print(len(HieraBackbone.from_pretrained("hierax/femto", out_features=["stage2", "stage3"])(pixels).feature_maps))
print(*HieraForImageClassification.from_pretrained("hierax/femto", num_labels=3)(pixels).logits.shape)
print(*HieraForPreTraining.from_pretrained("hierax/femto.mae", image_size=192).config.image_size)
print(AutoImageProcessor.from_pretrained("hierax/femto").crop_size["height"])
engine = Engine("hierax/femto", device="cpu", backend="torch", precision="fp32", cache_dir=False)
print(len(engine(pixels).logits))
"""
    printed = alone(program, tmp_path, without=NETWORK).splitlines()
    assert printed == [
        "HieraForImageClassification HieraForPreTraining HieraForImageClassification",
        "1 320",
        "2",
        "1 3",
        "192 192",
        "160",
        "1",
    ]


def test_every_command_works_alone(tmp_path: Path) -> None:
    """Without a network, and with nothing installed but what hierax requires."""
    shutil.copy(Path(hierax.__file__).parent / "assets" / "cat.jpg", tmp_path / "photo.jpg")
    program = """
from hierax.cli import main

for command in (
    "classify photo.jpg", "features photo.jpg -o features", "reconstruct photo.jpg -o made.png",
    "models --license Apache-2.0", "convert hierax/femto official --to official", "demo",
):
    assert main(command.split()) == 0, command
"""
    alone(program, tmp_path, without=EXTRAS)
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"photo.jpg", "features", "made.png", "official", "demo"}


@pytest.mark.parametrize("name", BUNDLED)
def test_weights_are_kept_in_half_precision_and_loaded_in_full(name: str) -> None:
    assert {p.dtype for p in hierax.load(name, dtype="auto").parameters()} == {torch.float16}
    assert {p.dtype for p in hierax.load(name).parameters()} == {torch.float32}


@pytest.mark.parametrize("name", BUNDLED)
def test_their_license_stands_in_their_own_file(name: str) -> None:
    folder = bundled_folder(name)
    assert folder is not None
    assert json.loads((folder / "config.json").read_text())["license"] == "Apache-2.0"
    assert hierax.load(name).license == "Apache-2.0"


def test_a_report_names_what_was_asked_for() -> None:
    assert str(hierax.load("hierax/femto").loading_report) == "hierax/femto (transformers)"


def test_a_folder_of_that_name_comes_first(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = saved(hierax.HieraModel, image_config())
    (tmp_path / "hierax").mkdir()
    mine.rename(tmp_path / "hierax" / "femto")
    monkeypatch.chdir(tmp_path)
    assert hierax.load("hierax/femto").config.image_size == (64, 64)


@pytest.mark.parametrize(
    "read", [hierax.load, hierax.HieraModel.from_pretrained, hierax.AutoImageProcessor.from_pretrained]
)
def test_an_unknown_name_is_told_which_there_are(read: Callable[..., Any]) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"^hierax/nano: .* comes with hierax; there are hierax/femto and hierax/femto\.mae$"
    ):
        read("hierax/nano")


# -- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUNDLED)
def test_the_table_says_what_is_in_the_files(name: str) -> None:
    found, model = record(name), hierax.load(name)
    assert found.parameters == model.num_parameters()
    assert found.num_labels == (model.config.num_labels if "decoder" not in dict(model.named_children()) else 0)
    assert (found.license, found.bundled) == (model.license, True)


@pytest.mark.parametrize(
    ("name", "variant"), [("hierax/femto", "hiera_femto_160"), ("hierax/femto.mae", "mae_hiera_femto_160")]
)
def test_they_are_the_variant_of_their_name(name: str, variant: str) -> None:
    config, wanted = hierax.load(name).config, variant_config(variant)
    for field in ("embed_dim", "depths", "num_heads", "image_size", "num_query_pool", "position_embedding"):
        assert getattr(config, field) == getattr(wanted, field), field


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand for that of the package, with an empty one for each checkpoint."""
    for name in BUNDLED:
        (tmp_path / name.removeprefix("hierax/")).mkdir()
    monkeypatch.setattr(bundled, "_ASSETS", tmp_path)
    return tmp_path


METRICS = {
    "top1": 71.24,
    "top1_low": 68.0,
    "top1_high": 74.1,
    "test_pictures": 1600,
    "classes": 20,
    "data": "all kinds",
}


def test_metrics_are_those_of_the_file_beside_the_weights(assets: Path) -> None:
    (assets / "femto" / "metrics.json").write_text(json.dumps(METRICS))
    assert record("hierax/femto").metrics == METRICS
    assert record("hierax/femto.mae").metrics == {}
    assert record("facebook/hiera-tiny-224-in1k-hf").metrics == {}


def test_the_list_tells_accuracy_on_own_categories_from_that_on_imagenet(assets: Path) -> None:
    own = f"{record('hierax/femto').num_labels} categories of its own, not ImageNet's"
    assert note_of(record("hierax/femto")) == own
    for fields, words in (
        (METRICS, "71.2 % (68.0 to 74.1) on 1,600 held-out images"),
        ({"top1": 71.24}, "71.2 %"),
    ):
        (assets / "femto" / "metrics.json").write_text(json.dumps(fields))
        assert note_of(record("hierax/femto")) == f"{own}; top-1 {words}"


def test_the_list_begins_with_what_needs_no_download(run: Run) -> None:
    lines = run("models")[1].splitlines()
    assert "(comes with hierax)" in lines[3]
    assert lines[4].split()[0] == "hierax/femto"
    first, *_ = json.loads(run("models", "--json")[1])["checkpoints"]
    assert (first["hub_id"], first["bundled"], first["top1"]) == ("hierax/femto", True, None)
    assert first["metrics"] == dict(record("hierax/femto").metrics)


def test_metrics_that_are_shipped_make_sense() -> None:
    found = record("hierax/femto").metrics
    if "top1" in found:
        assert 0 < found.get("top1_low", found["top1"]) <= found["top1"] <= found.get("top1_high", found["top1"]) <= 100
    assert found.get("classes", record("hierax/femto").num_labels) == record("hierax/femto").num_labels


def test_the_documents_state_the_metrics_that_are_shipped() -> None:
    found, root = record("hierax/femto").metrics, Path(__file__).parents[1]
    top1, top5, images = round(found["top1"]), round(found["top5"]), found["test_pictures"]
    rows = (
        f"{found[name]:.1f} ({found[f'{name}_low']:.1f} to {found[f'{name}_high']:.1f})"
        for name in ("top1", "balanced")
    )
    stated = {
        "README.md": [f"Its top-1 accuracy is {top1} % on {images} held-out images of {found['classes']} categories"],
        "docs/models.md": [
            f"Top-1 accuracy is {top1} % and top-5 accuracy is {top5} %, on {images} held-out images of"
        ],
        "docs/femto.md": [
            f"| `hierax/femto` | {' | '.join(rows)} |",
            f"Top-5 accuracy is {found['top5']:.1f} %",
            f"{found['sure']:.2f} is the smallest threshold",
            f"| all | {images} | {found['sure_coverage']:.1f} (",
        ],
    }
    for name, sentences in stated.items():
        text = (root / name).read_text(encoding="utf-8")
        for sentence in sentences:
            assert sentence in text, (name, sentence)


def test_a_package_without_the_weights_still_has_its_table(assets: Path) -> None:
    """As distributions may strip them."""
    assert (bundled_parameters("hierax/femto"), bundled_labels("hierax/femto")) == (None, 0)
    with pytest.raises(FileNotFoundError, match="no weights in this folder"):
        hierax.load("hierax/femto")


# -- commands without --model ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["classify", "a"], "hierax/femto"),
        (["features", "a", "-o", "out"], "hierax/femto"),
        (["embed", "a", "-o", "out"], "hierax/femto"),
        (["reconstruct", "a", "-o", "out.png"], "hierax/femto.mae"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_command_without_a_model_takes_the_one_that_comes_with_hierax(
    run: Run, command: list[str], name: str
) -> None:
    code, _, err = run(*command)
    assert code == 0
    assert f"hierax: {name}: weights under Apache-2.0" in err


@pytest.mark.parametrize(
    ("command", "name"),
    [("classify", "hierax/femto"), ("features", "hierax/femto"), ("reconstruct", "hierax/femto.mae")],
)
def test_help_says_which_model_that_is(run: Run, command: str, name: str) -> None:
    out = run(command, "--help")[1]
    assert f"(default: {name}, " in " ".join(out.split())
    assert f"Without --model the command uses {name}" in out


def test_the_classifier_is_exported_for_any_batch() -> None:
    """A model of real size: decisions that depend on how much there is to compute must not become part of an export."""
    model = hierax.HieraForImageClassification.from_pretrained("hierax/femto").eval()
    batch = torch.export.Dim("batch", min=1, max=1024)
    pixels = torch.zeros(2, 3, 160, 160)
    with torch.no_grad():
        program = torch.export.export(model, (pixels,), dynamic_shapes=({0: batch},), strict=False)
        assert program.module()(torch.zeros(5, 3, 160, 160)).logits.shape == (5, 30)
