"""Training: masked autoencoders, fine-tuning, evaluation."""

from hierax.train.progress import TrainingStopped
from hierax.train.recipe import Recipe
from hierax.train.recipes import RECIPES, recipe
from hierax.train.run import RunExists, finetune, pretrain

__all__ = ["RECIPES", "Recipe", "RunExists", "TrainingStopped", "finetune", "pretrain", "recipe"]
