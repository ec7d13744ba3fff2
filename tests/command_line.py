"""Fixtures for the command line, loaded as a plugin: tiny models, a folder with pictures, and running a command."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hierax
from hierax.cli import main
from hierax.processing import KINETICS
from small import image_config, randomize, video_config

TINY: dict[str, Any] = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "image_size": 64}
LABELS = {0: "tabby, tabby cat", 1: "tench", 2: "crane", 3: "zebra", 4: "volcano"}


def save(model: Any, folder: Path) -> str:
    torch.manual_seed(0)
    model.init_weights()
    record = KINETICS.replace(num_frames=8) if model.config.is_video else hierax.Preprocessing()
    model.preprocessing = record.replace(size=72, crop_size=64)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    model = hierax.create_model("hiera_tiny_224", **TINY, id2label=LABELS, license="CC-BY-NC-4.0")
    return save(model, tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="session")
def mae_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    decoder = {"decoder_hidden_size": 16, "decoder_depth": 1, "decoder_num_heads": 2}
    return save(hierax.create_model("mae_hiera_tiny_224", **TINY, **decoder), tmp_path_factory.mktemp("mae"))


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(hierax.HieraForVideoClassification(video_config()), tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="session")
def segmenter_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that finds several of its five classes in noise, with the record that training writes."""
    model = hierax.HieraForSemanticSegmentation(image_config(id2label=LABELS, segmentation_hidden_size=16))
    torch.manual_seed(0)
    randomize(model, 0.3)
    model.preprocessing = hierax.Preprocessing().at(64).whole(64)
    folder = tmp_path_factory.mktemp("segmenter")
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, with four pictures, a text and a hidden picture below it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HIERAX_DEBUG", raising=False)
    generator = np.random.default_rng(0)
    for name in ("a/cat.jpg", "b/cat.jpg", "b/dog.png", "b/deep/owl.webp", "b/.hidden.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (80, 100, 3), dtype=np.uint8)).save(name)
    Path("notes.txt").write_text("a list of things\n")
    return tmp_path


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(here: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("classify", "a.jpg", …)` returns the exit code, stdout and stderr."""

    def command(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        written = capsys.readouterr()
        return code, written.out, written.err

    return command
