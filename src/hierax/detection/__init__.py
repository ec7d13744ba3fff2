"""Detection and instance segmentation through transformers (extra `dense`): data, models, training, evaluation.

The heads are those of transformers (RT-DETR, D-FINE, Mask2Former) on hierax's backbone. Names are imported when they
are first used.
"""

from hierax.lazy import lazy_names

_MODULES = {
    "hierax.detection.build": ("Detector", "build_detector", "open_detector"),
    "hierax.detection.dataset": ("AnnotatedImage", "DetectionDataset", "ObjectAnnotation"),
    "hierax.detection.evaluate": ("DetectionEvaluation", "evaluate_detection"),
    "hierax.detection.objects": ("FoundObject",),
    "hierax.detection.predict": ("Detection", "detect"),
    "hierax.detection.recipes": ("DetectionRecipe",),
    "hierax.detection.run": ("finetune_detection",),
    "hierax.detection.sources": ("open_detection", "open_detection_splits"),
}
__all__ = [name for names in _MODULES.values() for name in names]  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
