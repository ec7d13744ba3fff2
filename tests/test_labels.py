import re

import pytest

from hierax.checkpoint.class_names import LABEL_SETS, load_labels


@pytest.mark.parametrize(("name", "count"), [("imagenet-1k", 1000), ("kinetics-400", 400)])
def test_there_is_one_name_per_class(name: str, count: int) -> None:
    assert len(load_labels(name)) == count


@pytest.mark.parametrize(
    ("index", "lemmas"),
    [
        (0, "tench, Tinca tinca"),
        (281, "tabby, tabby cat"),
        (388, "giant panda, panda, panda bear, coon bear, Ailuropoda melanoleuca"),
        (639, "maillot, tank suit"),
        (999, "toilet tissue, toilet paper, bathroom tissue"),
    ],
)
def test_imagenet_names_are_wordnet_lemmas_in_the_order_of_the_logits(index: int, lemmas: str) -> None:
    assert load_labels("imagenet-1k")[index] == lemmas


def test_kinetics_names_are_in_alphabetical_order() -> None:
    names = load_labels("kinetics-400")
    assert list(names) == sorted(names)
    assert (names[0], names[399]) == ("abseiling", "zumba")


@pytest.mark.parametrize("name", LABEL_SETS)
def test_names_hold_words_and_single_spaces_only(name: str) -> None:
    word = r"[A-Za-z0-9().'-]+,?"
    bad = [label for label in load_labels(name) if not re.fullmatch(rf"{word}( {word})*", label)]
    assert bad == []


def test_only_the_two_cranes_share_a_name() -> None:
    for name in LABEL_SETS:
        labels = load_labels(name)
        shared = [i for i, label in enumerate(labels) if labels.count(label) > 1]
        assert shared == ([134, 517] if name == "imagenet-1k" else [])


def test_an_unknown_label_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'imagenet'; expected one of imagenet-1k, kinetics-400"):
        load_labels("imagenet")


def test_labels_are_read_once() -> None:
    assert load_labels("imagenet-1k") is load_labels("imagenet-1k")
