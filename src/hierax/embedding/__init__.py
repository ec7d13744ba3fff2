"""Computes the features of many images, and writes them into a collection that can be resumed, updated and searched."""

from typing import TYPE_CHECKING

from hierax.lazy import lazy_names

if TYPE_CHECKING:
    from hierax.collection.store import CollectionError
    from hierax.embedding.extractor import FeatureExtractor
    from hierax.embedding.run import EmbedReport, embed

__all__ = ["CollectionError", "EmbedReport", "FeatureExtractor", "embed"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "hierax.embedding.extractor": ("FeatureExtractor",),
        "hierax.embedding.run": (
            "EmbedReport",
            "embed",
        ),
        "hierax.collection.store": ("CollectionError",),
    },
)
