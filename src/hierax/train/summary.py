"""The notes of a run before its first step: a summary, and warnings about settings that may not be intended."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from hierax.console import quantity
from hierax.data.dataset import Dataset, Subset
from hierax.data.order import Order
from hierax.model.config import HieraConfig
from hierax.train.batches import accumulation_steps
from hierax.train.choice import FEW_HELD
from hierax.train.modes import mode_of
from hierax.train.parallel import World
from hierax.train.settings import Recipe

_FEW_STEPS = 2  # of an epoch
_FEW_CLASSES = 10  # with more, classes of single samples are probably no classes
_LISTED = 12  # at most this many classes are named


def plan(recipe: Recipe, order: Order, world: World, train: Dataset, validation: Dataset | None) -> str:
    """Samples, steps, batch, learning rate and device in one line."""
    parts, size = accumulation_steps(recipe, world.size), world.size
    each = recipe.batch_size // size // parts
    steps, epochs = quantity(order.steps, "step"), quantity(recipe.epochs, "epoch")
    lines = f"{quantity(len(train), 'sample')}, {steps} of {recipe.batch_size} per epoch, {epochs}"
    shared = f" = {quantity(size, 'rank')} x {quantity(parts, 'part')} x {each}" if size * parts > 1 else ""
    dropped = f"; {quantity(order.dropped, 'sample')} per epoch unused (last incomplete batch)" if order.dropped else ""
    check = f"; {len(validation):,} to validate on" if validation is not None else ""
    return f"{lines}{shared}{dropped}{check}; peak lr {recipe.peak_lr:.3g}, {recipe.precision} on {world.device}"


def class_counts(train: Dataset) -> dict[str, int] | None:
    """Number of samples per class, if every sample has one class."""
    labels = train.labels() if train.classes else None
    if labels is None:
        return None
    return dict(zip(train.classes, np.bincount(np.asarray(labels), minlength=len(train.classes)).tolist(), strict=True))


def about_classes(recipe: Recipe, train: Dataset, validation: Dataset | None) -> str | None:
    """The classes with the number of samples of each, including the held-out ones; None if no classes are learned."""
    if not mode_of(recipe).supervised or not train.classes:
        return None
    if mode_of(recipe).targets:
        return f"{quantity(len(train.classes), 'class')} of pixels: {_listed(train.classes)}"
    trained = class_counts(train)
    if trained is None:
        return f"{quantity(len(train.classes), 'class')}, of which several may be true: {_listed(train.classes)}"
    more = (class_counts(validation) if isinstance(validation, Subset) else None) or {}  # held out of the same data
    names = [f"{name} ({count + more.get(name, 0):,})" for name, count in trained.items()]
    return f"{quantity(len(names), 'class')}: {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    """The first names, and the number of the others."""
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED + 3 else ""
    return ", ".join(names[:_LISTED] if more else names) + more


def remarks(
    recipe: Recipe, config: HieraConfig, order: Order, train: Dataset, validation: Dataset | None, *, fresh: bool
) -> list[str | None]:
    """Sentences on results that a user may not expect, or None; `fresh` means that the weights are random."""
    layers = _early_layers(recipe, config) if fresh else None
    return [
        _steps(recipe, order),
        _single_samples(recipe, train),
        _few_held(recipe, validation),
        _warmup(recipe),
        layers,
        _reconstructions(recipe, train, validation),
    ]


_OF_MASKING = ("mask_ratio", "target")
_OF_LABELS = ("class_weights", "label_smoothing", "label_weight", "mixup", "cutmix", "dropout")
_OF_TEACHERS = ("teacher_logits", "teacher_features", "teacher_temperature")


def unused_settings(
    recipe: Recipe, given: Collection[str], train: Dataset, *, validated: bool, drawn: bool, taught: bool
) -> list[str]:
    """Warnings of settings that the user has `given` and that a run with this recipe does not use.

    Args:
        validated: whether there is a validation set.
        drawn: whether it is drawn from the training set.
        taught: whether there is a teacher.
    """
    mode = mode_of(recipe)
    other = ("label_weight",) if mode.targets else _OF_MASKING if mode.supervised else _OF_LABELS
    cases: list[tuple[bool, Sequence[str], str]] = [
        (True, (*other, *(_OF_MASKING if mode.targets else ())), f"in {recipe.mode}"),
        (not taught, _OF_TEACHERS, "without a teacher (--teacher)"),
        (not validated, ("patience", "evaluate_every"), "without validation data (validation_fraction, --validation)"),
        (validated and not drawn, ("validation_fraction",), "on data with a validation set"),
        (not train.videos, ("frame_stride",), "on data that are not videos"),
        (recipe.optimizer != "sgd", ("momentum",), f"with optimizer={recipe.optimizer}"),
        (recipe.optimizer == "sgd", ("betas",), "with optimizer=sgd"),
        (not recipe.scale_lr, ("reference_batch",), "with scale_lr=false"),
    ]
    found = [([name for name in names if name in given], why) for holds, names, why in cases if holds]
    return [f"warning: {', '.join(names)}: no effect {why}" for names, why in found if names]


def _steps(recipe: Recipe, order: Order) -> str | None:
    if order.steps > _FEW_STEPS or recipe.batch_size <= 4:
        return None
    better = max(order.samples * order.repeats // 10, 4)
    steps = "1 step" if order.steps == 1 else f"{order.steps} steps"
    return (
        f"warning: an epoch has only {steps}, since batch_size is {recipe.batch_size} of {order.samples:,} samples; "
        f"batch_size={min(better, recipe.batch_size // 2)} gives more steps to learn from"
    )


def _single_samples(recipe: Recipe, train: Dataset) -> str | None:
    mode = mode_of(recipe)
    counts = list(((class_counts(train) if mode.supervised and not mode.targets else None) or {}).values())
    if len(counts) <= _FEW_CLASSES or 2 * counts.count(1) <= len(counts):
        return None
    return (
        f"warning: {counts.count(1):,} of {len(counts):,} classes have only one training sample; are these the labels "
        "that you mean (--columns label=NAME names another column)?"
    )


def _few_held(recipe: Recipe, validation: Dataset | None) -> str | None:
    if validation is None or len(validation) >= FEW_HELD:
        return None
    count = "1 sample" if len(validation) == 1 else f"{len(validation)} samples"
    choice = "" if recipe.weights == "last" else ", and the choice of the weights is partly chance (--weights last)"
    return (
        f"warning: only {count} to validate on (validation_fraction or --validation sets more): the scores are rough"
        f"{choice}"
    )


def _warmup(recipe: Recipe) -> str | None:
    if recipe.warmup_epochs < recipe.epochs:
        return None
    return (
        f"warmup_epochs is {recipe.warmup_epochs:g} of {recipe.epochs} epochs: the learning rate never reaches its peak"
    )


def _early_layers(recipe: Recipe, config: HieraConfig) -> str | None:
    if not mode_of(recipe).supervised or recipe.layer_decay == 1:
        return None
    first = recipe.layer_decay ** (sum(config.depths) + 1)
    return (
        f"layer_decay is {recipe.layer_decay:g} and the weights are random: the first layer learns at {first:.2g} of "
        "the learning rate, so it hardly changes; layer_decay=1 trains all layers at the same rate"
    )


def _reconstructions(recipe: Recipe, train: Dataset, validation: Dataset | None) -> str | None:
    if not mode_of(recipe).masked or train.arrays:
        return None
    if recipe.target == "hog":
        return "no images of reconstructions and no decoder in the saved model: target=hog predicts no pixels"
    if validation is None:
        return "no images of reconstructions: nothing is held out; pass validation_fraction=0.1 or --validation"
    return None
