"""Losses of the classifiers and of segmentation."""

import torch
from torch import Tensor
from torch.nn import functional as F

from hierax.model.config import HieraConfig

_NO_LABEL = -100  # inputs with this label do not count, as in PyTorch


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
    elif kind == "single_label_classification" and config.num_labels == 1:
        raise ValueError(
            f"problem_type is {kind!r}, but the model has one label, so the loss would always be 0; expected "
            'problem_type="regression", or "multi_label_classification" for yes or no'
        )
    classes = kind == "single_label_classification" and not labels.is_floating_point()
    shape, expected = tuple(labels.shape), tuple(logits.shape[:1] if classes else logits.shape)
    if expected not in (shape, (*shape, 1), shape[:1] if shape[1:] == (1,) else shape):
        hint = "; class indices are integers" if shape == logits.shape[:1] and labels.is_floating_point() else ""
        of_config = " (model.config.problem_type)" if config.problem_type else ""
        raise ValueError(f"labels has shape {list(shape)}; expected {list(expected)} for {kind}{of_config}{hint}")
    logits, labels = logits.float() if logits.dtype != torch.float64 else logits, labels.reshape(expected)
    if kind == "single_label_classification":  # floats are the probabilities of the classes, as mixup makes them
        try:
            return F.cross_entropy(logits, labels.long() if classes else labels.to(logits.dtype))
        except IndexError:
            wrong = labels[((labels < 0) | (labels >= logits.shape[-1])) & (labels != _NO_LABEL)].tolist()[:1]
            raise ValueError(f"labels holds {wrong[0]}; expected 0 to {logits.shape[-1] - 1}") from None
    labels = labels.to(logits.dtype)
    return F.mse_loss(logits, labels) if kind == "regression" else F.binary_cross_entropy_with_logits(logits, labels)


def segmentation_loss(logits: Tensor, labels: Tensor, config: HieraConfig) -> Tensor:
    """Mean cross entropy over the pixels whose label is not `config.semantic_loss_ignore_index`.

    It is 0, with gradients of 0, if there are none.

    Args:
        logits: `[B, num_labels, height, width]`.
        labels: integers `[B, height, width]`.

    Raises:
        ValueError: a label is not among the classes (on a GPU, an assertion of the device fails); or the number that
            means "ignore" is 255, and the model has a class of this number.
    """
    ignored, classes = config.semantic_loss_ignore_index, config.num_labels
    if ignored == 255 < classes:
        raise ValueError(
            f"semantic_loss_ignore_index is 255, which is one of the {classes} classes; expected another number, "
            "such as -100"
        )
    logits, labels = logits if logits.dtype == torch.float64 else logits.float(), labels.long()
    try:
        total = F.cross_entropy(logits, labels, ignore_index=ignored, reduction="sum")
    except IndexError:
        wrong = labels[((labels < 0) | (labels >= classes)) & (labels != ignored)].tolist()[:1]
        raise ValueError(
            f"labels holds {wrong[0]}; expected 0 to {classes - 1}, or {ignored} for pixels that do not count"
        ) from None
    return total / (labels != ignored).sum().clamp(min=1)
