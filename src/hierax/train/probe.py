"""Probes of frozen features: a linear classifier and nearest neighbors on the pooled map of each stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hierax.data.loader import Batch, evaluation_loader
from hierax.model.pretrained import Pretrained
from hierax.train.predictions import Inputs, count_samples, normalize, unreadable_samples

PROBES = ("linear", "knn")
DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_NUM_NEIGHBORS = 20
_TEMPERATURE = 0.07


@dataclass(frozen=True)
class Features:
    """Pooled features of a dataset.

    Attributes:
        stages: for each stage, float32 `[N, C]`: the mean of its map over the tokens that touch the image.
        labels: int64 `[N]`.
        bad: names and problems of the unreadable samples.
    """

    stages: tuple[Tensor, ...]
    labels: Tensor
    bad: list[tuple[str, str]]


@torch.no_grad()
def extract_features(
    model: Pretrained,
    inputs: Inputs,
    *,
    batch: int = 32,
    workers: int = 0,
    on_progress: Callable[[int, int], object] | None = None,
) -> Features:
    """The pooled map of every stage for every sample. `on_progress` gets the number of samples done, and of all.

    Raises:
        ValueError: no sample can be read, or samples do not have exactly one label.
    """
    encoder = model.get_submodule("encoder")
    stages = range(1, model.config.stages + 1)
    found: list[list[Tensor]] = []
    labels: list[Tensor] = []
    bad: list[tuple[str, str]] = []
    loader = evaluation_loader(inputs.view, batch=batch, workers=workers)
    for part in count_samples(loader, len(inputs.view.dataset), on_progress):
        bad += unreadable_samples(part)
        if isinstance(part, Batch):
            if part.labels is None or part.labels.ndim != 1:
                raise ValueError("a probe needs samples with one label each")
            out = encoder(normalize(part.pixels, model, inputs.mean, inputs.std), stages=set(stages))
            found.append([out.grid(stage).flatten(1, -2).mean(1).float().cpu() for stage in stages])
            labels.append(part.labels)
    if not found:
        raise ValueError(f"none of the {len(bad)} samples can be read")
    return Features(tuple(torch.cat(tensors) for tensors in zip(*found, strict=True)), torch.cat(labels), bad)


def knn(train: Tensor, labels: Tensor, test: Tensor, *, classes: int, num_neighbors: int = _NUM_NEIGHBORS) -> Tensor:
    """Predicted classes `[M]`: each of the samples with the highest cosine votes with the weight exp(cosine / 0.07)."""
    scale = train.std(0, correction=0).clamp(min=1e-6)
    center = train.mean(0)
    a, b = (F.normalize((x - center) / scale, dim=1) for x in (train, test))
    similarity, nearest = (b @ a.T).topk(min(num_neighbors, len(train)), dim=1)
    votes = torch.zeros(len(test), classes).scatter_add_(1, labels[nearest], (similarity / _TEMPERATURE).exp())
    return votes.argmax(1)


def linear(train: Tensor, labels: Tensor, test: Tensor, *, classes: int, seed: int = 0) -> Tensor:
    """Predicted classes `[M]` of a multinomial logistic regression on standardized features (L-BFGS).

    Its weight decay is chosen on a held-out fifth of the training samples; then it is fitted to all of them.
    """
    scale, center = train.std(0, correction=0).clamp(min=1e-6), train.mean(0)
    a, b = ((x - center) / scale for x in (train, test))
    order = torch.randperm(len(a), generator=torch.Generator().manual_seed(seed))
    validation, rest = order[: len(a) // 5], order[len(a) // 5 :]
    scores = []
    for decay in DECAYS:
        weight, bias = logistic_regression(a[rest], labels[rest], classes=classes, decay=decay)
        hits = (a[validation] @ weight + bias).argmax(1) == labels[validation]
        scores.append(hits.double().mean().item() if len(validation) else 0)
    best = DECAYS[max(range(len(scores)), key=scores.__getitem__)]
    weight, bias = logistic_regression(a, labels, classes=classes, decay=best)
    return (b @ weight + bias).argmax(1)


def logistic_regression(features: Tensor, labels: Tensor, *, classes: int, decay: float) -> tuple[Tensor, Tensor]:
    """Weights `[C, K]` and biases `[K]` of a multinomial logistic regression on features `[N, C]` (L-BFGS)."""
    weight = torch.zeros(features.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(features @ weight + bias, labels) + decay * weight.square().sum() / 2
        loss.backward()
        return loss

    solver.step(closure)  # pyright: ignore[reportArgumentType]
    return weight.detach(), bias.detach()


def check_probe(kind: str) -> None:
    """Raises `ValueError` if there is no such kind of probe."""
    if kind not in PROBES:
        raise ValueError(f"probe is {kind!r}; expected {', '.join(PROBES)}")


def probe(kind: str, train: Features, test: Features, *, classes: int) -> dict[str, float]:
    """Top-1 accuracy by stage name.

    Raises:
        ValueError: an unknown kind of probe.
    """
    check_probe(kind)
    predict = linear if kind == "linear" else knn
    return {
        f"stage{number}": (predict(a, train.labels, b, classes=classes) == test.labels).double().mean().item()
        for number, (a, b) in enumerate(zip(train.stages, test.stages, strict=True), start=1)
    }
