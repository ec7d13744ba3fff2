"""Reads, searches, compares and draws a collection that is on disk. No model is needed."""

from typing import TYPE_CHECKING

from hierax.lazy import lazy_names

if TYPE_CHECKING:
    from hierax.collection.checked import CollectionError
    from hierax.collection.duplicates import Group, Member
    from hierax.collection.index import Hit, Index
    from hierax.collection.outliers import Outlier
    from hierax.collection.projection import Layout, Point
    from hierax.collection.store import Manifest

__all__ = [
    "CollectionError",
    "Group",
    "Hit",
    "Index",
    "Layout",
    "Manifest",
    "Member",
    "Outlier",
    "Point",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "hierax.collection.checked": ("CollectionError",),
        "hierax.collection.duplicates": (
            "Group",
            "Member",
        ),
        "hierax.collection.index": (
            "Hit",
            "Index",
        ),
        "hierax.collection.outliers": ("Outlier",),
        "hierax.collection.projection": (
            "Layout",
            "Point",
        ),
        "hierax.collection.store": ("Manifest",),
    },
)
