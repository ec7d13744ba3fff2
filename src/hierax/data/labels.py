"""Labels of a whole dataset: one class per sample, several classes, or a share of each class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Label: TypeAlias = "int | np.ndarray"
"""The number of a class, or float32 `[classes]` where several may be true."""

_EXPECTED = (
    "expected the number of its class as an integer; a list of such numbers; or a list of floats 0 to 1, one per class"
)

_REAL = (bool, int, float, np.number)
_MOST_CLASSES = 1_000_000  # a larger number is an identifier of something else


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of a dataset.

    Attributes:
        classes: number of classes.
        numbers: int64 `[N]`, class numbers; if samples have lists of numbers, all lists in one array.
        ends: int64 `[N]`, where the list of each sample ends in that array; None if each sample has one number.
        shares: float32 `[N, classes]` instead of numbers.
    """

    classes: int
    numbers: np.ndarray | None = None
    ends: np.ndarray | None = None
    shares: np.ndarray | None = None

    def __len__(self) -> int:
        found = next(values for values in (self.shares, self.ends, self.numbers) if values is not None)
        return len(found)

    def __getitem__(self, index: int) -> Label:
        if self.shares is not None:
            return self.shares[index]
        assert self.numbers is not None
        if self.ends is None:
            return int(self.numbers[index])
        one_hot = np.zeros(self.classes, np.float32)
        one_hot[self.numbers[self.ends[index - 1] if index else 0 : self.ends[index]]] = 1
        return one_hot

    def single(self) -> np.ndarray | None:
        """The number of each sample's class, int64 `[N]`; None if samples may have several."""
        return None if self.shares is not None or self.ends is not None else self.numbers


def read_labels(values: Sequence[Any] | np.ndarray, *, name: str) -> Labels | None:
    """The labels of a dataset called `name`; None if all are None, or -1, with which the Hub marks hidden labels.

    A whole number is a class. A list of whole numbers names several classes, a list of floats or booleans gives each
    class its share. An array of one column of whole numbers has one class per sample.

    Raises:
        ValueError: a label is a text or a negative number, a number is too large for a class, some samples have no
            label, lists differ in kind or length, or all samples have all classes.
    """
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iub":
        return _single(values, name)
    if isinstance(values, np.ndarray) and values.shape[1:] == (1,) and values.dtype.kind in "iu":
        return _single(values[:, 0], name)
    rows = [value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value for value in values]
    missing = [i for i, row in enumerate(rows) if row is None]
    if missing:
        if len(missing) < len(rows):
            raise ValueError(
                f"{name}: {len(missing)} of {len(rows)} samples have no label, such as sample {missing[0]}; "
                "expected one for each sample, or for none"
            )
        return None
    if all(_is_number(row) for row in rows):
        return _single(np.fromiter(rows, np.int64, len(rows)), name)
    for i, row in enumerate(rows):
        if not _is_number(row) and not (isinstance(row, (list, tuple)) and all(isinstance(v, _REAL) for v in row)):
            raise ValueError(f"{name}: the label of sample {i} is {_short(row)}; {_EXPECTED}")
    if any(_is_number(row) for row in rows):
        raise ValueError(f"{name}: some labels are numbers, others lists; expected one kind for all samples")
    if all(_is_number(value) for row in rows for value in row):
        return _lists(rows, name)
    return _shares(rows, name)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _single(numbers: np.ndarray, name: str) -> Labels | None:
    numbers = numbers.astype(np.int64)
    if not len(numbers) or (numbers == -1).all():
        return None
    if numbers.min() < 0:
        where = int(numbers.argmin())
        raise ValueError(f"{name}: the label of sample {where} is {numbers[where]}; {_EXPECTED}")
    return Labels(_count_classes(numbers, name), numbers)


def _lists(rows: Iterable[Sequence[int]], name: str) -> Labels:
    flat: list[int] = []
    ends: list[int] = []
    for i, row in enumerate(rows):
        if len(set(row)) < len(row) or min(row, default=0) < 0:
            # most likely, [0, 1, 0] was meant as one number per class
            raise ValueError(
                f"{name}: the label of sample {i} is {_short(row)}, with a number twice or below 0; {_EXPECTED}"
            )
        flat += row
        ends.append(len(flat))
    numbers = np.array(flat, np.int64)
    classes = _count_classes(numbers, name)
    if len(ends) > 1 and classes > 1 and len(flat) == classes * len(ends):  # most likely, one number per class
        raise ValueError(
            f"{name}: all samples have all {classes} classes, so there is nothing to learn. If each list has one "
            "number per class, 0 or 1, write floats"
        )
    return Labels(classes, numbers, np.array(ends, np.int64))


def _count_classes(numbers: np.ndarray, name: str) -> int:
    """The number of classes with these numbers, of which the largest is the last."""
    classes = int(numbers.max(initial=-1)) + 1
    if classes > _MOST_CLASSES:
        raise ValueError(
            f"{name}: a label is {classes - 1}; expected numbers of classes, from 0 to at most {_MOST_CLASSES - 1:,}"
        )
    return classes


def _shares(rows: list[Sequence[float]], name: str) -> Labels:
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(f"{name}: the label of sample {i} has {len(row)} values, that of sample 0 {len(rows[0])}")
    shares = np.array(rows, np.float32)
    wrong = ~((shares >= 0) & (shares <= 1)).all(1)
    if wrong.any():
        where = int(wrong.argmax())
        raise ValueError(f"{name}: the label of sample {where} is {_short(rows[where])}; {_EXPECTED}")
    return Labels(shares.shape[1], shares=shares)
