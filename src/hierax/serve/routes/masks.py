"""`/v1/reconstruct` and `/v1/segment`."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from hierax.serve.bodies import Call, Upload, read_call
from hierax.serve.errors import refuse
from hierax.serve.routes import arguments as a
from hierax.serve.routes.answers import Images
from hierax.serve.routes.document import JPEG, PIXEL, PNG, answers, extra
from hierax.serve.routes.schemas import Answer, Reconstructed, Segmented
from hierax.serve.service import Service, Work, base64_text, png

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

router = APIRouter(prefix="/v1", tags=["masks"])
_BYTES = 8
"""Bytes for each pixel of an image that is segmented, with its mask in numbers and in colors."""
_RECONSTRUCT = (
    a.booleans("keep", "One boolean for each mask unit, row by row; true: the model sees it. In bodies only."),
    a.number(
        "mask_ratio",
        "Without keep: the share of the mask units that are hidden, at random. Default: as the model was trained.",
        least=0,
        most=1,
        example=0.5,
    ),
    a.whole("seed", "Without keep: the seed of the random mask.", least=0, most=(1 << 32) - 1, default=0, example=7),
    a.choice(
        "statistics",
        "Where the brightness and contrast of hidden patches come from: visible estimates them from visible patches; "
        "true takes them from the hidden ones, which gives part of the answer.",
        ("visible", "true"),
        default="visible",
    ),
    a.choice("format", "json, or png (the reconstruction).", ("json", "png"), default="json"),
    a.size(),
)
_SEGMENT = (
    a.choice("format", "json, png (the mask), or overlay (a JPEG).", ("json", "png", "overlay"), default="json"),
    a.size(
        "Shorter side of the model's input in pixels, at most 1024. The whole image is used, and the mask has the "
        "image's own size. Default: as the checkpoint says.",
        square=True,
    ),
)


@router.post(
    "/reconstruct",
    summary="Imagine the hidden parts of an image",
    responses=answers(
        Answer[Reconstructed],
        "The reconstruction of each image.",
        PNG,
        item={
            "size": [32, 64],
            "units": [1, 2],
            "keep": [True, False],
            "original": PIXEL,
            "reconstruction": PIXEL,
            "loss": 0.51,
        },
    ),
    openapi_extra=extra(_RECONSTRUCT, example={"mask_ratio": 0.4, "seed": 1}),
)
async def reconstruct(request: Request, call: Annotated[Call, Depends(read_call)]) -> Response:
    """As `hierax reconstruct`: a masked autoencoder sees the mask units that are kept, and predicts the others."""
    images = Images(request, call, "reconstruct", _RECONSTRUCT)
    service, given = images.service, images.given
    keep = await images.prepare(_keep, service, given)
    work_options = (int(keep.sum()), given["statistics"])
    await images.open("mae")

    async def one(upload: Upload) -> Any:
        pixels = await images.state.in_thread(service.pixels, upload, task="reconstruct", size=given["size"])
        work = Work("reconstruct", tuple(pixels.shape[1:]), work_options)
        made, loss = await images.state.batcher.submit(work, (pixels, keep), deadline=call.deadline)
        if given["format"] == "png":
            return await images.prepare(_picture, service, made)
        return await images.prepare(_fields, service, pixels, made, keep, loss)

    found = await images.each(one, weight=2 * service.weight("reconstruct", given["size"]))
    return await images.finish(found, {"png": PNG})


def _keep(service: Service, given: dict[str, Any]) -> Tensor:
    """The visible mask units `[1, U]`.

    Raises:
        Refusal: there are not as many as the model has, or all or none are visible.
    """
    import torch

    from hierax.predict.reconstruct import draw_keep
    from hierax.serve.reading import check_units, sides_of

    config, size = service.config("reconstruct"), given["size"]
    check_units(size, config)
    sides = sides_of(size) or service.record("reconstruct").output_size or config.image_size
    keep = given["keep"]
    if keep is None:
        try:
            return draw_keep(config, tuple(sides), mask_ratio=given["mask_ratio"], seed=given["seed"])
        except ValueError as error:
            raise refuse("bad_argument", str(error), field="mask_ratio") from None
    if given["mask_ratio"] is not None:
        raise refuse("bad_argument", "keep and mask_ratio are given; expected one of them", field="mask_ratio")
    rows, columns = config.unit_grid(tuple(sides))
    if len(keep) != rows * columns:
        raise refuse(
            "bad_argument",
            f"keep has {len(keep)} entries; expected {rows * columns}, for {rows} x {columns} mask units",
            field="keep",
        )
    if all(keep) or not any(keep):
        which = "all" if all(keep) else "none"
        raise refuse("bad_argument", f"keep shows {which} of the mask units; expected some", field="keep")
    return torch.tensor([keep])


def _picture(service: Service, pixels: Tensor) -> bytes:
    return png(service.picture(pixels, "reconstruct"))


def _fields(service: Service, pixels: Tensor, made: Tensor, keep: Tensor, loss: float) -> dict[str, Any]:
    size = tuple(pixels.shape[2:])
    return {
        "size": list(size),
        "units": list(service.config("reconstruct").unit_grid(size)),
        "keep": keep[0].tolist(),
        "original": base64_text(_picture(service, pixels[0])),
        "reconstruction": base64_text(_picture(service, made)),
        "loss": loss,
    }


@router.post(
    "/segment",
    summary="The class of every pixel",
    responses=answers(
        Answer[Segmented],
        "The classes and the mask of each image.",
        PNG,
        JPEG,
        item={
            "width": 16,
            "height": 16,
            "areas": [{"label": "sky", "index": 2, "pixels": 256, "share": 1.0, "color": [0, 128, 0]}],
            "mask": PIXEL,
        },
    ),
    openapi_extra=extra(_SEGMENT),
)
async def segment(request: Request, call: Annotated[Call, Depends(read_call)]) -> Response:
    """As `hierax segment`: the classes that occur, largest first, and the mask at the size of the upright image. The
    overlay shows the colors of the classes over the image.
    """
    images = Images(request, call, "segment", _SEGMENT)
    service, given = images.service, images.given
    predictor = await images.prepare(service.models.predictor, "segmentation")

    async def one(upload: Upload) -> Any:
        sides = await images.state.in_reader(service.reader.measure, upload)
        async with service.budget.hold(_BYTES * math.prod(sides)):  # before the whole image is decoded
            item = await images.state.in_thread(service.reader.whole, upload, predictor, size=given["size"])
            steps, read = item
            work = Work("segment", tuple(read.levels.shape))
            mask = await images.state.batcher.submit(work, item, deadline=call.deadline)
            return await images.prepare(_segmented, steps, read.image, mask, given["format"])

    found = await images.each(one)
    return await images.finish(found, {"png": PNG, "overlay": JPEG})


def _segmented(steps: Any, image: Image.Image, mask: Any, form: str) -> Any:
    from hierax.viz.segmentation import overlay, paint

    if form == "overlay":
        buffer = io.BytesIO()
        overlay(image, mask).save(buffer, "JPEG", quality=90)
        return buffer.getvalue()
    painted = png(paint(mask))
    if form == "png":
        return painted
    areas = [area.to_dict() for area in steps.areas(mask)]
    return {"width": image.width, "height": image.height, "areas": areas, "mask": base64_text(painted)}
