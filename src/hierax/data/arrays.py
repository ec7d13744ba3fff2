"""Arrays in `.npy` files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hierax.data.dataset import Sample
from hierax.data.labels import Labels, read_labels
from hierax.processing.paths import check_regular
from hierax.reprs.text import dataset_repr

_MOST_COLORS = 4  # a longer first axis and a last axis of at most this length are height, width and channels


@dataset_repr
@dataclass(frozen=True, eq=False)
class ArrayDataset:
    """An array `[N, C, *size]` in a `.npy` file, memory-mapped; labels in `NAME.labels.npy` beside `NAME.npy`."""

    path: str
    count: int
    values: Labels | None = None
    arrays: bool = True
    videos: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """See `Dataset`: their numbers."""
        return () if self.values is None else self.values.class_names

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int) -> Sample:
        """See `Dataset`."""
        label = None if self.values is None else self.values[index]
        return Sample(f"{self.path}[{index}]", map_array(self.path)[index], label)

    def labels(self) -> list[int] | None:
        """See `Dataset`."""
        single = None if self.values is None else self.values.single()
        return None if single is None else single.tolist()


def map_array(path: str | Path) -> np.ndarray:
    """The array of numbers in a file, memory-mapped.

    Raises:
        ValueError: the file holds something else.
    """
    check_regular(path)
    try:
        array = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"not an array that numpy can map: {' '.join(str(error).split())}") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise ValueError(f"holds {getattr(array, 'dtype', 'several arrays')}; expected an array of numbers")
    return array


def check_channels_first(shape: Sequence[int], *, name: str) -> None:
    """Raises `ValueError` if the channels of one sample seem to be its last axis, as in arrays of images elsewhere."""
    if len(shape) > 1 and shape[-1] <= _MOST_COLORS < shape[0]:
        axes = ", ".join(map(str, shape))
        raise ValueError(
            f"{name}: samples have the shape [{axes}], so that the channels seem to be the last axis; expected "
            "[channels, *size] (numpy.moveaxis(array, -1, 1) moves the last axis of an array of samples)"
        )


def open_array(path: Path, *, labels: bool) -> ArrayDataset:
    """The samples of an array `[N, C, *size]`, with the labels beside it.

    Raises:
        ValueError: it has another shape, its channels are the last axis, or there is another number of labels.
    """
    try:
        array = map_array(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if array.ndim < 3 or not array.size:
        raise ValueError(
            f"{path} holds an array of shape {list(array.shape)}; expected [N, channels, *size], with samples in it"
        )
    check_channels_first(array.shape[1:], name=str(path))
    beside = path.with_name(f"{path.stem}.labels.npy")
    if not labels or not beside.is_file():
        return ArrayDataset(str(path), len(array))
    try:
        values = np.atleast_1d(np.load(beside))
    except (ValueError, EOFError) as error:
        raise ValueError(f"{beside}: not an array: {' '.join(str(error).split())}") from None
    if len(values) != len(array):
        raise ValueError(f"{beside} holds {len(values)} labels for {len(array)} samples")
    return ArrayDataset(str(path), len(array), read_labels(values, name=str(beside)))
