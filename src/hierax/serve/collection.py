"""The collection that a server searches."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hierax.serve.engines import Models


class Collection:
    """An open collection."""

    def __init__(self, folder: str | os.PathLike[str], models: Models) -> None:
        from hierax.collection.index import Index

        self.models, self.index = models, Index(os.fspath(folder))

    def describe(self) -> dict[str, Any]:
        """Its size and columns."""
        return {"count": len(self.index)}
