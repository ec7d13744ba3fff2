"""What the tests of opening datasets share."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hierax.data import Dataset, open_dataset
from samples import encoded, picture

PNG = encoded(picture())


def names(dataset: Dataset, folder: Path) -> list[str]:
    return [os.path.relpath(dataset.sample(i).name, folder) for i in range(len(dataset))]


def labels(dataset: Dataset) -> list[Any]:
    found = [dataset.sample(i).label for i in range(len(dataset))]
    return [label.tolist() if isinstance(label, np.ndarray) else label for label in found]


def refused(source: Any, *parts: str, **options: Any) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (what it says is looked at below)
        open_dataset(source, **options)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def survives(source: Any) -> None:
    """Checks that a dataset of two samples is the same in another process."""
    there = open_dataset(source)
    here = pickle.loads(pickle.dumps(there))
    assert (len(here), here.classes, here.labels()) == (2, there.classes, there.labels())
    assert np.array_equal(here.sample(1).content, there.sample(1).content)
