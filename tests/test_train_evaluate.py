"""Evaluation: metrics against ones worked out by hand, every sample once, probes."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hierax import HieraForImageClassification, HieraForPreTraining
from hierax.checkpoint.save import save_model
from hierax.data import Subset, open_splits
from hierax.data.loader import Batch, evaluation_loader
from hierax.data.sources import open_dataset
from hierax.data.view import EvaluationView, Unreadable
from hierax.processing import IMAGENET
from hierax.train import finetune
from hierax.train.evaluation import Evaluation, evaluate, probe_features, run_trained_on
from hierax.train.predictions import Inputs, Predictions, average_precision, count_samples, normalize, predict
from hierax.train.probe import knn, linear, probe
from small import image_config, line_config, randomize
from training import ALONE, pictures, toy

LOGITS = torch.tensor([[3.0, 2, 1], [1, 3, 2], [1, 2, 3], [3, 1, 2], [2, 3, 1]])
LABELS = torch.tensor([0, 1, 0, 2, 0])


def predictions(labels: torch.Tensor = LABELS) -> Predictions:
    return Predictions(torch.arange(5), LOGITS, labels)


def test_top_1_and_top_2_are_counted_by_hand() -> None:
    """Right: samples 0 and 1; second best: 3 and 4."""
    assert predictions().top_k_accuracy(1) == pytest.approx(2 / 5)
    assert predictions().top_k_accuracy(2) == pytest.approx(4 / 5)
    assert predictions().top_k_accuracy(5) == 1.0


def test_the_loss_is_the_cross_entropy() -> None:
    logs = [math.log(sum(math.exp(v) for v in row)) - row[label] for row, label in zip(LOGITS.tolist(), LABELS)]  # noqa: B905
    metrics = predictions().metrics()
    assert metrics["loss"] == pytest.approx(sum(logs) / 5, rel=1e-6)
    assert (metrics["top1"], metrics["score"]) == pytest.approx((0.4, 0.4))
    assert "top5" not in metrics, "of five classes it says nothing"
    assert Predictions(torch.arange(2), -torch.arange(12.0).view(2, 6), torch.tensor([0, 5])).metrics()["top5"] == 0.5


def test_balanced_accuracy_is_the_mean_recall_of_the_classes_there_are() -> None:
    assert predictions().metrics()["balanced"] == pytest.approx((1 / 3 + 1 + 0) / 3)
    without_the_last = Predictions(torch.arange(4), LOGITS[:4], LABELS[:4])
    assert without_the_last.balanced_accuracy() == pytest.approx(
        sum(Evaluation(without_the_last, ("a", "b", "c"), {}).per_class[i]["recall"] for i in set(LABELS[:4].tolist()))
        / len(set(LABELS[:4].tolist()))
    )


def test_confusion_recall_and_precision_are_counted_by_hand() -> None:
    assert predictions().confusion_matrix().tolist() == [[1, 1, 1], [0, 1, 0], [1, 0, 0]]
    found = Evaluation(predictions(), ("a", "b", "c"), predictions().metrics())
    rows = [(row["label"], row["samples"], row["recall"], row["precision"]) for row in found.per_class]
    assert rows == [("a", 3, 1 / 3, 0.5), ("b", 1, 1.0, 0.5), ("c", 1, 0.0, 0.0)]


def test_average_precision_is_worked_out_by_hand() -> None:
    """Class 0 has its positives at ranks 1 and 3: (1 + 2/3) / 2; class 1 at rank 2: 1/2; class 2 has none."""
    scores = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.9, 0.0], [0.7, 0.5, 0.0]])
    labels = torch.tensor([[1.0, 0, 0], [0, 0, 0], [1, 1, 0]])
    assert average_precision(scores, labels) == pytest.approx(((1 + 2 / 3) / 2 + 0.5) / 2)
    metrics = Predictions(torch.arange(3), scores, labels).metrics()
    assert metrics["score"] == metrics["mean_average_precision"]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("evaluated")
    pictures(base / "train", classes=3, each=6)
    pictures(base / "val", classes=3, each=3, seed=1)
    return base


def saved(folder: Path, labels: tuple[str, ...], **config: Any) -> Path:
    torch.manual_seed(0)
    model = randomize(
        HieraForImageClassification(image_config(id2label=dict(enumerate(labels)), num_labels=None, **config))
    )
    model.preprocessing = IMAGENET.replace(size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64})  # type: ignore[assignment]
    save_model(model, folder)  # type: ignore[arg-type]
    return folder


def test_the_held_out_part_is_evaluated_sample_by_sample(data: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    model = saved(tmp_path / "m", ("class0", "class1", "class2"))
    found = evaluate(data, model=model, device="cpu", batch_size=2, on_progress=lambda *at: seen.append(at))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (found.count, found.count)
    assert found.count == 9
    assert found.predictions.indices.tolist() == list(range(9))
    assert found.predictions.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    whole = evaluate(data / "val", model=tmp_path / "m", device="cpu", batch_size=9)
    torch.testing.assert_close(found.predictions.logits, whole.predictions.logits)
    assert json.loads(json.dumps(found.to_dict()))["samples"] == 9


@pytest.mark.parametrize("world", [1, 2, 4, 7, 11])
def test_every_sample_is_evaluated_once_on_any_number_of_ranks(data: Path, world: int) -> None:
    record = IMAGENET.replace(size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64})
    view = EvaluationView(open_dataset(data / "val"), record, size=(64, 64))
    parts = [part for rank in range(world) for part in evaluation_loader(view, batch=2, rank=rank, world=world)]
    assert sorted(i for part in parts if isinstance(part, Batch) for i in part.indices.tolist()) == list(range(9))


def test_the_samples_that_are_done_are_counted_on_all_ranks() -> None:
    parts = [[Unreadable("a.png", 0, "bad"), Unreadable("b.png", 1, "bad")], [Unreadable("c.png", 2, "bad")]]
    seen: list[tuple[int, int]] = []
    assert list(count_samples(parts, 5, lambda *at: seen.append(at), ranks=2)) == parts
    assert seen == [(4, 5), (5, 5)]


def test_classes_are_matched_by_name_not_by_order(data: Path, tmp_path: Path) -> None:
    straight = evaluate(data, model=saved(tmp_path / "a", ("class0", "class1", "class2")), device="cpu")
    turned = evaluate(data, model=saved(tmp_path / "b", ("class2, last", "class0", "class1")), device="cpu")
    assert turned.predictions.labels.tolist() == [1, 1, 1, 2, 2, 2, 0, 0, 0]
    assert torch.equal(straight.predictions.logits, turned.predictions.logits)


def test_whole_labels_come_before_beginnings_of_labels(tmp_path: Path) -> None:
    for name in ("cat", "cat, small"):
        pictures(tmp_path / "made", classes=1, each=2)
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "made" / "class0").rename(tmp_path / "data" / name)
        (tmp_path / "made").rmdir()
    model = saved(tmp_path / "model", ("cat, small", "cat", "dog"))
    assert evaluate(tmp_path / "data", model=model, device="cpu").predictions.labels.tolist() == [1, 1, 0, 0]


def test_of_what_a_run_was_trained_on_only_what_it_held_out_is_evaluated(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos")
    options: Any = {"source": None, "device": "cpu", "quiet": True}
    run = finetune(photos, out=tmp_path / "run", recipe=toy("finetune", epochs=1, validation_fraction=0.25), **options)
    found = evaluate(photos, model=run, device="cpu")
    assert found.count == 4
    assert found.note is not None
    assert "the 4 samples that it held out" in found.note
    step = sorted(path.name for path in (run / "checkpoints").iterdir())[-1]
    at_step = evaluate(photos, model=run / "checkpoints" / step, device="cpu")
    assert (at_step.count, at_step.note) == (4, found.note)
    score = json.loads((run / "run.json").read_text())["result"]["best"]
    assert found.metrics["top1"] == pytest.approx(score)
    blind = finetune(photos, out=tmp_path / "all", recipe=toy("finetune", epochs=1), **options)
    found = evaluate(photos, model=blind, device="cpu")
    assert found.count == 16
    assert found.note is not None
    assert "is what the run was trained on" in found.note
    assert evaluate(pictures(tmp_path / "others"), model=blind, device="cpu").note is None


def test_of_data_that_changed_since_training_it_is_said_that_some_may_have_been_seen(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos")
    options: Any = {"source": None, "device": "cpu", "quiet": True}
    run = finetune(photos, out=tmp_path / "run", recipe=toy("finetune", epochs=1, validation_fraction=0.25), **options)
    (photos / "class0/7.png").rename(photos / "class1/8.png")  # as many as before
    found = evaluate(photos, model=run, device="cpu")
    assert found.count == 16
    assert found.note is not None
    assert "has other samples now: which of them it saw is not known" in found.note


def test_a_class_that_the_model_has_not_or_has_twice_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown classes class1, class2; known are class0, cat, dog"):
        evaluate(data, model=saved(tmp_path / "a", ("class0", "cat", "dog")), device="cpu")
    with pytest.raises(ValueError, match="the model has 2 classes 'class0'; expected folders by whole labels"):
        evaluate(data, model=saved(tmp_path / "b", ("class0, bird", "class0, machine", "class2")), device="cpu")


def test_wordnet_ids_stand_for_the_classes_in_their_order(tmp_path: Path) -> None:
    for name in ("n01440764", "n02123045"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(tmp_path / "data" / name / "0.png")
    found = evaluate(tmp_path / "data", model=saved(tmp_path / "m", ("tench", "tabby")), device="cpu")
    assert found.predictions.labels.tolist() == [0, 1]


def test_wordnet_ids_that_the_model_knows_are_matched_by_name(tmp_path: Path) -> None:
    for name in ("n02123045", "n01440764"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(tmp_path / "data" / name / "0.png")
    turned = saved(tmp_path / "turned", ("n02123045 tabby", "n01440764 tench, Tinca tinca"))
    assert evaluate(tmp_path / "data", model=turned, device="cpu").predictions.labels.tolist() == [1, 0]
    with pytest.raises(ValueError, match="unknown classes n02123045; known are n01440764, n04067472"):
        evaluate(tmp_path / "data", model=saved(tmp_path / "other", ("n01440764", "n04067472")), device="cpu")


def test_a_run_without_labels_has_held_out_other_samples_than_one_with_labels(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos")
    names = [path.relative_to(photos) for path in sorted(photos.rglob("*.png"))]
    (photos / "list.csv").write_text("\n".join(["path,label", *(f"{name},{name.parent}" for name in names)]))
    blind = toy("finetune", epochs=1, validation_fraction=0.25, label_weight=0.0, seed=5)
    options: Any = {"source": None, "device": "cpu", "quiet": True}
    teacher = saved(tmp_path / "teacher", ("class0", "class1"))
    run = finetune(photos / "list.csv", out=tmp_path / "run", recipe=blind, teacher=teacher, **options)
    _, held = open_splits(photos / "list.csv", fraction=0.25, seed=5, labels=False)
    assert isinstance(held, Subset)
    found = evaluate(photos / "list.csv", model=run, device="cpu")
    assert found.predictions.labels.tolist() == [int(i >= 8) for i in held.indices]
    assert found.predictions.labels.tolist() != [0, 0, 1, 1]  # what a run with labels holds out


def test_the_run_of_a_hub_dataset_is_known_by_its_id(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    values = {"mode": "finetune", "data": "hub:me/data", "recipe": toy("finetune").to_dict()}
    (folder / "run.json").write_text(json.dumps(values))
    assert run_trained_on("hub:me/data", folder)["data"] == "hub:me/data"
    assert run_trained_on("hub:me/other", folder) == {}


def test_an_unknown_probe_is_refused_before_any_data_are_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="probe is 'svm'; expected linear, knn"):
        probe_features(tmp_path / "nowhere", model="hierax/femto", kind="svm", train=tmp_path)


def test_a_batch_of_nothing_is_refused(data: Path, tmp_path: Path) -> None:
    model = saved(tmp_path / "m", ("class0", "class1", "class2"))
    with pytest.raises(ValueError, match="batch_size is 0; expected a whole number above 0"):
        evaluate(data, model=model, device="cpu", batch_size=0)
    with pytest.raises(ValueError, match="batch_size is -1; expected a whole number above 0"):
        probe_features(data, model=model, kind="knn", device="cpu", batch_size=-1)


def test_unreadable_samples_are_named_and_not_counted(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", classes=2, each=2)
    (data / "class0" / "1.png").write_bytes(b"x")
    found = evaluate(data, model=saved(tmp_path / "m", ("class0", "class1")), device="cpu")
    assert (found.count, len(found.predictions.bad)) == (3, 1)
    assert found.to_dict()["unreadable"] == 1


def test_a_model_that_is_no_classifier_is_refused(data: Path, tmp_path: Path) -> None:
    save_model(randomize(HieraForPreTraining(image_config(num_query_pool=2))), tmp_path / "m")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"m is a masked autoencoder; expected a classifier, .* or a probe"):
        evaluate(data, model=tmp_path / "m", device="cpu")


def test_labels_beyond_the_model_s_classes_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 3, 64, 64), np.float32))
    np.save(tmp_path / "x.labels.npy", np.array([0, 1, 7]))
    with pytest.raises(ValueError, match="unknown classes"):
        evaluate(tmp_path / "x.npy", model=saved(tmp_path / "m", ("a", "b")), device="cpu")
    model = HieraForImageClassification(image_config(num_labels=2)).eval()
    view = EvaluationView(open_dataset(tmp_path / "x.npy"), IMAGENET, size=(64, 64))
    with pytest.raises(ValueError, match="the data has labels up to 7; expected 0 to 1, of the model's classes"):
        predict(model, Inputs(view, (0,) * 3, (1,) * 3), ALONE)


def test_the_confusion_matrix_is_drawn(data: Path, tmp_path: Path) -> None:
    found = evaluate(data, model=saved(tmp_path / "m", ("class0", "class1", "class2")), device="cpu")
    with Image.open(found.draw_confusion(tmp_path / "c.png")) as drawn:
        assert min(drawn.size) > 300


def test_pixels_are_normalized_per_channel() -> None:
    model: Any = HieraForImageClassification(image_config())
    levels = torch.full((1, 3, 2, 2), 100, dtype=torch.uint8)
    found = normalize(levels, model, (100.0, 50.0, 0.0), (1.0, 10.0, 50.0))
    assert found[0, :, 0, 0].tolist() == [0.0, 5.0, 2.0]


# -- probes -----------------------------------------------------------------------------------------------------------


def clusters(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    centers = torch.tensor([[4.0, 0, 0], [0, 4, 0], [0, 0, 4]])
    return centers[labels] + torch.randn(count, 3, generator=draw), labels


@pytest.mark.parametrize("method", [linear, knn])
def test_a_probe_finds_classes_that_lie_apart(method: Any) -> None:
    (train, labels), (test, truth) = clusters(90, 0), clusters(60, 1)
    assert (method(train, labels, test, classes=3) == truth).double().mean() > 0.95
    assert torch.equal(method(train, labels, test, classes=3), method(train, labels, test, classes=3))


def test_the_nearest_neighbors_vote_by_similarity() -> None:
    """One very near neighbor outweighs two far ones: exp(1 / 0.07) against 2 exp(-1 / 0.07)."""
    train = torch.tensor([[1.0, 1], [-1, -1], [-1, -1.001]])
    assert knn(train, torch.tensor([0, 1, 1]), torch.tensor([[1.0, 1.01]]), classes=2, num_neighbors=3).tolist() == [0]


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_features_of_every_stage_are_probed(data: Path, tmp_path: Path, kind: str) -> None:
    """Brightness tells the classes, and any features know brightness."""
    save_model(randomize(HieraForPreTraining(image_config(num_query_pool=2))), tmp_path / "m")  # type: ignore[arg-type]
    scores, bad = probe_features(data, model=tmp_path / "m", kind=kind, device="cpu")
    assert list(scores) == ["stage1", "stage2", "stage3", "stage4"]
    assert scores["stage1"] > 0.9
    assert bad == []


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_arrays_of_images_are_the_images_for_a_model_of_images(data: Path, tmp_path: Path, dtype: str) -> None:
    """As for `hierax classify`: floats are 0 to 1, and they are resized and cropped."""
    model = saved(tmp_path / "m", ("class0", "class1", "class2"))
    for path in sorted((data / "val").rglob("*.png")):
        pixels = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)
        place = tmp_path / "arrays" / path.parent.name / f"{path.stem}.npy"
        place.parent.mkdir(parents=True, exist_ok=True)
        np.save(place, pixels if dtype == "uint8" else (pixels / 255).astype(dtype))
    found = evaluate(tmp_path / "arrays", model=model, device="cpu").predictions.logits
    expected = evaluate(data, model=model, device="cpu").predictions.logits
    near = 1e-5 if dtype == "uint8" else 1e-2  # floats are resized without being rounded
    torch.testing.assert_close(found, expected, atol=near, rtol=0)
    assert near < 0.05 * float(expected.std(0).mean())


def test_features_of_arrays_do_not_depend_on_the_other_samples(tmp_path: Path) -> None:
    """A checkpoint without a record: both sets are normalized with the statistics of the training set."""
    random, labels = np.random.default_rng(2), np.arange(40) % 2
    values = (random.normal(0, 1, (40, 8, 512)) + 3 * labels[:, None, None]).astype(np.float32)
    for name, part in (("train", slice(0, 24)), ("test", slice(24, 40))):
        np.save(tmp_path / f"{name}.npy", values[part])
        np.save(tmp_path / f"{name}.labels.npy", labels[part])
    np.save(tmp_path / "one.npy", values[24:][labels[24:] == 1])
    np.save(tmp_path / "one.labels.npy", labels[24:][labels[24:] == 1])
    model = randomize(HieraForImageClassification(line_config(num_labels=2)))
    save_model(model, tmp_path / "m")  # type: ignore[arg-type]
    for name in ("test", "one"):
        scores, _ = probe_features(
            tmp_path / f"{name}.npy", train=tmp_path / "train.npy", model=tmp_path / "m", kind="knn", device="cpu"
        )
        assert min(scores.values()) == 1.0
    note = evaluate(tmp_path / "test.npy", model=tmp_path / "m", device="cpu").note
    assert str(note).startswith("the model states no mean and standard deviation of arrays")


def test_an_unknown_probe_and_a_missing_training_set_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="probe is 'forest'; expected linear, knn"):
        probe("forest", None, None, classes=2)  # type: ignore[arg-type]
    model = saved(tmp_path / "m", ("class0", "class1", "class2"))
    with pytest.raises(ValueError, match=r"has no train/ for the probe to learn from; pass --train"):
        probe_features(data / "val", model=model, kind="knn", device="cpu")
    found, _ = probe_features(data / "val", model=model, kind="knn", train=data / "train", device="cpu")
    assert len(found) == 4


def test_samples_of_one_score_are_found_together() -> None:
    """Their order is no merit: all alike are worth the share of positives, (2 / 4); two of one score at rank 2: both
    at 2 / 3, one of them a positive.
    """
    labels = torch.tensor([[1.0], [1], [0], [0]])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        assert average_precision(torch.zeros(4, 1), labels[order]) == pytest.approx(0.5)
    scores = torch.tensor([[0.9], [0.5], [0.5], [0.1]])
    for order in ([0, 1, 2, 3], [0, 2, 1, 3]):
        assert average_precision(scores, labels[order]) == pytest.approx((1 + 2 / 3) / 2)


def test_a_model_in_double_precision_is_evaluated_in_it(data: Path) -> None:
    model = randomize(HieraForImageClassification(image_config(num_labels=3))).double().eval()
    record = IMAGENET.replace(size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64})
    view = EvaluationView(open_dataset(data / "val"), record, size=(64, 64))
    found = predict(model, Inputs(view, (0,) * 3, (1,) * 3), ALONE)  # type: ignore[arg-type]
    assert found.logits.dtype == torch.float64
    assert not torch.equal(found.logits, found.logits.float().double())


def test_a_device_that_is_not_there_is_named(data: Path, tmp_path: Path) -> None:
    model = saved(tmp_path / "m", ("class0", "class1", "class2"))
    with pytest.raises(ValueError, match="device is 'toaster'; this machine has cpu"):
        evaluate(data, model=model, device="toaster")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device is 'cuda'; this machine has cpu"):
            evaluate(data, model=model, device="cuda")
