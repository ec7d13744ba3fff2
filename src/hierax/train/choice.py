"""The defaults of a run: recipe, schedule and starting weights, by machine and data."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass

from hierax.console import quantity
from hierax.model.config import HieraConfig
from hierax.train.modes import MODES
from hierax.train.recipes import recipe as named
from hierax.train.settings import Recipe, fields

_FEMTO = frozenset(mode.start for mode in MODES.values())
_STEPS, _LEAST_BATCH = 6, 4
"""Minimum number of steps per epoch, unless the batch would become too small."""
FEW_HELD = 50
"""With fewer validation samples, scores are not precise enough to choose the best weights."""
_MANY = 50_000
"""With at least this number of samples, a run on a GPU starts with a larger network than femto."""
_HEAD = {"segmentation_head", "segmentation_hidden_size", "semantic_loss_ignore_index"}  # of no matter to an encoder
_ARCHITECTURE = frozenset(f.name for f in dataclasses.fields(HieraConfig)) - {"num_channels", *_HEAD, *fields()}


@dataclass(frozen=True)
class Choice:
    """The choice for a run: a recipe, the source of its weights (None: random weights), and a line about the reason."""

    recipe: Recipe
    source: str | None
    reason: str


def largest_batch(samples: int, most: int) -> int:
    """The largest batch size that is a power of two, at most `most`, and gives an epoch several steps."""
    batch = _LEAST_BATCH
    while batch * 2 <= most and batch * 2 * _STEPS <= samples:
        batch *= 2
    return min(batch, most)


def epochs_for(mode: str, place: str, samples: int) -> int:
    """The number of epochs: many for little data, few for much data."""
    wanted = MODES[mode].epochs[place]
    return min(max(round(wanted.samples / samples), wanted.least), wanted.most)


def default_source(mode: str, *, device: str, samples: int, pictures: bool, settings: Collection[str]) -> str | None:
    """The checkpoint to start from if `--from` is not given; None is random weights.

    Femto is only for images, and only if no other architecture is named.
    """
    if not pictures or _ARCHITECTURE & set(settings) or "model" in settings:
        return None
    learns_alone = not MODES[mode].supervised and samples >= _MANY
    return None if device != "cpu" and learns_alone else MODES[mode].start


def choose(
    mode: str,
    *,
    device: str,
    samples: int,
    validation_samples: int | None = None,
    source: str | None,
    pictures: bool = True,
    given: Collection[str] = (),
) -> Choice:
    """The recipe for this number of samples on this type of device, starting from `source`.

    `validation_samples` is the size of the validation set; None if it is drawn from `samples`. `given` are the settings
    that the user states; the line about the reason leaves them out.
    """
    place = "cpu" if device == "cpu" else "gpu"
    base = named(MODES[mode].recipes[place])
    batch, epochs = largest_batch(samples, base.batch_size), epochs_for(mode, place, samples)
    chosen = base.replace(batch_size=batch, epochs=epochs, warmup_epochs=min(base.warmup_epochs, epochs / 10))
    own = {"epochs": quantity(epochs, "epoch"), "batch_size": f"batches of {batch}"}
    said = [text for name, text in own.items() if name not in given]
    if source in _FEMTO or not pictures:
        chosen = chosen.replace(image_size=None)  # femto has its own size, and arrays have theirs
    if source in _FEMTO:
        rate = MODES[mode].start_lr
        if rate is not None:
            chosen = chosen.replace(lr=rate * (batch / 8) ** 0.5, scale_lr=False)
    elif source is None and MODES[mode].supervised:
        chosen = chosen.replace(layer_decay=1.0)  # all layers are random, the first as well as the last
    if (round(samples * chosen.validation_fraction) if validation_samples is None else validation_samples) < FEW_HELD:
        chosen = chosen.replace(weights="last")
        if "weights" not in given:
            said.append("model/ gets the last weights, because there are too few validation samples to choose the best")
    machine = "a CPU" if place == "cpu" else "a GPU"
    kind = "images" if pictures else "samples"
    reason = f"recipe {base.name}, for {machine} and {samples:,} {kind}{': ' if said else ''}{', '.join(said)}"
    return Choice(chosen, source, f"{reason} (--recipe NAME and key=value change it)")
