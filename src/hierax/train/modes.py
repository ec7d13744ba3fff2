"""The table of modes: what a run can do. A new mode is a row here, with its objective and its evaluation.

PyTorch and the rest of training are imported by the functions of a row, because recipes are listed without them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hierax.checkpoint.bundled import FEMTO, FEMTO_MAE

if TYPE_CHECKING:
    from hierax.data.dataset import Dataset
    from hierax.model.pretrained import Pretrained
    from hierax.train.objective import Objective
    from hierax.train.parallel import World
    from hierax.train.predictions import Inputs, Predictions
    from hierax.train.prepare import PreparedRun
    from hierax.train.segmentation import SegmentationResult
    from hierax.train.settings import Recipe
    from hierax.train.teacher_cache import TeacherCache


@dataclass(frozen=True)
class EvaluationResult:
    """The result of an evaluation.

    Attributes:
        metrics: the metrics by name. The weights with the highest "score" are the best.
        bad: names and problems of the samples that cannot be read.
        predictions: the predictions for every sample, or the confusion matrix of the pixels, for the report; None if
            there are none.
    """

    metrics: dict[str, float]
    bad: list[tuple[str, str]]
    predictions: Predictions | SegmentationResult | None = None


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """How long a run of the default recipe is: the number of samples seen in total, and the limits of the epochs."""

    samples: int
    least: int
    most: int


@dataclass(frozen=True, kw_only=True)
class Mode:
    """What a run does.

    Attributes:
        name: "pretrain", "finetune" or "segment".
        part: the part of the model that it trains besides the encoder; `hierax.model.registry.task_with` gives the
            model's task.
        supervised: whether it learns from labels or from a teacher.
        targets: whether it learns a class for each pixel, so that samples need a target.
        start: the bundled checkpoint to start from, for images.
        start_lr: the learning rate of runs that start from it, for a batch of 8; None is that of the recipe.
        recipes, epochs: the default recipe and its length on a "cpu" and a "gpu".
        objective: takes the recipe, `PreparedRun`, the model, the training set and the cache of the teacher; returns
            the model with its loss.
        evaluate: measures the model on samples that it is not trained on.
    """

    name: str
    part: str
    supervised: bool
    start: str
    recipes: Mapping[str, str]
    epochs: Mapping[str, Epochs]
    objective: Callable[[Recipe, PreparedRun, Pretrained, Dataset, TeacherCache | None], Objective]
    evaluate: Callable[..., EvaluationResult]
    targets: bool = False
    start_lr: float | None = None

    @property
    def masked(self) -> bool:
        """Whether it hides mask units and predicts them, as the task of its part does."""
        from hierax.model.registry import TASKS

        return any(spec.masked for spec in TASKS.values() if spec.part == self.part)


def _pretraining(
    recipe: Recipe, prepared: PreparedRun, model: Pretrained, train: Dataset, cache: TeacherCache | None
) -> Objective:
    from hierax.train.objective import HogPretraining, Pretraining

    kind = HogPretraining if recipe.target == "hog" else Pretraining
    return kind(model, recipe, mean=prepared.mean, std=prepared.std)


def _finetuning(
    recipe: Recipe, prepared: PreparedRun, model: Pretrained, train: Dataset, cache: TeacherCache | None
) -> Objective:
    from hierax.train.distillation import Distillation, has_same_classes
    from hierax.train.objective import Finetuning

    options: dict[str, Any] = {
        "mean": prepared.mean,
        "std": prepared.std,
        "class_weights": prepared.class_weights,
    }
    if prepared.teacher is None:
        return Finetuning(model, recipe, **options)
    own = has_same_classes(model.config, prepared.teacher)
    return Distillation(
        model, recipe, teacher=prepared.teacher, labeled=prepared.labeled, own_head=own, cache=cache, **options
    )


def _segmentation(
    recipe: Recipe, prepared: PreparedRun, model: Pretrained, train: Dataset, cache: TeacherCache | None
) -> Objective:
    from hierax.train.segmentation import Segmentation

    return Segmentation(model, recipe, mean=prepared.mean, std=prepared.std, class_weights=prepared.class_weights)


def _reconstructed(
    objective: Objective, inputs: Inputs, world: World, *, batch: int, workers: int, stop: Callable[[], bool]
) -> EvaluationResult:
    from hierax.train.predictions import masked_loss

    return EvaluationResult(*masked_loss(objective, inputs.view, world, batch=batch, workers=workers, stop=stop))


def _classified(
    objective: Objective, inputs: Inputs, world: World, *, batch: int, workers: int, stop: Callable[[], bool]
) -> EvaluationResult:
    from hierax.train.distillation import Distillation, agreement
    from hierax.train.predictions import predict

    if isinstance(objective, Distillation) and not objective.labeled:
        return EvaluationResult(*agreement(objective, inputs.view, world, batch=batch, workers=workers, stop=stop))
    found = predict(objective.model, inputs, world, batch=batch, workers=workers, stop=stop)
    return EvaluationResult(found.metrics(), found.bad, found)


def _segmented(
    objective: Objective, inputs: Inputs, world: World, *, batch: int, workers: int, stop: Callable[[], bool]
) -> EvaluationResult:
    from hierax.model.segmentation import HieraForSemanticSegmentation
    from hierax.train.segmentation import segment_dataset

    assert isinstance(objective.model, HieraForSemanticSegmentation)
    found = segment_dataset(objective.model, inputs, world, workers=workers, stop=stop)
    return EvaluationResult(found.metrics(), found.bad, found)


MODES: Mapping[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode(
            name="pretrain",
            part="decoder",
            supervised=False,
            start=FEMTO_MAE,
            recipes={"cpu": "mae_tiny_small_data_cpu", "gpu": "mae_tiny_small_data"},
            epochs={
                "cpu": Epochs(samples=20_000, least=3, most=100),
                "gpu": Epochs(samples=10_000_000, least=50, most=400),
            },
            objective=_pretraining,
            evaluate=_reconstructed,
        ),
        Mode(
            name="finetune",
            part="head",
            supervised=True,
            start=FEMTO,
            # after 20 epochs on 60 images in three classes, 48 of 60 others were right with 4e-4, 46 with 1e-3
            start_lr=5e-4,
            recipes={"cpu": "finetune_tiny_small_data_cpu", "gpu": "finetune_tiny_small_data"},
            epochs={
                "cpu": Epochs(samples=20_000, least=3, most=20),
                "gpu": Epochs(samples=1_000_000, least=20, most=100),
            },
            objective=_finetuning,
            evaluate=_classified,
        ),
        Mode(
            name="segment",
            part="segmentation",
            supervised=True,
            targets=True,
            start=FEMTO,
            start_lr=1e-3,
            recipes={"cpu": "segment_tiny_small_data_cpu", "gpu": "segment_tiny_small_data"},
            epochs={
                "cpu": Epochs(samples=6_000, least=3, most=60),
                "gpu": Epochs(samples=200_000, least=20, most=200),
            },
            objective=_segmentation,
            evaluate=_segmented,
        ),
    )
}
"""All modes by name."""


def mode_of(recipe: Recipe) -> Mode:
    """The mode of a recipe."""
    return MODES[recipe.mode]
