"""Maps of a neck as columns of a collection."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

import hierax
from hierax.collection.store import Manifest
from hierax.embedding import embed
from hierax.processing import HieraImageProcessor
from pictures import OPTIONS, RECORD
from small import image_config, randomize, relative

pytest_plugins = ("pictures",)


@pytest.fixture
def encoder(tmp_path: Path) -> str:
    """A small encoder of SAM 2's kind."""
    model = hierax.HieraBackbone(image_config(fpn_hidden_size=16, window_sizes=(8, 4, 14, 7)))
    randomize(model)
    model.preprocessing = RECORD
    model.save_pretrained(tmp_path / "encoder")
    return str(tmp_path / "encoder")


def test_levels_and_stages_are_columns(originals: Path, encoder: str, tmp_path: Path) -> None:
    one = sorted(originals.rglob("*.png"))[0]
    embed([one], tmp_path / "out", model=encoder, layers=("p2_map", "p3", "stage3"), **OPTIONS)
    row, manifest = pq.read_table(tmp_path / "out" / "data").to_pylist()[0], Manifest.read(tmp_path / "out")
    direct: Any = hierax.HieraBackbone.from_pretrained(encoder, out_features=("stage3", "p2", "p3"))
    with torch.no_grad():
        stage3, p2, p3 = direct(**HieraImageProcessor(RECORD, fast=True)(one)).feature_maps
    assert relative(torch.tensor(row["p2_map"]).view(manifest.column("p2_map").shape), p2[0]) < 1e-5
    assert relative(torch.tensor(row["p3"]), p3[0].mean((1, 2))) < 1e-5
    assert relative(torch.tensor(row["stage3"]), stage3[0].mean((1, 2))) < 1e-5


def test_pooled_features_and_levels_need_two_collections(originals: Path, encoder: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layers is pooled, p2; pooled and a layer of the neck need two collections"):
        embed([originals], tmp_path / "out", model=encoder, layers=("pooled", "p2"), **OPTIONS)
    assert not (tmp_path / "out").exists()


def test_a_level_that_is_not_there_is_refused(originals: Path, encoder: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layer is 'p4'; expected pooled, stage1"):
        embed([originals], tmp_path / "out", model=encoder, layers=("p4",), **OPTIONS)
