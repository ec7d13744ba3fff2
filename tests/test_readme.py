"""Programs and commands of the README and of the page of commands run as they stand; models are local folders."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import hierax
import hierax.model.config
from hierax.benchmark import measure
from hierax.cli import main
from hierax.model.config import VARIANTS, variant_config
from hierax.model.outputs import HieraModelOutput

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
PAGE = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README + PAGE, flags=re.DOTALL)
SHELL = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
TRAINING = "runs/first"  # tests/test_docs.py runs the lines with this folder
COMMANDS = [line for line in SHELL if line.startswith("hierax ") and TRAINING not in line]


SMALL: dict[str, Any] = {"depths": (1, 1, 1, 1), "decoder_hidden_size": 16, "decoder_depth": 1, "decoder_num_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photo.jpg` and every model the README names: of one block in each stage, with random weights.

    The one whose shapes the README prints is as wide as the published one.
    """
    place = tmp_path_factory.mktemp("newcomer")
    (place / "photos").mkdir()
    for photo in ("photo.jpg", "photos/0.jpg"):
        shutil.copy(ROOT / "src/hierax/assets/cat.jpg", place / photo)
    for name, variant, cls, width in (
        ("facebook/hiera-tiny-224-in1k-hf", "hiera_tiny_224", hierax.HieraForImageClassification, 8),
        ("facebook/hiera-small-224-hf", "hiera_small_224", hierax.HieraModel, 96),
        ("facebook/hiera-tiny-224-mae-hf", "mae_hiera_tiny_224", hierax.HieraForPreTraining, 8),
    ):
        model = cls(variant_config(name=variant, **SMALL, embed_dim=width))
        model.preprocessing = hierax.Preprocessing()
        model.save_pretrained(place / name)
    return place


@pytest.fixture(autouse=True)
def _small_architectures_and_an_own_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    small = {**SMALL, "embed_dim": 8, "global_blocks": ()}
    monkeypatch.setattr(hierax.model.config, "VARIANTS", {name: {**of, **small} for name, of in VARIANTS.items()})
    monkeypatch.setenv("HIERAX_CACHE", str(tmp_path_factory.getbasetemp() / "readme-cache"))


def test_the_readme_has_its_programs_and_commands() -> None:
    assert len(PYTHON) == 4
    assert {command.split()[1] for command in COMMANDS} == {
        "models", "classify", "features", "explain", "reconstruct", "convert", "export", "bench",
    }  # fmt: skip


def test_the_seeds_two_programs_run_with_only_the_import_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features, maps = PYTHON[2], PYTHON[3]
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(compile(features, "README features", "exec"), names)
    outputs: Any = names["outputs"]
    assert isinstance(outputs, HieraModelOutput)
    assert tuple(outputs.last_hidden_state.shape) == (1, 49, 768)
    exec(compile(maps, "README maps", "exec"), names)
    assert [tuple(m.shape) for m in names["feature_maps"]] == [
        (1, 96, 56, 56), (1, 192, 28, 28), (1, 384, 14, 14), (1, 768, 7, 7),
    ]  # fmt: skip


@pytest.mark.parametrize("number", [n for n in range(len(PYTHON)) if n not in (2, 3)])
def test_every_other_program_of_the_readme_runs(number: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    exec(compile(PYTHON[number], f"README program {number}", "exec"), {})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_two_pages_runs(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of a benchmark goes a hundred times as fast."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: 100 * time.perf_counter()))
    assert main(command.split()[1:]) == 0


def test_a_built_wheel_runs_the_demo_by_itself(tmp_path: Path) -> None:
    """The wheel has all it needs: code, labels, photo, type marker."""
    build = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-w"]
    subprocess.run([sys.executable, *build, str(tmp_path), str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("hierax-*.whl")
    site = tmp_path / "site"
    shutil.unpack_archive(wheel, site, "zip")
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import hierax; "
        "assert hierax.__file__.startswith(sys.path[0]), hierax.__file__; "
        "from hierax.checkpoint.class_names import load_labels; assert len(load_labels('imagenet-1k')) == 1000; "
        "from hierax.cli import main; sys.exit(main(['demo', '-o', sys.argv[1]]))"
    )
    subprocess.run([sys.executable, "-c", code, str(site), str(tmp_path / "demo")], check=True, capture_output=True)
    with Image.open(tmp_path / "demo" / "sheet.png") as sheet:
        assert sheet.width > 400
    assert (site / "hierax" / "py.typed").is_file()
