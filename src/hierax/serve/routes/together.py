"""`/v1/predict`: several tasks of one image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from hierax.predict.classify import classification_of
from hierax.serve.bodies import Call, Upload, read_call
from hierax.serve.errors import refuse
from hierax.serve.routes import arguments as a
from hierax.serve.routes.answers import Images, check_answer
from hierax.serve.routes.classes import TOP_K
from hierax.serve.routes.document import answers, extra
from hierax.serve.routes.maps import STAGE, map_bytes, map_fields, stage_of
from hierax.serve.routes.schemas import Answer, Predicted
from hierax.serve.service import Work

router = APIRouter(prefix="/v1", tags=["images"])
TASKS = ("classify", "embed", "features")
_PREDICT = (
    a.words("tasks", "Tasks, separated by commas.", TASKS, default=("classify", "embed"), example="classify,embed"),
    TOP_K,
    STAGE,
    a.size(),
)


@router.post(
    "/predict",
    summary="Several tasks from one pass",
    responses=answers(
        Answer[Predicted],
        "The fields of all tasks, for each image.",
        item={
            "image": [160, 160],
            "predictions": [{"label": "mammals", "index": 14, "probability": 0.62}],
            "embedding": [0.12, -0.4, 1.7],
        },
    ),
    openapi_extra=extra(_PREDICT, example={"tasks": "classify,embed,features", "stage": 4}),
)
async def predict(request: Request, call: Annotated[Call, Depends(read_call)]) -> Response:
    """Classes, the pooled vector and the map of a stage. If one checkpoint serves them, the encoder runs once for all:
    the answers then differ from those of the single routes by the rounding of the precision (and the vector by that of
    the fast decoding of `hierax embed`).
    """
    images = Images(request, call, "predict", _PREDICT)
    service, given = images.service, images.given
    for task in given["tasks"]:
        if task not in service.tasks:
            raise refuse("bad_argument", f"tasks has {task}, which this server does not answer", field="tasks")
    name = ""
    if "features" in given["tasks"]:
        name, config = await images.prepare(stage_of, service, given["stage"])
        check_answer(
            map_bytes(config, name, given["size"] or service.record("features").output_size), len(call.uploads)
        )
    joint = service.models.joint and len(given["tasks"]) > 1
    await images.prepare(service.prepare, ("joint",) if joint else given["tasks"])

    async def one(upload: Upload) -> dict[str, Any]:
        found = await (_at_once if joint else _one_by_one)(images, upload)
        item: dict[str, Any] = {"image": found["image"]}
        if "classify" in given["tasks"]:
            named = classification_of(
                Path("image"), found["scores"], service.models.config, top_k=given["top_k"]
            ).predictions
            item["predictions"] = [one.to_dict() for one in named]
        if "embed" in given["tasks"]:
            item["embedding"] = found["embedding"].tolist()
        if "features" in given["tasks"]:
            fields = await images.prepare(map_fields, found["maps"][name], name, tuple(found["image"]))
            item |= fields
        return item

    return await images.respond(await images.each(one, weight=service.weight("predict", given["size"], maps=True)))


async def _at_once(images: Images, upload: Upload) -> dict[str, Any]:
    """All answers from one pass."""
    pixels = await images.state.in_thread(images.service.pixels, upload, task="joint", size=images.given["size"])
    work = Work("joint", tuple(pixels.shape[1:]))
    found = await images.state.batcher.submit(work, pixels, deadline=images.call.deadline)
    return {**found, "image": list(pixels.shape[2:])}


async def _one_by_one(images: Images, upload: Upload) -> dict[str, Any]:
    """The answers of the tasks, each from its own engine."""
    found: dict[str, Any] = {}
    for task, field in (("classify", "scores"), ("features", "maps"), ("embed", "embedding")):
        if task not in images.given["tasks"]:
            continue
        read = await images.state.in_thread(images.service.pixels, upload, task=task, size=images.given["size"])
        options = ("pooled", False) if task == "embed" else ()
        work = Work(task, tuple(read.shape[1:]), options)
        found[field] = await images.state.batcher.submit(work, read, deadline=images.call.deadline)
        found["image"] = list(read.shape[2:])
    return found
