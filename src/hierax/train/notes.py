"""What a run says before its first step: what it is going to do, and what of that may not be meant."""

from __future__ import annotations

from hierax.config import HieraConfig
from hierax.data.dataset import Dataset
from hierax.data.order import Order
from hierax.train.parallel import World
from hierax.train.prepare import accumulation
from hierax.train.recipe import Recipe


def plan(recipe: Recipe, order: Order, here: World, train: Dataset, held: Dataset | None) -> str:
    """Samples, steps, batch, learning rate and device in one line."""
    parts, size = accumulation(recipe, here.size), here.size
    each = recipe.batch_size // size // parts
    lines = f"{len(train):,} samples, {order.steps} steps of {recipe.batch_size} per epoch, {recipe.epochs} epochs"
    shared = f" = {size} rank(s) x {parts} part(s) x {each}" if size * parts > 1 else ""
    dropped = f"; {order.dropped} samples sit out each epoch" if order.dropped else ""
    check = f"; {len(held):,} to validate on" if held is not None else ""
    return f"{lines}{shared}{dropped}{check}; peak lr {recipe.peak_lr:.3g}, {recipe.precision} on {here.device}"


def remarks(
    recipe: Recipe, config: HieraConfig, train: Dataset, held: Dataset | None, *, fresh: bool
) -> list[str | None]:
    """A line each on what a user may not expect, None where there is nothing to say; `fresh` weights are loaded from
    nowhere.
    """
    return [_warmup(recipe), _early_layers(recipe, config) if fresh else None, _reconstructions(recipe, train, held)]


def _warmup(recipe: Recipe) -> str | None:
    if recipe.warmup_epochs < recipe.epochs:
        return None
    return (
        f"warmup_epochs is {recipe.warmup_epochs:g} of {recipe.epochs} epochs: the learning rate never gets to its peak"
    )


def _early_layers(recipe: Recipe, config: HieraConfig) -> str | None:
    if recipe.task != "finetune" or recipe.layer_decay == 1:
        return None
    first = recipe.layer_decay ** sum(config.depths)
    return (
        f"layer_decay is {recipe.layer_decay:g} and the weights are fresh: the first layer learns at {first:.2g} of "
        "the learning rate, and hardly anything; layer_decay=1 trains all layers alike"
    )


def _reconstructions(recipe: Recipe, train: Dataset, held: Dataset | None) -> str | None:
    if recipe.task != "pretrain" or train.arrays:
        return None
    if recipe.target == "hog":
        return "no pictures of reconstructions, and no decoder in the saved model: target is hog, which is no pixels"
    if held is None:
        return "no pictures of reconstructions: nothing is held out (validation_fraction=0.1 or --validation does so)"
    return None
