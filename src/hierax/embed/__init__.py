"""Features of many pictures: shards that can be resumed, updated and searched."""

from hierax.embed.features import FeatureExtractor
from hierax.embed.run import EmbedReport, embed
from hierax.embed.store import CollectionError

__all__ = ["CollectionError", "EmbedReport", "FeatureExtractor", "embed"]
