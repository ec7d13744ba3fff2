"""What femto/gpu.py measures at its end, on the pictures of a pack that are held out."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hierax.checkpoint.load import load
from hierax.model.tasks import HieraForImageClassification
from hierax.processing import HieraImageProcessor
from hierax.train.teacher import Teacher
from measure import scored
from pack import Entry, Pack
from sure import DRAWS, parts

Json = dict[str, Any]
BATCH = 64


def measured(
    pack: Pack, runs: Path, teacher: Teacher, device: torch.device, *, labeled: bool, most: int | None = None
) -> Json:
    """Agreement with the teacher and, if `labeled`, accuracy on val and test; photos and drawings also apart.

    Args:
        runs: has the runs `distillation` and, if `labeled`, `categories`.
        most: measure only about so many pictures of a split.
    """
    entries = {name: pack.split(name) for name in ("val", "test", "held-out")}
    if most:
        entries = {name: found[:: max(len(found) // most, 1)] for name, found in entries.items()}
    found: Json = {}
    if labeled:
        found["accuracy"] = accuracy(pack, runs / "categories", entries, device)
    every = [entry for those in entries.values() for entry in those]
    found["teacher agreement"] = apart(every, agreement(pack, runs / "distillation", every, teacher, device), agreed)
    return found


def apart(entries: Sequence[Entry], values: np.ndarray, measure: Callable[[np.ndarray], Json]) -> Json:
    """A measure of `values` `[N, ...]`, of all pictures, of photos and of drawings."""
    photos = np.array([entry.photo for entry in entries])
    return {name: measure(values[chosen]) for name, chosen in parts(photos) if chosen.any()}


def whole(pack: Pack, model: HieraForImageClassification, entries: Sequence[Entry]) -> Tensor:
    """Pixels `[N, 3, side, side]` of whole pictures as a model sees them."""
    assert model.preprocessing is not None
    processor = HieraImageProcessor(model.preprocessing)
    with ThreadPoolExecutor() as pool:
        return torch.cat(list(pool.map(lambda e: processor(pack.picture(e.name)).pixel_values, entries)))


def opened(run: Path, device: torch.device) -> HieraForImageClassification:
    """The classifier of a run."""
    model = load(run, device=device)
    assert isinstance(model, HieraForImageClassification)
    return model.eval()


@torch.inference_mode()
def accuracy(pack: Pack, run: Path, entries: dict[str, list[Entry]], device: torch.device) -> Json:
    """Top-1 and balanced top-1 of val and test in percent, with intervals."""
    model, found = opened(run, device), {}
    for split in ("val", "test"):
        if entries[split]:
            pixels = whole(pack, model, entries[split])
            logits = [model(part.to(device)).logits.argmax(1).cpu() for part in pixels.split(BATCH)]
            labels = [pack.categories.index(entry.category) for entry in entries[split]]
            both = np.stack([torch.cat(logits).numpy(), np.array(labels)], 1)
            found[split] = apart(entries[split], both, lambda values: scored(values[:, 0], values[:, 1]))
    return found


@torch.inference_mode()
def agreement(pack: Pack, run: Path, entries: Sequence[Entry], teacher: Teacher, device: torch.device) -> np.ndarray:
    """bool `[N, 2]`: whether the teacher's first class is the first of the student, and one of its first five."""
    model, hits = opened(run, device), []
    record = model.preprocessing
    assert record is not None
    mean, std = (
        torch.tensor(values, device=device).view(1, 3, 1, 1) * 255 for values in (record.image_mean, record.image_std)
    )
    for part in whole(pack, model, entries).split(BATCH):
        pixels = part.to(device)
        answers = teacher(pixels, mean, std).logits
        assert answers is not None
        five = model(pixels).logits.topk(5).indices == answers.argmax(1, keepdim=True)
        hits.append(torch.stack([five[:, 0], five.any(1)], 1).cpu())
    return torch.cat(hits).numpy()


def agreed(hits: np.ndarray) -> Json:
    """Shares of `hits` `[N, 2]` in percent, with intervals by a bootstrap over the pictures."""
    random = np.random.default_rng(0)
    drawn = np.stack([hits[random.integers(len(hits), size=len(hits))].mean(0) for _ in range(DRAWS)])
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    values = np.round(100 * np.stack([hits.mean(0), low, high], 1), 2)
    return {"pictures": len(hits), "top1": values[0].tolist(), "top5": values[1].tolist()}
