"""Datasets, augmentation and loading, in an order that can be repeated and resumed."""

from typing import TYPE_CHECKING

from hierax.lazy import lazy_names

if TYPE_CHECKING:
    from hierax.data.dataset import Dataset, Sample, Subset
    from hierax.data.loader import Batch, TrainingLoader, evaluation_loader
    from hierax.data.order import Order, SampleKey
    from hierax.data.segmentation.dataset import SegmentationDataset, palette_of
    from hierax.data.segmentation.sources import open_segmentation, open_segmentation_splits
    from hierax.data.segmentation.stats import SegmentationStatistics, segmentation_statistics
    from hierax.data.sources import open_dataset
    from hierax.data.split import open_splits
    from hierax.data.view import Augmentation, EvaluationView, TrainingView

__all__ = [
    "Augmentation",
    "Batch",
    "Dataset",
    "EvaluationView",
    "Order",
    "Sample",
    "SampleKey",
    "SegmentationDataset",
    "SegmentationStatistics",
    "Subset",
    "TrainingLoader",
    "TrainingView",
    "evaluation_loader",
    "open_dataset",
    "open_segmentation",
    "open_segmentation_splits",
    "open_splits",
    "palette_of",
    "segmentation_statistics",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "hierax.data.dataset": (
            "Dataset",
            "Sample",
            "Subset",
        ),
        "hierax.data.loader": (
            "Batch",
            "TrainingLoader",
            "evaluation_loader",
        ),
        "hierax.data.order": (
            "Draw",  # the former name of SampleKey
            "Order",
            "SampleKey",
        ),
        "hierax.data.segmentation.dataset": (
            "SegmentationDataset",
            "palette_of",
        ),
        "hierax.data.segmentation.sources": (
            "open_segmentation",
            "open_segmentation_splits",
        ),
        "hierax.data.segmentation.stats": (
            "SegmentationStatistics",
            "segmentation_statistics",
        ),
        "hierax.data.sources": ("open_dataset",),
        "hierax.data.split": ("open_splits",),
        "hierax.data.view": (
            "Augmentation",
            "EvaluationView",
            "TrainingView",
        ),
    },
)
