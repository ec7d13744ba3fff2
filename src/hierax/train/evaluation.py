"""Evaluation of a checkpoint on a dataset, as a command and a function."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hierax.checkpoint.load import load
from hierax.data.sources import Dataset, FolderDataset, open_dataset
from hierax.data.view import EvaluationView
from hierax.models import HieraForImageClassification, HieraForVideoClassification
from hierax.pretrained import Pretrained
from hierax.processing import IMAGENET
from hierax.train.evaluate import Predictions, predict
from hierax.train.parallel import world
from hierax.train.prepare import statistics
from hierax.train.probe import extract, probe

Setting = str | os.PathLike[str]


@dataclass(frozen=True)
class Evaluation:
    """A classifier's predictions for a dataset, and what they come to.

    Attributes:
        predictions: logits and labels by sample.
        labels: names of the classes.
        metrics: loss, top1 and top5, or mean_average_precision.
    """

    predictions: Predictions
    labels: tuple[str, ...]
    metrics: dict[str, float]

    @property
    def count(self) -> int:
        """Samples that were evaluated."""
        return len(self.predictions.indices)

    @property
    def per_class(self) -> list[dict[str, Any]]:
        """Label, samples, recall and precision of each class that occurs; None where nothing was (predicted) of it."""
        if self.predictions.labels.ndim != 1:
            return []
        table = self.predictions.confusion()
        found = []
        for index, label in enumerate(self.labels):
            true, said, hits = int(table[index].sum()), int(table[:, index].sum()), int(table[index, index])
            if true or said:
                found.append(
                    {
                        "label": label,
                        "samples": true,
                        "recall": hits / true if true else None,
                        "precision": hits / said if said else None,
                    }
                )
        return found

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        metrics = {name: value for name, value in self.metrics.items() if name != "score"}
        return {**metrics, "samples": self.count, "unreadable": len(self.predictions.bad), "classes": self.per_class}

    def draw_confusion(self, path: Path) -> Path:
        """A picture of the confusion matrix, rows normalised; needs matplotlib (extra `plot`)."""
        try:
            import matplotlib
        except ImportError:
            raise ImportError("the confusion picture needs matplotlib: pip install 'hierax[plot]'") from None
        matplotlib.use("Agg")
        from matplotlib import pyplot

        table = self.predictions.confusion().double()
        shares = (table / table.sum(1, keepdim=True).clamp(min=1)).numpy()
        side = min(max(4.0, 0.35 * len(self.labels) + 2), 24)
        figure, axes = pyplot.subplots(figsize=(side + 1, side), dpi=110)
        try:
            picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
            axes.set_xlabel("predicted")
            axes.set_ylabel("true")
            if len(self.labels) <= 60:
                axes.set_xticks(range(len(self.labels)), self.labels, rotation=90)
                axes.set_yticks(range(len(self.labels)), self.labels)
            figure.colorbar(picture, label="share of the true class")
            figure.tight_layout()
            figure.savefig(path)
        finally:
            pyplot.close(figure)
        return path


def evaluate(
    data: Setting, *, model: Setting | Pretrained, device: str = "auto", batch_size: int = 32, workers: int = 0
) -> Evaluation:
    """What a classifier says of labelled `data`; every sample counts once.

    Args:
        data: what `hierax.data.open_dataset` takes; of a folder with `val/` in it, that. Class folders are matched to
            the model's labels by name.
        model: a classifier, or a checkpoint or run to load one from.

    Raises:
        ValueError: the model is no classifier, or the data has other classes.
    """
    classifier = model if isinstance(model, Pretrained) else load(os.fspath(model))
    if not isinstance(classifier, (HieraForImageClassification, HieraForVideoClassification)):
        raise ValueError(f"the model is a {type(classifier).__name__}; expected a classifier, or a probe")
    config = classifier.config
    labels = tuple(config.id2label[i] for i in range(config.num_labels))
    dataset = _matched(_held(data), labels)
    with world(device) as here:
        classifier = classifier.to(here.device).eval()
        view, mean, std = _view(dataset, classifier)
        found = predict(classifier, view, here, mean=mean, std=std, batch=batch_size, workers=workers)
    return Evaluation(found, labels, found.metrics())


def probe_features(
    data: Setting,
    *,
    model: Setting,
    kind: str,
    train: Setting | None = None,
    device: str = "auto",
    batch_size: int = 32,
    workers: int = 0,
) -> tuple[dict[str, float], list[tuple[str, str]]]:
    """Top-1 accuracy of a probe on the frozen, pooled features of each stage, and what could not be read.

    Args:
        data: what is evaluated; of a folder with `val/` in it, that.
        model: any checkpoint or run.
        kind: "linear" or "knn".
        train: what the probe learns from; None is `data/train`.
    """
    learn = Path(train) if train is not None else Path(data) / "train"
    if train is None and not learn.is_dir():
        raise ValueError(f"{data} has no train/ for the probe to learn from; pass --train")
    features = load(os.fspath(model), task="features", new=("norm",))
    fit = open_dataset(learn)
    if not fit.classes:
        raise ValueError(f"{learn}: a probe needs class folders or labels")
    held = _matched(_held(data), fit.classes)
    with world(device) as here:
        features = features.to(here.device).eval()
        sides = []
        for dataset in (fit, held):
            view, mean, std = _view(dataset, features)
            sides.append(extract(features, view, mean=mean, std=std, batch=batch_size, workers=workers))
    return probe(kind, sides[0], sides[1], classes=len(fit.classes)), [*sides[0].bad, *sides[1].bad]


def _held(data: Setting) -> Dataset:
    inside = next((Path(data) / name for name in ("val", "validation", "test") if (Path(data) / name).is_dir()), None)
    return open_dataset(inside if inside is not None and (Path(data) / "train").is_dir() else data)


def _matched(dataset: Dataset, labels: tuple[str, ...]) -> Dataset:
    """Class folders with the numbers that the model has for their names; other datasets have numbers already."""
    if not dataset.classes:
        raise ValueError("the data has no classes: expected a folder of class folders, or shards with labels")
    if not isinstance(dataset, FolderDataset) or dataset.targets is None:
        return dataset
    number = {name: i for i, label in enumerate(labels) for name in (label, label.partition(",")[0])}
    unknown = [name for name in dataset.classes if name not in number]
    if unknown:
        known = ", ".join(labels[:5])
        raise ValueError(f"the model has no class {unknown[0]!r}; it has {known}, … ({len(unknown)} are unknown)")
    targets = tuple(number[dataset.classes[t]] for t in dataset.targets)
    return FolderDataset(dataset.paths, targets, labels, dataset.arrays)


def _view(dataset: Dataset, model: Pretrained) -> tuple[EvaluationView, tuple[float, ...], tuple[float, ...]]:
    """How the model sees the dataset, and its mean and deviation in grey levels, or in the array's units."""
    config = model.config
    record = model.preprocessing or IMAGENET
    if dataset.arrays:
        mean, std = statistics(dataset, size=config.image_size, channels=config.num_channels)
    else:
        mean, std = (
            tuple(value / record.rescale_factor for value in values) for values in (record.image_mean, record.image_std)
        )
    return EvaluationView(dataset, record, size=config.image_size), mean, std
