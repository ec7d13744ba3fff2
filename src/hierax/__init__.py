"""hierax: Hiera vision transformers for classification, features and masked image modeling, of images and video.

The public names are imported when they are first used, so that `import hierax` costs nothing.
"""

from __future__ import annotations

from hierax.lazy import lazy_names

TYPE_CHECKING = False  # like the constant of `typing`, which takes a long time to import
if TYPE_CHECKING:
    from typing import Any

    __version__: str

    from hierax.benchmark import BenchReport, bench
    from hierax.checkpoint.load import LoadingReport, load
    from hierax.checkpoint.opened import Checkpoint, open_checkpoint
    from hierax.checkpoint.records import CheckpointRecord, list_checkpoints
    from hierax.checkpoint.save import convert
    from hierax.collection.drawing import write_map
    from hierax.collection.duplicates import duplicates
    from hierax.collection.index import Hit, Index
    from hierax.collection.outliers import outliers
    from hierax.data.stats import DatasetStatistics, stats
    from hierax.embedding import CollectionError, EmbedReport, FeatureExtractor, embed
    from hierax.embedding.search import SearchResult, search
    from hierax.engine import Engine
    from hierax.engine.export.export import export
    from hierax.engine.export.parity import ParityError, ParityReport
    from hierax.engine.signature import EngineOutput
    from hierax.engine.streaming import StreamResult
    from hierax.model.config import HieraConfig, list_models
    from hierax.model.encoder import Features, Hiera
    from hierax.model.inflate import inflate
    from hierax.model.outputs import (
        BackboneOutput,
        ClassifierOutput,
        HieraModelOutput,
        PreTrainingOutput,
        SemanticSegmentationOutput,
    )
    from hierax.model.pretrained import Pretrained
    from hierax.model.registry import create_model
    from hierax.model.segmentation import HieraForSemanticSegmentation
    from hierax.model.tasks import (
        HieraBackbone,
        HieraForImageClassification,
        HieraForPreTraining,
        HieraForVideoClassification,
        HieraModel,
    )
    from hierax.predict.classify import Classification, Prediction, classify
    from hierax.predict.explain import Explanation, explain
    from hierax.predict.explanation_files import ExplanationFiles
    from hierax.predict.features import FeatureFiles, features
    from hierax.predict.reconstruct import Reconstruction, reconstruct
    from hierax.predict.segment import Segmentation, segment
    from hierax.predict.segmentation_files import SegmentationFiles
    from hierax.predict.segmenter import ClassArea
    from hierax.processing import (
        AutoImageProcessor,
        BatchFeature,
        Clip,
        HieraImageProcessor,
        HieraVideoProcessor,
        ImageError,
        Preprocessing,
        VideoError,
        load_image,
    )

__all__ = [
    "AutoImageProcessor",
    "BackboneOutput",
    "BatchFeature",
    "BenchReport",
    "Checkpoint",
    "CheckpointRecord",
    "ClassArea",
    "Classification",
    "ClassifierOutput",
    "Clip",
    "CollectionError",
    "DatasetStatistics",
    "EmbedReport",
    "Engine",
    "EngineOutput",
    "Explanation",
    "ExplanationFiles",
    "FeatureExtractor",
    "FeatureFiles",
    "Features",
    "Hiera",
    "HieraBackbone",
    "HieraConfig",
    "HieraForImageClassification",
    "HieraForPreTraining",
    "HieraForSemanticSegmentation",
    "HieraForVideoClassification",
    "HieraImageProcessor",
    "HieraModel",
    "HieraModelOutput",
    "HieraVideoProcessor",
    "Hit",
    "ImageError",
    "Index",
    "LoadingReport",
    "ParityError",
    "ParityReport",
    "PreTrainingOutput",
    "Prediction",
    "Preprocessing",
    "Pretrained",
    "Reconstruction",
    "SearchResult",
    "Segmentation",
    "SegmentationFiles",
    "SemanticSegmentationOutput",
    "StreamResult",
    "VideoError",
    "bench",
    "classify",
    "convert",
    "create_model",
    "duplicates",
    "embed",
    "explain",
    "export",
    "features",
    "inflate",
    "list_checkpoints",
    "list_models",
    "load",
    "load_image",
    "open_checkpoint",
    "outliers",
    "reconstruct",
    "search",
    "segment",
    "stats",
    "write_map",
]

_MODULES = {
    "hierax.collection": (),
    "hierax.data": (),
    "hierax.detection": (),
    "hierax.train": (),
    "hierax.checkpoint.load": ("LoadingReport", "load"),
    "hierax.checkpoint.opened": ("Checkpoint", "open_checkpoint"),
    "hierax.checkpoint.records": ("CheckpointRecord", "list_checkpoints"),
    "hierax.checkpoint.save": ("convert",),
    "hierax.collection.drawing": ("write_map",),
    "hierax.embedding.search": ("SearchResult", "search"),
    "hierax.model.config": ("HieraConfig", "list_models"),
    "hierax.data.stats": ("DatasetStatistics", "stats"),
    "hierax.embedding": ("CollectionError", "EmbedReport", "FeatureExtractor", "embed"),
    "hierax.collection.duplicates": ("duplicates",),
    "hierax.collection.index": ("Hit", "Index"),
    "hierax.collection.outliers": ("outliers",),
    "hierax.model.encoder": ("Features", "Hiera"),
    "hierax.engine": ("Engine",),
    "hierax.engine.signature": ("EngineOutput",),
    "hierax.engine.streaming": ("StreamResult",),
    "hierax.model.outputs": (
        "BackboneOutput",
        "ClassifierOutput",
        "HieraModelOutput",
        "PreTrainingOutput",
        "SemanticSegmentationOutput",
    ),
    "hierax.model.pretrained": ("Pretrained",),
    "hierax.benchmark": ("BenchReport", "bench"),
    "hierax.engine.export.export": ("export",),
    "hierax.engine.export.parity": ("ParityError", "ParityReport"),
    "hierax.model.inflate": ("inflate",),
    "hierax.model.tasks": (
        "HieraBackbone",
        "HieraForImageClassification",
        "HieraForPreTraining",
        "HieraForVideoClassification",
        "HieraModel",
    ),
    "hierax.model.registry": ("create_model",),
    "hierax.model.segmentation": ("HieraForSemanticSegmentation",),
    "hierax.predict.classify": ("Classification", "Prediction", "classify"),
    "hierax.predict.explain": ("Explanation", "explain"),
    "hierax.predict.explanation_files": ("ExplanationFiles",),
    "hierax.predict.features": ("FeatureFiles", "features"),
    "hierax.predict.reconstruct": ("Reconstruction", "reconstruct"),
    "hierax.predict.segment": ("Segmentation", "segment"),
    "hierax.predict.segmenter": ("ClassArea",),
    "hierax.predict.segmentation_files": ("SegmentationFiles",),
    "hierax.processing": (
        "AutoImageProcessor",
        "BatchFeature",
        "Clip",
        "HieraImageProcessor",
        "HieraVideoProcessor",
        "ImageError",
        "Preprocessing",
        "VideoError",
        "load_image",
    ),
}
_FORMER = {
    "Classified": "Classification",
    "Reconstructed": "Reconstruction",
    "Searched": "SearchResult",
    "Streamed": "StreamResult",
}
_get, _names = lazy_names(__name__, _MODULES, former=_FORMER)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("hierax")
    return _get(name)


def __dir__() -> list[str]:
    return [*_names(), "__version__"]
