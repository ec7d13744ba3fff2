"""Labels of a whole dataset: one class per sample, several classes, or a share of each class."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Label: TypeAlias = "int | np.ndarray"
"""The number of a class, or float32 `[classes]` where several may be true."""

_EXPECTED = (
    "expected the name of its class, or its number as an integer; a list of such names or numbers; or a list of floats "
    "0 to 1, one per class"
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
        names: names of the classes, if the labels are texts.
    """

    classes: int
    numbers: np.ndarray | None = None
    ends: np.ndarray | None = None
    shares: np.ndarray | None = None
    names: tuple[str, ...] | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes; if they have none, their numbers."""
        return self.names or tuple(map(str, range(self.classes)))

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

    A whole number or a text is a class. A list of whole numbers or of texts names several classes, a list of floats or
    booleans gives each class its share. An array of one column of whole numbers or texts has one class per sample.

    Raises:
        ValueError: a label is a negative number, a number is too large for a class, some samples have no label, labels
            differ in kind, lists differ in length, or all samples have all classes.
    """
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iub":
        return _single(values, name)
    if isinstance(values, np.ndarray) and values.shape[1:] == (1,) and values.dtype.kind in "iuU":
        return read_labels(values[:, 0], name=name)
    rows = [value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value for value in values]
    missing = [i for i, row in enumerate(rows) if row is None or (isinstance(row, str) and not row.strip())]
    if missing:
        if len(missing) < len(rows):
            raise ValueError(
                f"{name}: {len(missing)} of {len(rows)} samples have no label, such as sample {missing[0]}; "
                "expected one for each sample, or for none"
            )
        return None
    if all(_is_number(row) for row in rows):
        return _single(np.fromiter(rows, np.int64, len(rows)), name)
    if any(isinstance(row, str) or _names_classes(row) for row in rows):
        return _named(rows, name)
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


def _names_classes(row: object) -> bool:
    return (
        isinstance(row, (list, tuple)) and bool(row) and all(isinstance(value, str) and value.strip() for value in row)
    )


def _named(rows: Sequence[Any], name: str) -> Labels:
    """Labels that are texts, or lists of texts."""
    several = not any(isinstance(row, str) for row in rows)
    for i, row in enumerate(rows):
        if not (_names_classes(row) or row in ([], ()) if several else isinstance(row, str)):
            kind = "lists of texts" if several else "texts"
            raise ValueError(f"{name}: the label of sample {i} is {_short(row)}, but others are {kind}; {_EXPECTED}")
    numbers, classes = number_names([text.strip() for row in rows for text in (row if several else [row])])
    if not several:
        return Labels(len(classes), numbers, names=classes)
    ends = np.cumsum([len(row) for row in rows])
    lists = [part.tolist() for part in np.split(numbers, ends[:-1])]
    return dataclasses.replace(_lists(lists, name, shown=rows), names=classes)


def number_names(names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The number of the class of each name, int64 `[N]`, and the names of the classes, sorted: as numbers, if all are
    numbers.
    """
    found = set(names)
    numeric = all(name.isdecimal() for name in found)
    classes = tuple(sorted(found, key=lambda name: (int(name), name) if numeric else (0, name)))
    number = {name: i for i, name in enumerate(classes)}
    return np.fromiter((number[name] for name in names), np.int64, len(names)), classes


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


def _lists(rows: Iterable[Sequence[int]], name: str, *, shown: Sequence[Any] | None = None) -> Labels:
    """Labels that are lists of numbers; `shown` are the labels for errors, if they are texts."""
    flat: list[int] = []
    ends: list[int] = []
    for i, row in enumerate(rows):
        if len(set(row)) < len(row) or min(row, default=0) < 0:
            # most likely, [0, 1, 0] was meant as one number per class
            given, problem = (row, "a number twice or below 0") if shown is None else (shown[i], "a name twice")
            raise ValueError(f"{name}: the label of sample {i} is {_short(given)}, with {problem}; {_EXPECTED}")
        flat += row
        ends.append(len(flat))
    numbers = np.array(flat, np.int64)
    classes = _count_classes(numbers, name)
    if len(ends) > 1 and classes > 1 and len(flat) == classes * len(ends):  # most likely, one number per class
        hint = "" if shown else ". If each list has one number per class, 0 or 1, write floats"
        raise ValueError(f"{name}: all samples have all {classes} classes, so there is nothing to learn{hint}")
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
