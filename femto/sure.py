"""When `hierax demo` says "not sure": the part `sure` of femto/measure.py.

Probabilities are computed as the demo does it. Logits are divided by the temperature with the smallest cross-entropy
on the validation set. The threshold is for the probability of the first label: the smallest multiple of 0.01 at which
`GOAL` of the answered pictures of the validation set are right. Both are then measured on the test set, on its photos
and drawings apart, and on photos that belong to no category. Pictures that are saved as JPEG are photos
(femto/pictures.py).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hierax.demo.answers import probabilities, side
from hierax.demo.inputs import pooled
from hierax.model.tasks import HieraForImageClassification
from split import is_photo

Json = dict[str, Any]
GOAL = 0.8  # share of the answers that are to be right
DRAWS = 2000  # of the bootstrap
BINS = 15  # of the expected calibration error
_BATCH = 16


class Answered:
    """The probabilities `[N, labels]` of pictures, their labels (-1: none of the categories), and which are photos."""

    def __init__(self, model: HieraForImageClassification, files: Sequence[Path], labels: Sequence[int]) -> None:
        parts = []
        for start in range(0, len(files), _BATCH):
            pictures = [Image.open(file).convert("RGB") for file in files[start : start + _BATCH]]
            parts.append(probabilities(model, pooled(model, pictures, side(model))))
        self.probabilities = torch.cat(parts).double().numpy()
        self.labels = np.array(labels)
        self.photos = np.array([is_photo(file.name) for file in files])

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the first label `[N]`."""
        return self.probabilities.max(1)

    @property
    def right(self) -> np.ndarray:
        """Whether the first label is right `[N]`."""
        return self.probabilities.argmax(1) == self.labels

    def heat(self, temperature: float) -> None:
        """Changes the probabilities to those of logits that are divided by a temperature."""
        self.probabilities = heated(self.probabilities, temperature)


def smallest_threshold(confidence: np.ndarray, right: np.ndarray, goal: float = GOAL) -> float:
    """The smallest multiple of 0.01 at which that share of the answers is right; 1 if there is none."""
    for step in range(100):
        answered = confidence >= step / 100
        if answered.any() and right[answered].mean() >= goal:
            return step / 100
    return 1.0


def answered_share(found: Answered, chosen: np.ndarray, threshold: float) -> Json:
    """Of the chosen pictures: how many are answered, and how many of the answers are right, in percent, with 95 %
    intervals of a bootstrap over the pictures.
    """
    answered, right = found.confidence[chosen] >= threshold, found.right[chosen]
    draws = np.random.default_rng(0).integers(0, len(right), (DRAWS, len(right)))

    def share(of: np.ndarray, among: np.ndarray) -> list[float]:
        drawn = (of & among)[draws].sum(1) / np.maximum(among[draws].sum(1), 1)
        values = ((of & among).sum() / max(among.sum(), 1), *np.quantile(drawn, (0.025, 0.975)))
        return [round(100 * float(value), 1) for value in values]

    whole = np.ones_like(answered)
    return {"pictures": len(right), "answered": share(answered, whole), "right": share(right, answered)}


def calibration_error(probabilities_: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error in percent: |share of right answers - mean probability|, averaged over bins."""
    confidence, right = probabilities_.max(1), probabilities_.argmax(1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return round(100 * float(sum(gaps)), 2)


def heated(probabilities_: np.ndarray, temperature: float) -> np.ndarray:
    """The probabilities of logits that are divided by a temperature."""
    powered = probabilities_ ** (1 / temperature)
    return powered / powered.sum(1, keepdims=True)


def best_temperature(found: Answered) -> float:
    """The temperature with the smallest cross-entropy, of 0.4 to 2 in steps of 0.02."""
    rows = np.arange(len(found.labels))

    def entropy(temperature: float) -> float:
        return -float(np.log(heated(found.probabilities, temperature)[rows, found.labels] + 1e-12).mean())

    return min((round(0.4 + 0.02 * step, 2) for step in range(81)), key=entropy)


def labeled(model: HieraForImageClassification, folder: Path) -> Answered:
    """A folder with a folder of pictures for each category."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    known = model.config.label2id
    return Answered(model, files, [known[file.parent.name] for file in files])


def sure(a: argparse.Namespace) -> Json:
    """The temperature and the threshold, chosen on the validation set, and what they are worth."""
    model = HieraForImageClassification.from_pretrained(str(a.classifier)).eval()
    validation, test = (labeled(model, a.pictures / "labeled" / part) for part in ("val", "test"))
    outside = sorted((a.pictures / "held_out_photos").iterdir())
    others = Answered(model, outside, [-1] * len(outside))
    before = {
        name: calibration_error(test.probabilities[chosen], test.labels[chosen]) for name, chosen in parts(test.photos)
    }
    plain = smallest_threshold(validation.confidence, validation.right)
    unscaled = {"threshold": plain, **answered_share(test, np.ones_like(test.photos), plain)}
    temperature = best_temperature(validation)
    for found in (validation, test, others):
        found.heat(temperature)
    threshold = smallest_threshold(validation.confidence, validation.right)
    unsure = [round(100 - v, 1) for v in answered_share(others, np.ones_like(others.photos), threshold)["answered"]]
    after = {
        name: calibration_error(test.probabilities[chosen], test.labels[chosen]) for name, chosen in parts(test.photos)
    }
    return {
        "threshold": threshold,
        "temperature": temperature,
        "goal": 100 * GOAL,
        "side": side(model),
        "validation": {
            name: answered_share(validation, chosen, threshold) for name, chosen in parts(validation.photos)
        },
        "test": {name: answered_share(test, chosen, threshold) for name, chosen in parts(test.photos)},
        "photos of no category": {"pictures": len(outside), "not sure": [unsure[place] for place in (0, 2, 1)]},
        "without temperature": unscaled,
        "calibration error": {name: [before[name], after[name]] for name in before},
    }


def parts(photos: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """All pictures, the photos, the drawings: their names, and which they are. `photos` says which are photos."""
    return [("all", np.ones_like(photos)), ("photos", photos), ("drawings", ~photos)]


def sure_metrics(found: Json) -> Json:
    """What stands beside the weights of it (see `hierax.checkpoint.bundled`)."""
    test = found["test"]["all"]
    return {
        "sure": found["threshold"],
        "sure_temperature": found["temperature"],
        "sure_side": found["side"],
        "sure_coverage": test["answered"][0],
        "sure_precision": test["right"][0],
    }
