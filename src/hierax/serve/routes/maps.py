"""`/v1/features`, `/v1/similarity` and `/v1/explain`: maps over an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from hierax.predict.features import similarity as similarities
from hierax.serve.bodies import Call, Upload, read_call
from hierax.serve.errors import refuse
from hierax.serve.routes import arguments as a
from hierax.serve.routes.answers import Images, check_answer, npy
from hierax.serve.routes.document import NPY, PNG, answers, extra
from hierax.serve.routes.schemas import Answer, Featured, Similar
from hierax.serve.service import Service, Work, base64_text, png

if TYPE_CHECKING:
    from torch import Tensor

    from hierax.model.config import HieraConfig

router = APIRouter(prefix="/v1", tags=["maps"])
STAGE = a.whole("stage", "The stage of the encoder, 1 to 4: its cells become larger.", least=1, most=16, default=3)
FORMAT = a.choice("format", "json, npy (the array), or png (an image).", ("json", "npy", "png"), default="json")
_FEATURES = (STAGE, FORMAT, a.size())
_POINT = "from 0 (left or top) to 1, as a share of the model's view."
_SIMILARITY = (
    STAGE,
    a.number("x", f"The point's place from the left, {_POINT}", least=0, most=1, default=0.5, example=0.4),
    a.number("y", f"The point's place from the top, {_POINT}", least=0, most=1, default=0.5, example=0.6),
    FORMAT,
    a.size(),
)


@router.post(
    "/features",
    summary="The feature map of a stage",
    responses=answers(
        Answer[Featured],
        "The map of each image.",
        NPY,
        PNG,
        item={"stage": 4, "shape": [2, 1, 1], "image": [32, 32], "data": "AACAPwAAAMA="},
    ),
    openapi_extra=extra(_FEATURES, example={"stage": 4}),
)
async def features(request: Request, call: Annotated[Call, Depends(read_call)]) -> Response:
    """As `hierax features`: the map `[C, h, w]` in float32. The PNG shows its first three principal components as
    red, green and blue, enlarged to the model's view.
    """
    images = Images(request, call, "features", _FEATURES)
    service, form = images.service, images.given["format"]
    name, config = await images.prepare(stage_of, service, images.given["stage"])
    size = images.given["size"]
    check_answer(map_bytes(config, name, size or service.record("features").output_size), len(call.uploads))

    async def one(upload: Upload) -> Any:
        maps, shape = await maps_of(images, upload, size)
        if form == "png":
            return await images.prepare(drawn_map, maps[name], config, name, shape)
        return npy(maps[name].numpy()) if form == "npy" else await images.prepare(map_fields, maps[name], name, shape)

    found = await images.each(one, weight=service.weight("features", size, maps=True))
    return await images.finish(found, {"png": PNG, "npy": NPY})


@router.post(
    "/similarity",
    summary="How similar everything is to a point",
    responses=answers(
        Answer[Similar],
        "The similarities of each image.",
        NPY,
        PNG,
        item={"stage": 4, "shape": [1, 2], "image": [32, 64], "cell": [0, 1], "values": [[0.4, 1.0]]},
    ),
    openapi_extra=extra(_SIMILARITY, example={"stage": 3, "x": 0.25, "y": 0.75}),
)
async def similarity(request: Request, call: Annotated[Call, Depends(read_call)]) -> Response:
    """The cosine of the features of each cell of a map and those of the cell at a point, -1 to 1. In the PNG,
    bright is similar, and cells below 0 are dark.
    """
    images = Images(request, call, "similarity", _SIMILARITY)
    service, given = images.service, images.given
    name, config = await images.prepare(stage_of, service, given["stage"])
    size = given["size"]

    async def one(upload: Upload) -> Any:
        maps, shape, pixels = await maps_of(images, upload, size, pixels=True)
        cell = _cell(config, name, shape, x=given["x"], y=given["y"])
        values = (await images.prepare(similarities, maps[name], cell)).numpy()
        if given["format"] == "png":
            return await images.prepare(_heat, service, values, pixels)
        if given["format"] == "npy":
            return npy(values)
        fields = {"stage": int(name[5:]), "shape": list(values.shape), "image": list(shape), "cell": list(cell)}
        return {**fields, "values": values.tolist()}

    found = await images.each(one, weight=service.weight("similarity", size, maps=True))
    return await images.finish(found, {"png": PNG, "npy": NPY})


def stage_of(service: Service, stage: int) -> tuple[str, HieraConfig]:
    """The name of a stage, after the model was opened.

    Raises:
        Refusal: the model has no map of this stage.
    """
    predictor = service.models.predictor("maps")
    name, names = f"stage{stage}", predictor.config.map_names
    if predictor.model is None and name not in names:
        known = [other.removeprefix("stage") for other in names if other.startswith("stage")]
        raise refuse("bad_argument", f"stage is {stage}; expected one of {', '.join(known)}", field="stage")
    return name, predictor.config


async def maps_of(images: Images, upload: Upload, size: Any, *, pixels: bool = False) -> Any:
    """The maps of an image, and height and width of the model's input; with `pixels` also these."""
    service = images.service
    read = await images.state.in_thread(service.pixels, upload, task="features", size=size)
    work = Work("features", tuple(read.shape[1:]))
    maps = await images.state.batcher.submit(work, read, deadline=images.call.deadline)
    shape = tuple(read.shape[2:])
    return (maps, shape, read) if pixels else (maps, shape)


def map_bytes(config: HieraConfig, name: str, size: Any) -> int:
    """Bytes of a map in base64."""
    import torch

    sides = (size, size) if isinstance(size, int) else size or config.image_size
    stride = config.stage_stride(config.feature_stage(name))
    cells = torch.Size([-(-side // step) for side, step in zip(sides, stride, strict=True)]).numel()
    return cells * config.feature_width(name) * 16 // 3


def map_fields(values: Tensor, name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """The fields of a map `[C, h, w]` in an answer."""
    data = base64_text(values.numpy().astype("<f4").tobytes())
    return {"stage": int(name[5:]), "shape": list(values.shape), "image": list(shape), "data": data}


def drawn_map(values: Tensor, config: HieraConfig, name: str, shape: tuple[int, ...]) -> bytes:
    """A map as a PNG."""
    from hierax.viz.maps import pca_image

    return png(pca_image(values, stride=config.stage_stride(config.feature_stage(name)), size=shape))


def _cell(config: HieraConfig, name: str, shape: tuple[int, ...], *, x: float, y: float) -> tuple[int, int]:
    """Row and column of the cell at a point."""
    stride = config.stage_stride(config.feature_stage(name))
    row, column = (
        min(int(share * side), side - 1) // step for share, side, step in zip((y, x), shape, stride, strict=True)
    )
    return row, column


def _heat(service: Service, values: Any, pixels: Tensor) -> bytes:
    from hierax.viz import heat_overlay

    return png(heat_overlay(service.picture(pixels[0], "similarity"), values.clip(0, 1)))
