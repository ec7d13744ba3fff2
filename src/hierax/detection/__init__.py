"""Detection and instance segmentation through transformers (extra `dense`): data, models, training, evaluation.

The heads are those of transformers (RT-DETR, D-FINE, Mask2Former) on hierax's backbone. Names are imported when they
are first used.
"""

from hierax.lazy import lazy_names

_MODULES = {
    "hierax.detection.dataset": ("AnnotatedImage", "DetectionDataset", "ObjectAnnotation"),
    "hierax.detection.sources": ("open_detection", "open_detection_splits"),
}
__all__ = [name for names in _MODULES.values() for name in names]  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
