"""Losses of the classifiers."""

import torch
from torch import Tensor
from torch.nn import functional as F

from hierax.model.config import HieraConfig


def classification_loss(logits: Tensor, labels: Tensor, config: HieraConfig) -> Tensor:
    """The loss of `config.problem_type`. If that is None, the type follows from the labels, as in `transformers`.

    A model with one label does regression (mean squared error). Integer labels are classes (cross entropy). With float
    labels, several may be true (binary cross entropy).

    Raises:
        TypeError: labels are not a tensor.
        ValueError: the shape of the labels does not match the logits, or a label is not among the classes (on a GPU, an
            assertion of the device fails).
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels is a {type(labels).__name__}; expected a tensor")
    kind = config.problem_type
    if kind is None:
        integers = not (labels.is_floating_point() or labels.dtype == torch.bool)
        several = "single_label_classification" if integers else "multi_label_classification"
        kind = "regression" if config.num_labels == 1 else several
    classes = kind == "single_label_classification" and not labels.is_floating_point()
    shape, expected = tuple(labels.shape), tuple(logits.shape[:1] if classes else logits.shape)
    if expected not in (shape, (*shape, 1), shape[:1] if shape[1:] == (1,) else shape):
        raise ValueError(f"labels has shape {list(shape)}; expected {list(expected)} for {kind}")
    logits, labels = logits.float() if logits.dtype != torch.float64 else logits, labels.reshape(expected)
    if kind == "single_label_classification":  # floats are the probabilities of the classes, as mixup makes them
        try:
            return F.cross_entropy(logits, labels.long() if classes else labels.to(logits.dtype))
        except IndexError:
            wrong = labels[(labels < 0) | (labels >= logits.shape[-1])].tolist()[:1]
            raise ValueError(f"labels holds {wrong[0]}; expected 0 to {logits.shape[-1] - 1}") from None
    labels = labels.to(logits.dtype)
    return F.mse_loss(logits, labels) if kind == "regression" else F.binary_cross_entropy_with_logits(logits, labels)
