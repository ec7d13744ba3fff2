"""Features of many images: shards that can be resumed, updated and searched."""

from hierax.embedding.features import FeatureExtractor
from hierax.embedding.run import EmbedReport, embed
from hierax.embedding.store import CollectionError

__all__ = ["CollectionError", "EmbedReport", "FeatureExtractor", "embed"]
