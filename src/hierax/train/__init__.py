"""Training: masked autoencoders, fine-tuning, evaluation."""

from typing import TYPE_CHECKING

from hierax.lazy import lazy_names

if TYPE_CHECKING:
    from hierax.train.evaluation import Evaluation, evaluate, probe_features
    from hierax.train.folder import RunExists
    from hierax.train.progress import TrainingStopped
    from hierax.train.recipes import RECIPES, recipe
    from hierax.train.run import finetune, pretrain
    from hierax.train.segmentation_evaluation import SegmentationEvaluation, evaluate_segmentation
    from hierax.train.settings import Recipe

__all__ = [
    "RECIPES",
    "Evaluation",
    "Recipe",
    "RunExists",
    "SegmentationEvaluation",
    "TrainingStopped",
    "evaluate",
    "evaluate_segmentation",
    "finetune",
    "pretrain",
    "probe_features",
    "recipe",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "hierax.train.evaluation": (
            "Evaluation",
            "evaluate",
            "probe_features",
        ),
        "hierax.train.folder": ("RunExists",),
        "hierax.train.progress": ("TrainingStopped",),
        "hierax.train.segmentation_evaluation": (
            "SegmentationEvaluation",
            "evaluate_segmentation",
        ),
        "hierax.train.settings": ("Recipe",),
        "hierax.train.recipes": (
            "RECIPES",
            "recipe",
        ),
        "hierax.train.run": (
            "finetune",
            "pretrain",
        ),
    },
)
