"""What the demonstration says of a photo: the most likely labels, or that the model is not sure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hierax.console import percent

if TYPE_CHECKING:
    from torch import Tensor

    from hierax.model.tasks import HieraForImageClassification

TOP = 3  # labels of a photo, at most
_LARGER = 1.4  # the size at which photos are classified, divided by the model's own size
_LEAST = 0.01  # the second and third label are not listed if they are less likely


@dataclass(frozen=True)
class Answer:
    """The most likely labels of a photo, their probabilities, and these as text; whether the model is sure."""

    labels: list[tuple[str, float, str]]
    sure: bool

    def __str__(self) -> str:
        """One line: the labels, after "not sure" if the model is not sure."""
        listed = "   ".join(f"{label} {share}" for label, _, share in self.labels)
        return listed if self.sure else f"not sure: {listed}"


def side(model: HieraForImageClassification) -> int:
    """The side in pixels at which the model classifies photos; it is right more often than at its own size."""
    return round(_LARGER * model.config.image_size[0] / 32) * 32


def probabilities(model: HieraForImageClassification, vectors: Tensor, *, temperature: float = 1) -> Tensor:
    """The probability of every label `[B, labels]`, from pooled features `[B, C]`; logits are divided by the
    temperature.
    """
    import torch

    with torch.inference_mode():
        return (model.head(vectors).float() / temperature).softmax(-1)


def answers_for(
    model: HieraForImageClassification, vectors: Tensor, *, temperature: float = 1, threshold: float = 0
) -> list[Answer]:
    """The answer for each photo, from its pooled features; the model is sure if its first label has at least the
    probability `threshold`.
    """
    shares = probabilities(model, vectors, temperature=temperature)
    values, indices = shares.topk(min(TOP, model.config.num_labels))
    names = {index: label.replace("-", " ") for index, label in model.config.id2label.items()}  # as for the gallery
    found = []
    for row in zip(values.tolist(), indices.tolist(), strict=True):
        listed = [(names[index], value, percent(value)) for value, index in zip(*row, strict=True)]
        likely = [entry for place, entry in enumerate(listed) if place == 0 or entry[1] >= _LEAST]
        found.append(Answer(likely, sure=listed[0][1] >= threshold))
    return found
