"""`/v1/search` and `/v1/collection`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Request, Response

from hierax.processing.errors import ImageError
from hierax.serve.bodies import Call, Upload, read_any_call, read_call
from hierax.serve.collection import hit_fields
from hierax.serve.errors import refuse
from hierax.serve.routes import arguments as a
from hierax.serve.routes.answers import Images
from hierax.serve.routes.document import answers, extra, parameters
from hierax.serve.routes.schemas import Answer, Collected, Found, Groups, Points, Rows
from hierax.serve.service import Work

if TYPE_CHECKING:
    from hierax.serve.app import State
    from hierax.serve.collection import Collection

router = APIRouter(prefix="/v1", tags=["collection"])
_SEARCH = (
    a.whole("k", "Number of hits.", least=1, most=1000, default=20, example=5),
    a.text("id", "The id of a row, instead of images. It is not among its own hits."),
)
_ROWS = (
    a.whole("offset", "The number of the first row.", least=0, most=1 << 40, default=0, example=0),
    a.whole("limit", "Number of rows.", least=1, most=1000, default=100, example=2),
    a.text("id", "The id of a row: the answer has this row alone, and its number as offset."),
)
_SIDE = a.whole("side", "Maximum width and height in pixels.", least=16, most=1024, default=160, example=64)
_DUPLICATES = (
    a.number("threshold", "Minimum cosine similarity of two images.", least=0.5, most=1, default=0.95, example=0.95),
    a.whole("limit", "Number of groups, the largest first.", least=1, most=10_000, default=1000),
)
_MAP = (a.whole("points", "Maximum number of points, evenly spaced.", least=1, most=5000, default=2000, example=50),)
_HIT = {"id": "349fd8a97df370de", "name": "cat2.jpg", "path": "/images/cat2.jpg", "score": 0.97}
_ROW = {"id": "349fd8a97df370de", "name": "cat2.jpg", "width": 500, "height": 375}
_MEMBER = {"id": "349fd8a97df370de", "name": "cat2.jpg", "exact": True}
_JPEG: dict[int | str, dict[str, Any]] = {200: {"description": "The image.", "content": {"image/jpeg": {}}}}


def _collection(request: Request) -> Collection:
    state: State = request.app.state.hierax
    state.service.need("search")
    found = state.service.collection
    assert found is not None
    return found


@router.post(
    "/search",
    summary="Images of the collection that are similar",
    responses=answers(Answer[Found], "The hits of each image, best first.", item={"hits": [_HIT]}),
    openapi_extra=extra(_SEARCH, example={"k": 2}, image=False),
)
async def search(request: Request, call: Annotated[Call, Depends(read_any_call)]) -> Response:
    """As `hierax search`: the rows with the largest cosine similarity to each image, or to a row of the collection."""
    images = Images(request, call, "search", _SEARCH)
    collection, given = _collection(request), images.given
    if given["id"] is not None:
        return await _of_row(images, collection)
    if not call.uploads:
        raise refuse("bad_argument", "image and id are missing; expected an image, or the id of a row", field="image")
    column = collection.state.index.column.name

    async def one(upload: Upload) -> dict[str, Any]:
        levels = await images.state.in_thread(images.service.reader.levels, upload, collection.extractor, size=None)
        work = Work("search", tuple(levels.shape[1:]), column)
        vector = await images.state.batcher.submit(work, levels, deadline=call.deadline)
        if not np.isfinite(vector).all() or not vector.any():
            raise ImageError(upload.name, "its features are not finite")
        (hits,) = await images.prepare(collection.search, vector[None], given["k"])
        return {"hits": [hit_fields(hit) for hit in hits]}

    found = await images.each(one, weight=images.service.weight("search", None))
    return await images.respond(found, source=collection.model)


async def _of_row(images: Images, collection: Collection) -> Response:
    """The answer to a query by id."""
    if images.call.uploads:
        raise refuse("bad_argument", "an image and an id are given; expected one of them", field="id")
    row, hits = await images.prepare(collection.search_row, images.given["id"], images.given["k"])
    item = {"name": row.id, "hits": [hit_fields(hit) for hit in hits]}
    return await images.state.answer({"model": collection.model, "results": [item], "milliseconds": images.elapsed})


@router.get(
    "/search",
    summary="Images of the collection that are similar to one of its rows",
    responses=answers(Answer[Found], "The hits, best first.", item={"hits": [_HIT]}),
    openapi_extra=parameters(_SEARCH),
)
async def search_id(request: Request, call: Annotated[Call, Depends(read_call)]) -> Response:
    """The rows with the largest cosine similarity to the row with an id."""
    images = Images(request, call, "search", _SEARCH)
    if images.given["id"] is None:
        raise refuse("bad_argument", "id is missing; expected the id of a row", field="id")
    return await _of_row(images, _collection(request))


@router.get("/collection", summary="The collection", responses=answers(Collected, "Its size, columns and model."))
async def collection(request: Request, call: Annotated[Call, Depends(read_call)]) -> Response:
    """The number of images, the columns of vectors, and the model that made them."""
    a.parse((), call.fields)
    described = await asyncio.to_thread(_collection(request).describe)
    return await request.app.state.hierax.answer(described)


@router.get(
    "/collection/rows",
    summary="Rows of the collection",
    responses=answers(
        Rows, "Some rows, in the order of the collection.", example={"offset": 0, "count": 1, "rows": [_ROW]}
    ),
    openapi_extra=parameters(_ROWS),
)
async def rows(request: Request, call: Annotated[Call, Depends(read_call)]) -> Response:
    """Ids, file names and sizes. All rows that can be searched are listed."""
    given, found = a.parse(_ROWS, call.fields, request.query_params), _collection(request)
    if given["id"] is not None:
        listed = await asyncio.to_thread(found.row, given["id"])
    else:
        listed = await asyncio.to_thread(found.rows, given["offset"], given["limit"])
    return await request.app.state.hierax.answer(listed)


@router.get(
    "/collection/thumbnail/{row}",
    summary="The image of a row, small",
    responses=_JPEG,
    response_class=Response,
    openapi_extra=parameters([_SIDE]),
)
async def thumbnail(request: Request, row: str, call: Annotated[Call, Depends(read_call)]) -> Response:
    """A JPEG of the image that a row of the collection lists, if the file is still the one that was embedded."""
    given, found = a.parse([_SIDE], call.fields), _collection(request)
    content = await request.app.state.hierax.in_reader(found.thumbnail, row, given["side"])
    return Response(content, headers={"Cache-Control": "private, max-age=3600"}, media_type="image/jpeg")


@router.get(
    "/collection/duplicates",
    summary="Groups of near-duplicates",
    responses=answers(
        Groups, "Groups, the largest first.", example={"threshold": 0.95, "groups": [[{**_MEMBER, "score": 1.0}]]}
    ),
    openapi_extra=parameters(_DUPLICATES),
)
async def duplicates(request: Request, call: Annotated[Call, Depends(read_call)]) -> Response:
    """As `hierax duplicates`. The first request takes long for a large collection; the answer is kept."""
    given, found = a.parse(_DUPLICATES, call.fields), _collection(request)
    return await request.app.state.hierax.answer(await found.long(found.duplicates, given["threshold"], given["limit"]))


@router.get(
    "/collection/map",
    summary="The collection in two dimensions",
    responses=answers(
        Points,
        "A point for each row, or for a sample.",
        example={"points": [{"id": _ROW["id"], "x": 0.25, "y": 1.0}], "count": 1, "method": "pca"},
    ),
    openapi_extra=parameters(_MAP),
)
async def places(request: Request, call: Annotated[Call, Depends(read_call)]) -> Response:
    """As `hierax map`: similar images are close together. The first request takes long; the answer is kept."""
    given, found = a.parse(_MAP, call.fields), _collection(request)
    return await request.app.state.hierax.answer(await found.long(found.map, given["points"]))
