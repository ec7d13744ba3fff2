"""What all tests stand on: no network, and models small enough to be saved and loaded in milliseconds."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before the Hub's client is first imported; commands that tests start inherit it
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

# helpers that are plugins too: an assertion that fails in them shows what it compared, as it does in a test
pytest.register_assert_rewrite("benches", "engines", "exports", "pictures")


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """`saved(cls, config, dialect=…, **arguments)` saves a model with random weights and returns its folder.

    `arguments` are passed to the class.
    """
    from hierax.checkpoint.save import save_model
    from small import randomise

    def save(cls: Any, config: Any, *, dialect: str = "transformers", **arguments: Any) -> Path:
        folder = tmp_path / f"{cls.__name__}-{sum(1 for _ in tmp_path.iterdir())}"
        model: Any = randomise(cls(config, **arguments)).eval()
        save_model(model, folder, dialect=dialect)
        return folder

    return save


@pytest.fixture
def features(saved: Callable[..., Path]) -> Path:
    """A folder with a small `HieraModel`."""
    from hierax import HieraModel
    from small import image_config

    return saved(HieraModel, image_config())


@pytest.fixture
def classifier(saved: Callable[..., Path]) -> Path:
    """A folder with a small image classifier of five classes."""
    from hierax import HieraForImageClassification
    from small import image_config

    return saved(HieraForImageClassification, image_config())


@pytest.fixture
def mae(saved: Callable[..., Path]) -> Path:
    """A folder with a small MAE model."""
    from hierax import HieraForPreTraining
    from small import image_config

    return saved(HieraForPreTraining, image_config(num_query_pool=2))
