"""Evaluation of a checkpoint on a dataset, for the command and for Python."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hierax.checkpoint.load import load
from hierax.checkpoint.opened import Checkpoint, open_checkpoint
from hierax.data.dataset import AsImages, Dataset, Relabeled, Subset, relabel
from hierax.data.folders import FolderDataset, split_folders
from hierax.data.sources import has_columns, open_dataset
from hierax.data.split import open_splits, predefined_splits
from hierax.data.view import EvaluationView, check_axes
from hierax.model.pretrained import Pretrained
from hierax.model.registry import TASKS
from hierax.model.tasks import HieraForImageClassification, HieraForVideoClassification
from hierax.processing import DEFAULT_MAX_PIXELS, IMAGENET, Preprocessing
from hierax.processing.defaults import preprocessing_for
from hierax.processing.frames import FIRST_ONLY
from hierax.reprs.markup import html_repr
from hierax.reprs.text import never_raises
from hierax.train.description import read_description
from hierax.train.folder import absolute_source
from hierax.train.held_out import held_out_part, run_file
from hierax.train.labels import labels_beside
from hierax.train.modes import mode_of
from hierax.train.parallel import default_workers, open_world
from hierax.train.pixels import is_for_arrays, measure_mean_and_std, pixel_mean_and_std
from hierax.train.plots import draw_confusion
from hierax.train.predictions import Inputs, Predictions, Runnable, predict
from hierax.train.probe import check_probe, extract_features, probe
from hierax.train.progress import explain_failures
from hierax.train.request import PathOrHubId
from hierax.train.settings import Recipe
from hierax.train.summary import class_counts

_OWN_STATISTICS = (
    "the model states no mean and standard deviation of arrays, so those of this data are used: the numbers depend on "
    "which samples it has"
)
_FEW = 256  # up to this number of samples, reading in this process is faster than starting worker processes


def summary_of(found: Any, samples: str) -> str:
    """The `repr` of an evaluation: its class, the number of samples and of classes, and the metrics."""
    scores = ", ".join(f"{name} {value:.4g}" for name, value in found.metrics.items() if name != "score")
    return f"{type(found).__name__}({found.count:,} {samples} of {len(found.labels):,} classes: {scores})"


@dataclass(frozen=True)
class Evaluation:
    """The predictions of a classifier for a dataset, and their metrics.

    Attributes:
        predictions: logits and labels of each sample.
        labels: names of the classes.
        metrics: loss, top1, top5 (with more than five classes) and balanced (mean recall), or mean_average_precision.
        note: a sentence about which samples were evaluated, if this is not obvious.
    """

    predictions: Predictions
    labels: tuple[str, ...]
    metrics: dict[str, float]
    note: str | None = None

    @never_raises
    def __repr__(self) -> str:
        return summary_of(self, "samples")

    @html_repr
    def _repr_html_(self) -> str:
        from hierax.train.cards import evaluation

        return evaluation(self)

    @property
    def count(self) -> int:
        """Number of samples that were evaluated."""
        return len(self.predictions.indices)

    @property
    def per_class(self) -> list[dict[str, Any]]:
        """Label, samples, recall and precision of each class that occurs; None if a class has no samples or no
        predictions.
        """
        if self.predictions.labels.ndim != 1:
            return []
        table = self.predictions.confusion_matrix()
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
        """The values as a dict that can be written as JSON."""
        metrics = {name: value for name, value in self.metrics.items() if name != "score"}
        return {**metrics, "samples": self.count, "unreadable": len(self.predictions.bad), "classes": self.per_class}

    def draw_confusion(self, path: Path) -> Path:
        """Draws the confusion matrix with its counts, and returns the path. It needs matplotlib (extra `plot`)."""
        if self.predictions.labels.ndim != 1:
            raise ValueError("samples have several labels; a confusion matrix needs one label per sample")
        return draw_confusion(self.predictions.confusion_matrix().numpy(), self.labels, path)


def evaluate(
    data: PathOrHubId,
    *,
    model: PathOrHubId | Checkpoint | Pretrained | Runnable,
    device: str = "auto",
    batch_size: int = 32,
    workers: int | None = None,
    views: tuple[int, int] = (1, 1),
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    columns: Mapping[str, str] | None = None,
    on_progress: Callable[[int, int], object] | None = None,
) -> Evaluation:
    """Evaluates a classifier on labeled `data`; every sample counts once. Returns an `Evaluation`.

    Args:
        data: a source for `hierax.data.open_dataset`. Of a folder with `val/` in it, `val/` is used. Of the training
            data of a run, the samples that the run held out are used. Class folders are matched to the model's labels
            by name.
        model: a classifier, or a checkpoint (also an open one) or run to load one from; or a `hierax.Engine`, which
            can also run an export.
        device: "auto", "cpu", "cuda" or "mps", to which a model is moved; an engine runs where it is.
        batch_size: samples per call of the model.
        workers: number of decoding processes; None is 0 for few samples, otherwise the number of cores minus one.
        views: for videos, number of clips, and of crops of each clip; probabilities are averaged. (5, 3) is usual for
            Kinetics.
        max_pixels: images with more pixels count as unreadable; None is no limit.
        columns: names of columns in lists and tables, see `hierax.data.open_dataset`. For the training data of a run,
            None means the columns of the run.
        on_progress: is called with the number of finished samples, and with the number of all samples.

    Raises:
        ValueError: the model is not a classifier, the data has other classes, or several views are requested of data
            that are not videos.
        TrainingStopped: memory ran out, or a worker or another rank ended.
    """
    classifier = _classifier(model) if isinstance(model, (str, os.PathLike, Checkpoint)) else model
    if isinstance(classifier, Pretrained):
        if not isinstance(classifier, (HieraForImageClassification, HieraForVideoClassification)):
            raise ValueError(f"the model is a {type(classifier).__name__}; expected a classifier, or a probe")
    elif not TASKS[classifier.task].labels or classifier.task == "segmentation":
        raise ValueError(f"the model is for {classifier.task}; expected a classifier")
    config = classifier.config
    labels = tuple(config.id2label[i] for i in range(config.num_labels))
    trained = run_trained_on(data, source_of(model))
    columns = trained.get("columns") if columns is None else columns
    part, note = _held_out_by_run(data, trained, columns)
    dataset = _with_labels_of_model(_validation_of(data, columns) if part is None else part, labels)
    if dataset.arrays and _record_of(classifier) is None:
        note = "; ".join(filter(None, (note, _OWN_STATISTICS)))
    with open_world(device) as world:
        if isinstance(classifier, Pretrained):
            classifier = classifier.to(world.device).eval()
        inputs = _model_inputs(dataset, classifier, views=views, max_pixels=max_pixels)
        workers = worker_count(dataset) if workers is None else workers
        notices = FIRST_ONLY.report_at_end(gather=world.all_gather, here=world.is_main)
        with explain_failures(lambda: "nothing was written"), notices:
            found = predict(classifier, inputs, world, batch=batch_size, workers=workers, on_progress=on_progress)
    return Evaluation(found, labels, found.metrics(), note)


def source_of(model: Any) -> PathOrHubId | None:
    """What a model, a checkpoint or an engine was opened from, as the user wrote it; None for a model in memory."""
    if isinstance(model, Pretrained):
        return None
    if isinstance(model, Checkpoint):
        return model.name
    return model if isinstance(model, (str, os.PathLike)) else model.source


def _classifier(source: PathOrHubId | Checkpoint) -> Pretrained:
    """The model of a checkpoint or run that has a head."""
    opened = open_checkpoint(source)
    source, parts = opened.name, opened.parts
    if "head" not in parts:
        if "segmentation" in parts:
            raise ValueError(
                f"{source} is a segmentation model; expected a classifier (evaluate_segmentation takes it)"
            )
        kind = "a masked autoencoder" if "decoder" in parts else "an encoder without a head"
        raise ValueError(f"{source} is {kind}; expected a classifier, as hierax finetune makes them, or a probe")
    return opened.model()


def probe_features(
    data: PathOrHubId,
    *,
    model: PathOrHubId | Checkpoint,
    kind: str,
    train: PathOrHubId | None = None,
    device: str = "auto",
    batch_size: int = 32,
    workers: int | None = None,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    columns: Mapping[str, str] | None = None,
    on_progress: Callable[[int, int], object] | None = None,
) -> tuple[dict[str, float], list[tuple[str, str]]]:
    """Top-1 accuracy of a probe on the frozen, pooled features of each stage, and the unreadable samples.

    Args:
        data: the data to evaluate on; of a folder with `val/` in it, `val/` is used.
        model: any checkpoint or run.
        kind: "linear" or "knn".
        train: the data to fit the probe on; None is `data/train`.
        device, batch_size, workers, max_pixels, on_progress: as in `evaluate`.
        columns: names of columns in lists and tables, see `hierax.data.open_dataset`.
    """
    check_probe(kind)  # before hours of features
    parts = None if train is not None else split_folders(Path(data))
    if train is None and parts is None:
        raise ValueError(f"{data} has no train/ for the probe to learn from; pass --train")
    learn = parts[0] if parts is not None else Path(train or data)
    features = load(model, task="features", reinit=("norm",))
    mine = columns if has_columns(os.fspath(learn)) else None
    fit = open_dataset(learn, columns=mine)
    if not fit.classes:
        raise ValueError(f"{learn}: a probe needs class folders or labels")
    validation = _with_labels_of_model(
        _validation_of(data, columns if mine is None or has_columns(os.fspath(data)) else None), fit.classes
    )
    with open_world(device) as world:
        features = features.to(world.device).eval()
        feature_sets, inputs = [], None
        with explain_failures(lambda: "nothing was written"), FIRST_ONLY.report_at_end(here=world.is_main):
            for dataset in (fit, validation):
                inputs = _model_inputs(dataset, features, max_pixels=max_pixels, like=inputs)
                processes = worker_count(dataset) if workers is None else workers
                feature_sets.append(
                    extract_features(features, inputs, batch=batch_size, workers=processes, on_progress=on_progress)
                )
    train_features, test_features = feature_sets
    unreadable = [*train_features.bad, *test_features.bad]
    return probe(kind, train_features, test_features, classes=len(fit.classes)), unreadable


def run_trained_on(data: PathOrHubId, model: PathOrHubId | None) -> dict[str, Any]:
    """The description of the run `model`, if that was fine-tuned on `data`; else empty."""
    if model is None or not Path(model).exists():
        return {}
    record = run_file(model)
    values = {} if record is None else read_description(record)
    same = bool(values) and mode_of(Recipe.from_dict(values["recipe"])).supervised
    return values if same and values.get("data") == absolute_source(data) else {}


def _held_out_by_run(
    data: PathOrHubId, values: dict[str, Any], columns: Mapping[str, str] | None
) -> tuple[Dataset | None, str | None]:
    """The samples of `data` that the run of this description held out, and a note on that; None without a run."""
    if not values or predefined_splits(data, columns=columns)[1]:
        return None, None
    recipe = Recipe.from_dict(values["recipe"])
    fraction = 0.0 if values.get("validation") else recipe.validation_fraction
    labels = recipe.label_weight > 0  # without labels, the run did not draw by class
    train, validation = open_splits(data, fraction=fraction, seed=recipe.seed, labels=labels, columns=columns)
    if not labels and isinstance(validation, Subset):
        validation = _with_labels(validation, data, columns)
    counts, then = (len(train), len(validation or ())), values.get("facts", {})
    changed = values.get("classes") and values["classes"] != class_counts(train)
    other = bool(changed) or counts != (then.get("samples"), then.get("held_out"))
    return held_out_part(data, validation, changed=other and not values.get("validation"))


def _with_labels(part: Subset, data: PathOrHubId, columns: Mapping[str, str] | None) -> Dataset | None:
    """The same samples of `data` with their labels; None if it has other samples with labels."""
    whole = open_dataset(data, columns=columns)
    return Subset(whole, part.indices) if (type(whole), len(whole)) == (type(part.base), len(part.base)) else None


def worker_count(dataset: Dataset) -> int:
    """Number of decoding processes for an evaluation: none for few samples."""
    return default_workers() if len(dataset) > _FEW else 0


def _validation_of(data: PathOrHubId, columns: Mapping[str, str] | None) -> Dataset:
    """The validation set beside a training set, or the data unchanged."""
    train, validation = predefined_splits(data, columns=columns)
    return train if validation is None else validation


_SYNSET = re.compile(r"n\d{8}")


def _with_labels_of_model(dataset: Dataset, labels: tuple[str, ...]) -> Dataset:
    """The dataset with the model's class numbers.

    Class folders are matched by name, whole or up to the first comma. If the data has as many WordNet ids as the model
    has classes, and the labels of the model do not begin with such ids, their order is that of ImageNet's classes.
    Other data has the model's numbers already.

    Raises:
        ValueError: the model lacks a class, or has it twice.
    """
    own = dataset.classes
    if not own:
        beside = labels_beside(dataset).replace("fine-tuning takes", "expected")
        raise ValueError(f"the data has no classes: {beside}")
    ids = [match[0] if (match := _SYNSET.match(label)) else None for label in labels]
    if len(own) == len(labels) and all(map(_SYNSET.fullmatch, own)) and not any(ids):
        return Relabeled(dataset, labels, tuple(range(len(own))))
    if own == labels:
        return dataset
    whole, short = dict[str, list[int]](), dict[str, list[int]]()
    for index, label in enumerate(labels):
        whole.setdefault(label, []).append(index)
        for name in {label.partition(",")[0], ids[index] or label} - {label}:
            short.setdefault(name, []).append(index)
    number = {**short, **whole}
    twice = [name for name in own if len(number.get(name, ())) > 1]
    if twice:
        raise ValueError(
            f"the model has {len(number[twice[0]])} classes {twice[0]!r}; expected folders by whole labels"
        )
    if all(name in number for name in own):
        return Relabeled(dataset, labels, tuple(number[name][0] for name in own))
    try:
        return relabel(dataset, labels, numbered=not isinstance(dataset, FolderDataset))
    except ValueError as error:
        raise ValueError(f"the data does not fit the model: {error}") from None


def _model_inputs(
    dataset: Dataset,
    model: Pretrained | Runnable,
    *,
    max_pixels: int | None,
    views: tuple[int, int] = (1, 1),
    like: Inputs | None = None,
) -> Inputs:
    """The dataset as inputs of the model, with mean and standard deviation in gray levels or in the units of arrays.

    Those of arrays are measured if the model does not state them, or taken from the inputs `like` these.
    """
    config, record = model.config, _record_of(model)
    if dataset.arrays and record is None:  # a checkpoint that was not trained here
        view = EvaluationView(dataset, IMAGENET, size=config.image_size)
        if like is not None:
            return Inputs(view, like.mean, like.std)
        return Inputs(view, *measure_mean_and_std(dataset, size=config.image_size, channels=config.num_channels))
    check_axes(dataset, config.image_size)
    if dataset.arrays and record is not None and is_for_arrays(record, config):
        return Inputs(EvaluationView(dataset, record, size=config.image_size), *pixel_mean_and_std(record))
    dataset = AsImages(dataset, range(len(dataset))) if dataset.arrays else dataset  # the model was trained on images
    record = preprocessing_for(config, record)
    record = record.at(record.output_size or config.image_size[-2:])
    size = (*config.image_size[:-2], *record.fixed_size)
    view = EvaluationView(dataset, record, size=size, views=views, max_pixels=max_pixels)
    return Inputs(view, *pixel_mean_and_std(record))


def _record_of(model: Pretrained | Runnable) -> Preprocessing | None:
    """The preprocessing that a model states."""
    return model.preprocessing if isinstance(model, Pretrained) else model.record
