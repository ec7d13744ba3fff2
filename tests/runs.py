"""Fixtures for the tests of runs, loaded as a plugin: data, and a pretraining run on them."""

from pathlib import Path

import pytest

from hierax.train import pretrain
from training import held, pictures


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of eight pictures, of which `held` holds a quarter out."""
    return pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="session")
def pretrained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(data, out=tmp_path_factory.mktemp("runs") / "mae", recipe=held(), device="cpu", quiet=True)
