"""Training: masked autoencoders, fine-tuning, evaluation."""

from hierax.train.evaluation import Evaluation, evaluate, probe_features
from hierax.train.progress import TrainingStopped
from hierax.train.recipe import Recipe
from hierax.train.recipes import RECIPES, recipe
from hierax.train.run import RunExists, finetune, pretrain

__all__ = [
    "RECIPES",
    "Evaluation",
    "Recipe",
    "RunExists",
    "TrainingStopped",
    "evaluate",
    "finetune",
    "pretrain",
    "probe_features",
    "recipe",
]
