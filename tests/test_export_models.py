"""Exports as models of `evaluate` and `embed`: the same answers, an identity of their own, and what they cannot do."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hierax
from hierax import HieraBackbone, HieraForImageClassification, HieraModel, Index, Preprocessing
from hierax.cli import main
from hierax.embedding import FeatureExtractor
from hierax.notices import Notice
from hierax.train import evaluate
from small import image_config

FORMATS = (
    "pt2",
    pytest.param("onnx", marks=pytest.mark.slow),
    pytest.param("openvino", marks=pytest.mark.slow),
)
SHALLOW: dict[str, Any] = {
    "depths": (1, 1), "num_heads": (1, 2), "masked_unit_attention": (True, False), "num_query_pool": 1,
}  # fmt: skip
RECORD = Preprocessing().replace(size=72, crop_size=64, image_mean=(0.4, 0.5, 0.6))


def save_noise(path: Path, *, seed: int) -> Path:
    levels = np.random.default_rng(seed).integers(0, 256, (80, 90, 3)).astype(np.uint8)
    Image.fromarray(levels).save(path)
    return path


def made(cls: Any, folder: Path, **options: Any) -> tuple[Path, Any]:
    """The checkpoint of a small model with labels and a record of its own, and the model."""
    torch.manual_seed(0)
    model = cls(image_config(**SHALLOW, num_labels=2, id2label={0: "cats", 1: "dogs"}, **options)).eval()
    torch.nn.init.normal_(model.head.weight) if cls is HieraForImageClassification else None
    model.preprocessing = RECORD
    model.save_pretrained(folder / cls.__name__)
    return folder / cls.__name__, model


def exported(model: Any, folder: Path, format: str = "pt2") -> Path:
    hierax.export(model, folder / format, format=format)
    return folder / format


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Path]:
    """The export of a model of a class, made once."""

    @functools.cache
    def export(cls: Any) -> Path:
        folder = tmp_path_factory.mktemp(cls.__name__)
        return exported(made(cls, folder)[1], folder)

    return export


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(6):
        folder = tmp_path / "photos" / ("cats", "dogs")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        save_noise(folder / f"{number}.png", seed=number)
    return tmp_path / "photos"


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_is_evaluated_as_its_checkpoint(
    format: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, model = made(HieraForImageClassification, tmp_path)
    folder = exported(model, tmp_path, format)
    assert main(["evaluate", str(photos), "--model", str(checkpoint), "--json", "--device", "cpu"]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert main(["evaluate", str(photos), "--model", str(folder), "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["classes"] == expected["classes"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-3)
    assert f"{folder} is an export ({format}, fp32); beside its checkpoint: " in err
    with hierax.Engine(folder) as engine:
        assert evaluate(photos, model=engine).metrics["loss"] == pytest.approx(expected["loss"], rel=1e-3)
        assert engine.record == RECORD


def test_an_export_of_another_task_is_not_evaluated(photos: Path, shared: Callable[[Any], Path]) -> None:
    with (
        hierax.Engine(shared(HieraModel)) as engine,
        pytest.raises(ValueError, match="is for features; expected a classifier"),
    ):
        evaluate(photos, model=engine)


def test_a_probe_of_an_export_says_what_it_needs(
    photos: Path, shared: Callable[[Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared(HieraModel)
    assert main(["evaluate", str(photos), "--model", str(folder), "--probe", "knn", "--train", str(photos)]) == 2
    assert "is an export; a probe needs the checkpoint that it was made from" in capsys.readouterr().err


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_embeds_as_its_checkpoint_within_its_tolerance(format: str, photos: Path, tmp_path: Path) -> None:
    checkpoint, model = made(HieraModel, tmp_path)
    folder = exported(model, tmp_path, format)
    hierax.embed(photos, tmp_path / "own", model=checkpoint, device="cpu", precision="fp32", backend="torch")
    with pytest.warns(
        Notice, match=rf"is an export \({format}, fp32\); beside its checkpoint: .*only with vectors of this export"
    ):
        hierax.embed(photos, tmp_path / "exported", model=folder)
    own, other = Index(tmp_path / "own"), Index(tmp_path / "exported")
    rows = np.arange(len(own))
    np.testing.assert_allclose(other.take(rows), own.take(rows), atol=1e-3)
    assert own.manifest.weights != other.manifest.weights
    assert other.manifest.model == str(folder)
    assert other.manifest.preprocessing == RECORD.to_dict()


@pytest.mark.slow
def test_a_collection_of_a_checkpoint_takes_nothing_of_an_export(photos: Path, tmp_path: Path) -> None:
    checkpoint, model = made(HieraModel, tmp_path)
    hierax.embed(photos, tmp_path / "out", model=checkpoint, device="cpu", precision="fp32")
    folder = exported(model, tmp_path)
    with pytest.warns(Notice), pytest.raises(hierax.CollectionError, match="weights"):
        hierax.embed(photos, tmp_path / "out", model=folder, update=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::hierax.notices.Notice")
def test_stages_of_a_backbone_are_those_of_its_checkpoint(tmp_path: Path) -> None:
    checkpoint, model = made(HieraBackbone, tmp_path, out_features=("stage1", "stage2"))
    folder = exported(model, tmp_path)
    layers = ("stage1", "stage2", "stage2_map")
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    ours = FeatureExtractor(folder, layers=layers)
    theirs = FeatureExtractor(
        HieraModel.from_pretrained(checkpoint, reinit=("norm",)), layers=layers, precision="fp32", device="cpu"
    )
    found, expected = ours(pixels), theirs(pixels)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-4)
    ours.close()
    theirs.close()


@pytest.mark.filterwarnings("ignore::hierax.notices.Notice")
@pytest.mark.parametrize(
    ("cls", "given", "problem"),
    [
        (
            HieraForImageClassification,
            {},
            "layer is 'pooled'; .* export for classification and returns no features; .*",
        ),
        (HieraModel, {"layers": "stage1"}, "layer is 'stage1'; .* returns pooled; .* made with --task backbone"),
        (HieraBackbone, {}, "layer is 'pooled'; .* returns stage2; .* made with --task features"),
        (HieraBackbone, {"layers": "stage1"}, "layer is 'stage1'; .* returns stage2;"),
        (HieraModel, {"size": 96}, r"size is 96; .* was exported for \(64, 64\) alone"),
        (HieraModel, {"device": "cuda"}, "device is 'cuda'; .* is an export for the CPU"),
        (HieraModel, {"precision": "bf16"}, "precision is 'bf16'; .* is an export for the CPU"),
    ],
    ids=str,
)
def test_what_an_export_cannot_give_is_said_before_anything_is_written(
    cls: Any, given: dict[str, Any], problem: str, photos: Path, tmp_path: Path, shared: Callable[[Any], Path]
) -> None:
    with pytest.raises(ValueError, match=problem):
        hierax.embed(photos, tmp_path / "out", model=shared(cls), **given)
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.filterwarnings("ignore::hierax.notices.Notice")
def test_a_collection_of_an_export_is_searched_by_it(
    photos: Path, tmp_path: Path, shared: Callable[[Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared(HieraModel)
    assert main(["embed", str(photos), "-o", str(tmp_path / "out"), "--model", str(folder)]) == 0
    query = save_noise(tmp_path / "query.png", seed=3)
    capsys.readouterr()
    assert main(["search", str(tmp_path / "out"), str(query), "--json", "--top-k", "1"]) == 0
    out, err = capsys.readouterr()
    hit = json.loads(out)["hits"][0]
    assert (Path(hit["path"]).name, round(hit["score"], 4)) == ("3.png", 1.0)
    assert "is an export (pt2, fp32)" in err
