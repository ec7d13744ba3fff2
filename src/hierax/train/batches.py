"""Batch sizes that fit the data, the ranks and the devices' memory."""

from __future__ import annotations

import math

from hierax.console import quantity
from hierax.train.settings import Recipe


def fit_batch(recipe: Recipe, samples: int, world: int) -> tuple[Recipe, str | None]:
    """The recipe with a batch that is not larger than the dataset, and a note if the batch was changed.

    Raises:
        ValueError: there are fewer samples than ranks, or the ranks cannot divide the batch.
    """
    unit = math.lcm(world, recipe.repeats)
    most = samples * recipe.repeats // unit * unit
    if most < 1:
        raise ValueError(f"{samples} samples cannot be shared by {world} ranks")
    if recipe.batch_size > most:
        whole = math.lcm(unit, (recipe.device_batch_size or 1) * world)  # parts of that size and no smaller ones
        most = most // whole * whole or most
        note = f"batch_size {recipe.batch_size} is more than the data has; it is {most}"
        return recipe.replace(batch_size=most), note
    if recipe.batch_size % unit:
        why = quantity(world, "rank") + (f", repeats={recipe.repeats}" if recipe.repeats > 1 else "")
        raise ValueError(f"batch_size is {recipe.batch_size}; expected a multiple of {unit} ({why})")
    share = recipe.batch_size // world
    each, wanted = share // accumulation_steps(recipe, world), min(recipe.device_batch_size or share, share)
    note = f"batch_size {recipe.batch_size} divides into parts of {each} at most, not of device_batch_size {wanted}"
    return recipe, note if 2 * each <= wanted else None


def accumulation_steps(recipe: Recipe, world: int) -> int:
    """Number of micro-batches in which each rank computes its share of a batch."""
    share = recipe.batch_size // world
    most = recipe.device_batch_size or share
    return next(parts for parts in range(1, share + 1) if share % parts == 0 and share // parts <= most)
