"""The hits of a search in a notebook, as small images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hierax.reprs.markup import Markup, ending, escaped, figures, file_card, image_tag

if TYPE_CHECKING:
    from hierax.collection.index import Hit, Index
    from hierax.collection.originals import Original
    from hierax.embedding.search import SearchResult

_SIDE = 160
_MOST = 24
"""Maximum number of hits that are drawn."""


class HitImages:
    """Reads the images of a query and of its hits again, when they are shown. Only files that have the hash of the
    embedded image are used, see `hierax.collection.originals`.
    """

    def __init__(self, index: Index) -> None:
        self.folders, self.column = tuple(index.folders), index.column.name

    def read(self, query: str, hits: Sequence[Hit]) -> list[Original | str]:
        """The image of the query, and that of each hit; or the reason why it cannot be shown."""
        from hierax.collection.index import Index
        from hierax.collection.mapped import RowInfo
        from hierax.collection.originals import originals
        from hierax.collection.page_files import rows_of

        index = Index(self.folders, column=self.column)
        of = rows_of(index, [query, *(hit.id for hit in hits)])
        given = of.get(query) or RowInfo("", os.path.abspath(query), "")
        rows = [given, *(of.get(hit.id) or RowInfo(hit.id, hit.path, "") for hit in hits)]
        return list(originals(self.folders, rows, side=_SIDE))


def search_result(found: SearchResult) -> str:
    """The query and its hits with their similarities."""
    if found.error is not None:
        return file_card(found.query, found.error.problem)
    hits = found.hits[:_MOST]
    images = [""] * (len(hits) + 1) if found.images is None else found.images.read(found.query, hits)
    captions = ["the query", *(f"{hit.score:.3f} {ending(Path(hit.path).name, 22)}" for hit in hits)]
    more = f"and {len(found.hits) - len(hits)} more hits" if len(hits) < len(found.hits) else ""
    return file_card(found.query, figures(zip(map(_tag, images), captions, strict=True)), more)


def _tag(image: Original | str) -> Markup:
    if not isinstance(image, str):
        return image_tag(image.image, side=_SIDE)
    style = f"width:{_SIDE}px;opacity:.7;border:1px dashed rgba(128,128,128,.6)" if image else ""
    return Markup(f"<div style='{style}'>{escaped(image)}</div>")
