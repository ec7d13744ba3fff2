"""Training and validation set."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hierax.data import Dataset, open_splits
from hierax.data.dataset import Subset, relabel
from hierax.data.split import stratified_split
from hierax.notices import Notice
from samples import Listed, encoded, picture, write_pictures, write_tar
from small import fresh_seed

PNG = encoded(picture())


def chosen(dataset: Dataset | None) -> list[int]:
    assert isinstance(dataset, Subset)
    return [int(i) for i in dataset.indices]


def labeled(*sizes: int) -> Any:
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    order = np.random.default_rng(0).permutation(len(labels))
    return Listed([PNG] * len(labels), [labels[i] for i in order], classes=len(sizes))


def opened(source: Any, **options: Any) -> tuple[Dataset, Dataset | None]:
    return open_splits(source, **{"fraction": 0.0, "seed": 0, **options})


def test_every_sample_is_on_one_side() -> None:
    train, held = stratified_split(labeled(40, 31, 9), fraction=0.2, seed=fresh_seed())
    assert sorted(chosen(train) + chosen(held)) == list(range(80))
    assert len(chosen(held)) == 16


def test_a_seed_draws_the_same_samples_and_another_seed_others() -> None:
    sides = [chosen(stratified_split(labeled(40, 31), fraction=0.2, seed=seed)[1]) for seed in (3, 3, 4)]
    assert sides[0] == sides[1] != sides[2]


def test_every_class_gives_its_share() -> None:
    whole = labeled(50, 100, 20, 30)
    _, held = stratified_split(whole, fraction=0.1, seed=0)
    assert held is not None
    assert Counter(held.labels()) == {0: 5, 1: 10, 2: 2, 3: 3}


def test_classes_too_small_for_a_share_give_samples_in_turn() -> None:
    """A thousand classes of 4 samples, of which a tenth is drawn: 400 samples, of 400 classes."""
    _, held = stratified_split(labeled(*[4] * 1000), fraction=0.1, seed=0)
    assert held is not None
    counts = Counter(held.labels())
    assert (len(counts), sum(counts.values())) == (400, 400)


def test_the_last_sample_of_a_class_stays_in_training() -> None:
    train, held = stratified_split(labeled(1, 2, 30), fraction=0.9, seed=0)
    assert held is not None
    assert Counter(train.labels()) == {0: 1, 1: 1, 2: 2}


def test_few_samples_give_one() -> None:
    train, held = stratified_split(labeled(3), fraction=0.1, seed=0)
    assert (len(chosen(train)), len(chosen(held))) == (2, 1)


def test_samples_without_a_class_or_with_several_are_drawn_alike() -> None:
    several = [np.array([1, 0], np.float32)] * 20
    for whole in (Listed([PNG] * 20), Listed([PNG] * 20, None, classes=2), Listed([PNG] * 20, several)):
        whole.labels = lambda: None  # type: ignore[method-assign]
        assert len(chosen(stratified_split(whole, fraction=0.25, seed=0)[1])) == 5


def test_no_fraction_draws_nothing_and_all_is_too_much() -> None:
    whole = labeled(3)
    assert stratified_split(whole, fraction=0, seed=0) == (whole, None)
    for dataset, fraction in ((whole, 1.0), (labeled(1), 0.5)):
        with pytest.raises(ValueError, match=r"validation_fraction is .* leaves one of the two sets empty"):
            stratified_split(dataset, fraction=fraction, seed=0)


# -- as given ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["val", "validation", "valid", "test"])
def test_what_is_beside_train_is_validated_on(tmp_path: Path, name: str) -> None:
    train, held = opened(write_pictures(tmp_path, "train/a/1.png", "train/b/2.png", f"{name}/b/3.png"))
    assert held is not None
    assert (train.labels(), held.labels()) == ([0, 1], [1])
    assert held.classes == train.classes == ("a", "b")
    assert held.sample(0).label == 1


def test_train_alone_is_drawn_from(tmp_path: Path) -> None:
    train, held = opened(write_pictures(tmp_path, *(f"train/a/{i}.png" for i in range(4))), fraction=0.25)
    assert (len(train), train.classes, held and len(held)) == (3, ("a",), 1)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    train, held = opened(write_pictures(tmp_path, "plane/1.png", "train/2.png"))
    assert (train.classes, held) == (("plane", "train"), None)


def test_validation_may_lie_elsewhere(tmp_path: Path) -> None:
    write_pictures(tmp_path / "one", "train/a/1.png", "train/b/1.png", "val/a/2.png")
    write_pictures(tmp_path / "two", "b/1.png")
    train, held = opened(tmp_path / "one", validation=tmp_path / "two", fraction=0.5)
    assert held is not None
    assert (train.labels(), held.labels()) == ([0, 1], [1])


def test_validation_with_unknown_classes_is_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/2.png", "val/c/2.png")
    with pytest.raises(ValueError, match="validation does not fit the training set: unknown classes c; known are a, b"):
        opened(tmp_path)


def test_validation_may_lack_labels(tmp_path: Path) -> None:
    _, held = opened(write_pictures(tmp_path, "train/a/1.png", "train/b/1.png", "val/2.png"))
    assert held is not None
    assert (held.labels(), held.sample(0).label) == (None, None)


def test_training_may_lack_the_labels_that_validation_has(tmp_path: Path) -> None:
    train, held = opened(write_pictures(tmp_path, "train/1.png", "val/a/2.png"))
    assert held is not None
    assert (train.classes, held.classes) == ((), ("a",))


def test_shards_of_validation_keep_their_numbers(tmp_path: Path) -> None:
    """And where samples have several labels, as many as training has."""
    for kind, train_labels, label in (("cls", (0, 3), 1), ("json", ([0, 3], [1]), [1])):
        label_of = (lambda x: x) if kind == "cls" else (lambda x: {"label": x})
        folder = tmp_path / kind
        for name, values in (("train", train_labels), ("val", (label,))):
            (folder / name).mkdir(parents=True)
            members = {f"{i}.png": PNG for i in range(len(values))}
            write_tar(
                folder / name / "0.tar", members | {f"{i}.{kind}": label_of(value) for i, value in enumerate(values)}
            )
        train, held = opened(folder)
        assert held is not None
        assert held.classes == train.classes == ("0", "1", "2", "3")
        assert np.asarray(held.sample(0).label).tolist() == (1 if kind == "cls" else [0, 1, 0, 0])


def test_other_numbers_are_given_by_name() -> None:
    whole = Listed([PNG] * 2, [1, 0], classes=2)
    found = relabel(whole, ("class 1", "x", "class 0"), numbered=False)
    assert (found.labels(), [found.sample(i).label for i in range(2)]) == ([0, 2], [0, 2])
    several = Listed([PNG], [np.array([0.25, 1], np.float32)], classes=2)
    found = relabel(several, ("class 1", "x", "class 0"), numbered=False)
    assert np.asarray(found.sample(0).label).tolist() == [1, 0, 0.25]


@pytest.mark.parametrize(
    ("classes", "own", "numbers"),
    [
        (("-1", "0", "1"), ("0", "1"), (1, 2)),
        (("0", "0.5", "1"), ("0", "1"), (0, 2)),
        (("0", "1", "10", "2", "unknown"), ("0", "1", "2"), (0, 1, 3)),
        (("cat", "dog", "bird"), ("cat", "1", "bird"), (0, 1, 2)),  # no sample names the class 1
        (("cat", "dog", "bird"), ("0", "1"), (0, 1)),
        (("crane", "dog", "crane"), ("crane", "dog"), (0, 1)),
        (("dog", "cat"), ("cat", "dog"), (1, 0)),
    ],
)
def test_a_number_is_a_name_if_there_is_a_class_of_that_name(
    classes: tuple[str, ...], own: tuple[str, ...], numbers: tuple[int, ...]
) -> None:
    listed = Listed([PNG] * len(own), list(range(len(own))), classes=len(own))
    listed.classes = own
    assert relabel(listed, classes, numbered=True).labels() == list(numbers)


@pytest.mark.parametrize(
    ("classes", "own", "problem"),
    [
        (("0", "1", "9"), ("0", "1", "2"), "unknown classes 2"),
        (("crane", "dog", "crane"), ("dog", "crane"), "there are several classes crane; expected one of each name"),
        (("cat", "dog"), ("cat", "1", "bird"), "unknown classes 1, bird"),
    ],
)
def test_classes_that_do_not_fit_are_named(classes: tuple[str, ...], own: tuple[str, ...], problem: str) -> None:
    listed = Listed([PNG] * len(own), list(range(len(own))), classes=len(own))
    listed.classes = own
    with pytest.raises(ValueError, match=problem):
        relabel(listed, classes, numbered=True)


def test_shards_of_validation_may_lack_a_class_that_has_a_name(tmp_path: Path) -> None:
    names = ("cat", "dog", "bird")
    for part, numbers in (("train", (0, 1, 2)), ("val", (2, 0))):
        labels = {f"{i}.json": {"label": label, "class_name": names[label]} for i, label in enumerate(numbers)}
        (tmp_path / part).mkdir()
        write_tar(tmp_path / part / "0.tar", {f"{i}.png": PNG for i in range(len(numbers))} | labels)
    train, held = opened(tmp_path)
    assert held is not None
    assert (held.classes, held.labels()) == (train.classes, [2, 0])


def test_subsets_are_their_samples() -> None:
    whole = labeled(5, 5)
    part = Subset(whole, np.array([7, 2]))
    assert (len(part), part.classes, part.arrays) == (2, whole.classes, False)
    assert [part.sample(i).name for i in range(2)] == ["s7", "s2"]
    labels = whole.labels()
    assert part.labels() == [labels[7], labels[2]]


def test_validation_may_have_any_classes_where_labels_are_not_asked_for(tmp_path: Path) -> None:
    write_pictures(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/2.png", "val/c/2.png")
    train, held = opened(tmp_path, labels=False)
    assert held is not None
    assert (len(train), len(held)) == (2, 2)


PAIRS = (
    ("Training", "Testing"), ("Train", "Val"), ("train", "dev"), ("TRAIN", "VALID"), ("trn", "tst"), ("train", "eval"),
    ("train_set", "test_set"), ("training-data", "validation-data"), ("train2017", "val2017"), ("train", "Development"),
)  # fmt: skip


def class_folders(place: Path) -> None:
    for name in ("cat", "dog"):
        (place / name).mkdir(parents=True)
        for number in range(2):
            (place / name / f"{number}.png").write_bytes(PNG)


@pytest.mark.parametrize("names", PAIRS)
def test_the_usual_names_of_splits_are_splits_and_no_classes(names: tuple[str, str], tmp_path: Path) -> None:
    for name in names:
        class_folders(tmp_path / name)
    train, held = open_splits(tmp_path, fraction=0.5, seed=0)
    assert held is not None
    assert (train.classes, held.classes, len(train), len(held)) == (("cat", "dog"), ("cat", "dog"), 4, 4)
    assert Path(train.sample(0).name).parent.parent.name == names[0]


def test_of_several_splits_beside_a_training_set_one_to_validate_on_comes_first(tmp_path: Path) -> None:
    for name in ("Train", "test", "valid"):
        class_folders(tmp_path / name)
    held = open_splits(tmp_path, fraction=0.5, seed=0)[1]
    assert held is not None
    assert Path(held.sample(0).name).parent.parent.name == "valid"


@pytest.mark.parametrize("names", [("siteA", "siteB"), ("val", "test"), ("first", "second", "third")])
def test_folders_that_hold_the_same_folders_are_not_taken_for_classes(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        class_folders(tmp_path / name)
    with pytest.raises(ValueError, match=r"hold folders of the same names \(cat, dog\).*--validation.*list \(\.csv\)"):
        open_splits(tmp_path, fraction=0.5, seed=0)
    assert len(open_splits(tmp_path, fraction=0, seed=0, labels=False)[0]) == 4 * len(names), "no labels, no question"


def test_classes_with_folders_of_their_own_are_classes(tmp_path: Path) -> None:
    for name, inner in (("cat", "indoors"), ("dog", "outdoors"), ("train", "steam")):
        class_folders(tmp_path / name / inner)
    assert open_splits(tmp_path, fraction=0, seed=0)[0].classes == ("cat", "dog", "train")


def test_two_training_sets_are_a_question(tmp_path: Path) -> None:
    for name in ("training", "train_set", "val"):
        class_folders(tmp_path / name)
    with pytest.raises(ValueError, match="holds 2 training sets, train_set and training; expected one"):
        open_splits(tmp_path, fraction=0, seed=0)


def listed(folder: Path, rows: str) -> Path:
    """A list with the header path,label,split."""
    (folder / "list.csv").write_text(f"path,label,split\n{rows}")
    return folder / "list.csv"


TRAINED = "a.png,x,train\nb.png,y,train\n"


@pytest.mark.parametrize("word", ["holdout", "internal_test", "fold1", ""])
def test_rows_of_a_list_that_may_be_held_out_are_not_trained_on(word: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"the column of splits has .*'{word}'.*; expected a name such as val"):
        open_splits(listed(tmp_path, f"{TRAINED}c.png,x,{word}\n"), fraction=0.5, seed=0)


@pytest.mark.parametrize("words", [("0", "1"), ("val", "test"), ("north", "south")])
def test_a_list_whose_splits_do_not_say_what_to_train_on_is_one_set_and_says_so(
    words: tuple[str, str], tmp_path: Path
) -> None:
    rows = "".join(f"{place}{i}.png,{place},{word}\n" for i, word in enumerate(words * 2) for place in "xy")
    with pytest.warns(Notice, match="none of them means training; all rows are used"):
        train, held = open_splits(listed(tmp_path, rows), fraction=0, seed=0)
    assert (len(train), held) == (8, None)


def test_a_list_with_one_split_is_one_set(tmp_path: Path) -> None:
    assert len(open_splits(listed(tmp_path, TRAINED), fraction=0, seed=0)[0]) == 2


def test_classes_of_a_list_are_those_of_the_rows_to_train_on(tmp_path: Path) -> None:
    rows = f"{TRAINED}c.png,y,val\nd.png,only in the test set,test\n"
    with pytest.warns(Notice, match=r"2 rows of 'train' to train on, 1 of 'val' to validate on; 1 other row is not"):
        train, held = open_splits(listed(tmp_path, rows), fraction=0.5, seed=0)
    assert held is not None
    assert (train.classes, train.labels(), held.labels()) == (("x", "y"), [0, 1], [1])
    assert Path(held.sample(0).name).name == "c.png"
    with (
        pytest.warns(Notice, match="to validate on"),
        pytest.raises(ValueError, match="validation does not fit the training set: unknown classes z; known are x, y"),
    ):
        open_splits(listed(tmp_path, f"{TRAINED}c.png,z,val\n"), fraction=0.5, seed=0)
    with pytest.warns(Notice, match="1 of 'val'"):
        train, held = open_splits(listed(tmp_path, f"{TRAINED}c.png,z,val\n"), fraction=0.5, seed=0, labels=False)
    assert held is not None
    assert not train.classes
