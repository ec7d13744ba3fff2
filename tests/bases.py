"""A plugin: a base model that adapters are made for."""

from pathlib import Path

import pytest
import torch

import hierax
from small import image_config, randomize


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of five classes, in a folder."""
    folder = tmp_path_factory.mktemp("bases") / "base"
    torch.manual_seed(0)
    model = hierax.HieraForImageClassification(image_config())
    randomize(model)
    model.save_pretrained(folder)
    return folder
