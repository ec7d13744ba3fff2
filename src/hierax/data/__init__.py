"""Datasets, augmentation and loading, in an order that can be repeated and resumed."""

from hierax.data.dataset import Dataset, Sample, Subset
from hierax.data.loader import Batch, TrainingLoader, evaluation_loader
from hierax.data.order import Draw, Order
from hierax.data.sources import open_dataset
from hierax.data.split import open_splits
from hierax.data.view import Augmentation, EvaluationView, TrainingView

__all__ = [
    "Augmentation",
    "Batch",
    "Dataset",
    "Draw",
    "EvaluationView",
    "Order",
    "Sample",
    "Subset",
    "TrainingLoader",
    "TrainingView",
    "evaluation_loader",
    "open_dataset",
    "open_splits",
]
