"""Labels as numbers, lists or shares, and lists of strings in one piece of memory."""

import pickle
from typing import Any

import numpy as np
import pytest

from hierax.data.labels import read_labels
from hierax.data.strings import Strings


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2, 0], [2, 0]),
        (np.array([2, 0], np.int32), [2, 0]),
        ([[2], [0, 1]], [[0, 0, 1], [1, 1, 0]]),
        ([[0.0, 0.25], [1, 0]], [[0, 0.25], [1, 0]]),
        ([[True, False], [True, True]], [[1, 0], [1, 1]]),
        ([np.array([0, 1]), np.array([1])], [[1, 1], [0, 1]]),
        (np.array([[2], [0]], np.uint8), [2, 0]),  # as datasets of Keras have them
        (["dog", " cat "], [1, 0]),
        (["10", "9"], [1, 0]),  # names, sorted as numbers
        (np.array([["b"], ["a"]]), [1, 0]),
        ([["cat", "dog"], ["dog"]], [[1, 1], [0, 1]]),
        ([["cat"], []], [[1], [0]]),
    ],
)
def test_labels_are_numbers_lists_of_numbers_or_shares(values: Any, expected: list[Any]) -> None:
    found = read_labels(values, name="x")
    assert found is not None
    assert len(found) == 2
    assert [np.asarray(found[i]).tolist() for i in range(2)] == expected


def test_the_names_of_classes_are_kept() -> None:
    for values in (["dog", "cat"], [["dog", "cat"], ["cat"]]):
        found = read_labels(values, name="x")
        assert found is not None
        assert found.class_names == ("cat", "dog")
    numbers = read_labels([2, 0], name="x")
    assert numbers is not None
    assert numbers.class_names == ("0", "1", "2")


@pytest.mark.parametrize("values", [[None, None], [-1, -1], [], ["", None]])
def test_labels_that_nobody_gave_are_none(values: list[Any]) -> None:
    assert read_labels(values, name="x") is None


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([0, -1], "the label of sample 1 is -1; expected the name of its class, or its number as an integer"),
        ([0, "cat"], "the label of sample 0 is 0, but others are texts; expected the name of its class"),
        (["cat", ["dog"]], r"the label of sample 1 is \['dog'\], but others are texts"),
        ([["cat"], [0]], r"the label of sample 1 is \[0\], but others are lists of texts"),
        ([["cat", "cat"]], r"the label of sample 0 is \['cat', 'cat'\], with a name twice"),
        ([["a", "b"], ["b", "a"]], "all samples have all 2 classes, so there is nothing to learn$"),
        (["cat", " "], "1 of 2 samples have no label, such as sample 1"),
        ([0, [1]], "some labels are numbers, others lists; expected one kind for all samples"),
        ([[0, 1, 0]], r"the label of sample 0 is \[0, 1, 0\], with a number twice or below 0"),
        ([[-1]], "a number twice or below 0"),
        ([[0.5], [0.5, 0.5]], "that of sample 0"),
        ([[0.5, 1.5]], r"\[0.5, 1.5\]; expected .* floats 0 to 1"),
        ([[float("nan")]], "nan"),
        ([0.5, 1.0], "the label of sample 0 is 0.5"),
        (np.array([1.0, 0.0]), "the label of sample 0 is 1.0; expected the name of its class, or its number as an"),
        (np.eye(2, dtype=np.int64), "all samples have all 2 classes, so there is nothing to learn. .* write floats"),
        ([0, 10**9], "a label is 1000000000; expected numbers of classes, from 0 to at most 999,999"),
        ([[0], [10**9]], "a label is 1000000000; expected numbers of classes"),
    ],
)
def test_labels_that_mean_nothing_are_named(values: list[Any], problem: str) -> None:
    with pytest.raises(ValueError, match=f"^x: .*{problem}"):
        read_labels(values, name="x")


def test_packed_strings_are_a_list_of_them() -> None:
    strings = ["", "a", "ä/ö", "\udcff", "a" * 1000, ""]
    packed = pickle.loads(pickle.dumps(Strings(strings)))
    assert (list(packed), packed[-2], len(packed)) == (strings, "a" * 1000, 6)
    assert len(Strings([])) == 0
    for index in (6, -7):
        with pytest.raises(IndexError, match="out of range: there are 6"):
            packed[index]
