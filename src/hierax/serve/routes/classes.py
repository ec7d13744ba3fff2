"""`/v1/classify`, `/v1/embed` and `/v1/view`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from hierax.notices import valid_text
from hierax.predict.classify import classification_of
from hierax.serve.bodies import Call, Upload, read_call
from hierax.serve.errors import Refusal, refuse
from hierax.serve.routes import arguments as a
from hierax.serve.routes.answers import Images, npy, only
from hierax.serve.routes.document import ARROW, NPY, PNG, answers, extra
from hierax.serve.routes.schemas import Answer, Classified, Embedded
from hierax.serve.service import Work, png

router = APIRouter(prefix="/v1", tags=["images"])
TOP_K = a.whole("top_k", "Number of classes, the most probable first.", least=1, most=100_000, default=5, example=3)
_CLASSIFY = (TOP_K, a.size())
_LAYER = a.text(
    "layer",
    "pooled: the mean of the last stage's cells, normalized; stage1, stage2, …: the mean of a stage's cells.",
    default="pooled",
    example="pooled",
)
_EMBED = (
    _LAYER,
    a.flag("l2", "Divide each vector by its length."),
    a.choice(
        "format", "json, or for any number of images npy [N, D] or arrow.", ("json", "npy", "arrow"), default="json"
    ),
    a.size("Side of the square input of the model in pixels, at most 1024. Default: as the checkpoint.", square=True),
)
_VIEW = (a.size(),)


@router.post(
    "/classify",
    summary="The most probable classes of images",
    responses=answers(
        Answer[Classified],
        "The classes of each image, best first.",
        item={"image": [160, 160], "predictions": [{"label": "mammals", "index": 14, "probability": 0.62}]},
    ),
    openapi_extra=extra(_CLASSIFY, example={"top_k": 2}),
)
async def classify(request: Request, call: Annotated[Call, Depends(read_call)]) -> Response:
    """As `hierax classify`: labels, their indices and probabilities. Of a model of several labels, each has a
    probability of its own.
    """
    images = Images(request, call, "classify", _CLASSIFY)
    service, size = images.service, images.given["size"]
    config = service.models.config

    async def one(upload: Upload) -> dict[str, Any]:
        pixels = await images.state.in_thread(service.pixels, upload, task="classify", size=size)
        work = Work("classify", tuple(pixels.shape[1:]))
        scores = await images.state.batcher.submit(work, pixels, deadline=call.deadline)
        found = classification_of(Path("image"), scores, config, top_k=images.given["top_k"])
        return {"image": list(pixels.shape[2:]), "predictions": [p.to_dict() for p in found.predictions]}

    return await images.respond(await images.each(one, weight=service.weight("classify", size)))


@router.post(
    "/embed",
    summary="The vectors of images",
    responses=answers(Answer[Embedded], "A vector for each image.", NPY, ARROW, item={"embedding": [0.12, -0.4, 1.7]}),
    openapi_extra=extra(_EMBED, example={"layer": "stage3", "l2": True}),
)
async def embed(request: Request, call: Annotated[Call, Depends(read_call)]) -> Response:
    """The row that `hierax embed` writes with the same settings. With `format=npy` one array `[N, D]` in float32, and
    with `format=arrow` a table with the columns name, embedding and error; npy needs that all images can be read.
    """
    images = Images(request, call, "embed", _EMBED)
    service, (layer, l2, form, size) = images.service, (images.given[n] for n in ("layer", "l2", "format", "size"))
    known = service.layers
    if layer not in known:
        raise refuse("bad_argument", f"layer is {layer[:60]!r}; expected one of {', '.join(known)}", field="layer")
    await images.open(service.role_of(layer))

    async def one(upload: Upload) -> Any:
        levels = await images.state.in_thread(service.pixels, upload, task="embed", size=size)
        work = Work("embed", tuple(levels.shape[1:]), (layer, l2))
        return await images.state.batcher.submit(work, levels, deadline=call.deadline)

    found = await images.each(one, weight=service.weight("embed", size))
    if form == "arrow":
        return images.binary(await images.prepare(_arrow, [u.name for u in call.uploads], found), ARROW)
    if form == "npy":
        import numpy as np

        return images.binary(npy(np.stack([only([vector]) for vector in found])), NPY)
    items = [v if isinstance(v, Refusal) else {"embedding": v.tolist()} for v in found]
    return await images.respond(items)


def _arrow(names: list[str], found: list[Any]) -> bytes:
    """An Arrow stream with a row for each image."""
    from hierax import extras

    extras.require("format=arrow", "pyarrow")
    import pyarrow as pa

    width = next(len(vector) for vector in found if not isinstance(vector, Refusal))
    vectors = [None if isinstance(vector, Refusal) else vector for vector in found]
    table = pa.table(
        {
            "name": pa.array([valid_text(name) for name in names], pa.string()),
            "embedding": pa.array(vectors, pa.list_(pa.float32(), width)),
            "error": pa.array([valid_text(v.message) if isinstance(v, Refusal) else None for v in found], pa.string()),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


@router.post(
    "/view",
    summary="What the model sees of an image",
    responses=answers(None, "The resized and cropped image.", PNG),
    openapi_extra=extra(_VIEW),
)
async def view(request: Request, call: Annotated[Call, Depends(read_call)]) -> Response:
    """The part of an image that the main model sees, at the size of its input, as a PNG."""
    images = Images(request, call, "view", _VIEW)
    images.require_one("the answer is a PNG")
    service, size = images.service, images.given["size"]

    def drawn(upload: Upload) -> bytes:
        return png(service.picture(service.pixels(upload, task="view", size=size)[0], "view"))

    async def one(upload: Upload) -> bytes:
        return await images.state.in_thread(drawn, upload)

    return images.binary(only(await images.each(one, weight=service.weight("view", size))), PNG)
