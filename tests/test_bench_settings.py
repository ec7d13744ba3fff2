"""What a benchmark measures, and who is compared with whom."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import hierax
from benches import SETTINGS, settings
from hierax import extras
from hierax.benchmark import bench, measure, peers
from hierax.benchmark.contenders import Subject
from hierax.benchmark.settings import parse_size

pytest_plugins = ("benches",)
pytestmark = pytest.mark.usefixtures("small_and_private")


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batches": (0,)}, "batches is 0; expected a whole number above 0"),
        ({"batches": ()}, "batches is"),
        ({"rounds": True}, "rounds is True"),
        ({"threads": -1}, "threads is -1"),
        ({"seconds": -1}, "seconds is -1; expected 0 or more"),
        ({"precisions": ("fp8",)}, "precision is 'fp8'; expected fp32, bf16, int8"),
        ({"precisions": ("int8",)}, "precision is 'int8'; the backend 'torch' on cpu takes fp32, bf16"),
        ({"backends": ("tensorrt",)}, "backend is 'tensorrt'; expected auto, torch"),
        ({"against": ("jax",)}, "against is 'jax'; expected all, transformers, timm, official"),
        ({"against_precision": "int8"}, "against_precision is 'int8'; expected auto, fp32, bf16"),
        ({"sizes": ("large",)}, "sizes has 'large'; expected pixels"),
        ({"sizes": (0,)}, "sizes has 0"),
        ({"calibration": "nowhere"}, "calibration is 'nowhere', which does not exist"),
        ({"calibration": "."}, "calibration is for precision int8; precisions is fp32"),
        ({"batches": 8}, "batches is 8; expected a list of at least one"),
        ({"against": "jax"}, "against is 'jax'; expected all, transformers, timm, official"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_built(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", "\\(")):
        bench(**{**SETTINGS, **changes})


@pytest.mark.parametrize("models", [3, b"x", [3], None])
def test_models_are_named(models: Any) -> None:
    with pytest.raises(TypeError, match="expected names of variants or checkpoints"):
        hierax.bench(models)


def test_a_model_that_cannot_be_opened_is_refused_before_the_others_are_measured() -> None:
    told: list[str] = []
    with pytest.raises((ValueError, OSError), match="nowhere"):
        bench(["hiera_tiny_224", "./nowhere"], **SETTINGS, progress=lambda text, _: told.append(text))
    assert told == []


def test_each_backend_runs_the_precisions_that_it_has() -> None:
    found = settings(precisions=("fp32", "int8"), backends=("torch", "openvino", "auto")).engines
    assert found == (("fp32", "torch"), ("fp32", "openvino"), ("int8", "openvino"))


def test_a_backend_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda module: False)
    with pytest.raises(ImportError, match=r"pip install 'openvino>=2025.4'"):
        settings(backends=("openvino",))


def test_sizes_are_squares_or_rows_by_columns() -> None:
    assert settings(sizes="320x448").sizes == ("320x448",)
    assert settings(sizes=448).sizes == ("448",)
    assert settings(sizes=[448, (320, 448)]).sizes == ("448", "320x448")
    assert parse_size("", (224, 224), video=False) == (224, 224)
    assert parse_size("64", (224, 224), video=False) == (64, 64)
    assert parse_size("64x96", (224, 224), video=False) == (64, 96)
    assert parse_size("64", (16, 224, 224), video=True) == (16, 64, 64)
    with pytest.raises(ValueError, match="takes 3 axes"):
        parse_size("64x96", (16, 224, 224), video=True)


def test_the_command_of_a_run_says_what_it_measured() -> None:
    command = settings(sizes=("64", (64, 96)), against=("transformers",), memory=True).command
    assert command == (
        "hierax bench --model hiera_tiny_224 --batch-size 2 --precision fp32 --backend torch --size 64,64x96 "
        "--against transformers --seconds 0 --rounds 2 --threads 1"
    )


# -- the published implementations ------------------------------------------------------------------------------------


def test_one_that_is_named_must_import_and_all_takes_what_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "hiera", ModuleType("hiera"))
    assert "timm" not in peers.importable(["all"])
    assert "official" in peers.importable(["all"])
    with pytest.raises(
        ImportError,
        match=r"^against 'timm' needs the package timm: pip install 'timm>=1.0.31' \(part of hierax\[timm\]\)$",
    ):
        peers.importable(["timm", "all"])


def test_one_that_lacks_a_package_of_its_own_names_that(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "hiera.py").write_text("import timm\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        ImportError,
        match=r"^against 'official' needs the package timm: pip install 'timm>=1.0.31' \(part of hierax\[timm\]\)$",
    ):
        peers.importable(["official"])


@pytest.mark.parametrize("name", ["tiny", "base_plus"])
@pytest.mark.parametrize("mae", [False, True])
def test_transformers_is_built_at_the_same_size(name: str, mae: bool) -> None:
    with torch.device("meta"):
        ours = hierax.create_model(f"{'mae_' if mae else ''}hiera_{name}_224")
        theirs = peers.PEERS["transformers"](name, mae)
    # MAE: both positions of transformers' decoder and encoder are counted as ours
    assert sum(p.numel() for p in theirs.parameters()) == pytest.approx(ours.num_parameters(), rel=2e-3)


@pytest.mark.peers
@pytest.mark.parametrize("library", ["timm", "official"])
def test_the_others_are_built_at_the_same_size(library: str) -> None:
    pytest.importorskip(peers._MODULES[library])
    theirs = peers.PEERS[library]("tiny", False)
    ours = hierax.create_model("hiera_tiny_224")
    assert sum(p.numel() for p in theirs.parameters()) == ours.num_parameters()


def test_they_know_variants_of_pictures_at_their_own_size_only() -> None:
    assert peers.architecture("hiera_base_plus_224", (224, 224)) == "base_plus"
    assert peers.architecture("hiera_tiny_224", (224, 256)) is None
    for name in ("mae_hiera_tiny_224", "hiera_base_16x224", "hiera_small_abswin_256", "a/folder"):
        assert peers.architecture(name, (224, 224)) is None


def test_who_takes_part_and_who_does_not_is_said() -> None:
    known = Subject("hiera_tiny_224", "", 1)
    wanted = settings(precisions=("fp32", "bf16"), against=("transformers",))
    contenders, notes = measure.select_contenders(known, (224, 224), wanted)
    assert [str(c) for c in contenders] == [
        "hierax torch fp32",
        "hierax torch bf16",
        "hierax eager fp32",
        "transformers eager fp32",
        "transformers eager bf16",
    ]
    assert notes == []
    contenders, notes = measure.select_contenders(known, (64, 64), wanted)
    assert {c.library for c in contenders} == {"hierax"}
    assert notes == ["hiera_tiny_224 at 64x64 pixels: not among what transformers build by name"]
