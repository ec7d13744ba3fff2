"""`/v1/explain`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from hierax.serve.bodies import Call, Upload, read_call
from hierax.serve.engines import METHODS
from hierax.serve.errors import refuse
from hierax.serve.routes import arguments as a
from hierax.serve.routes.answers import Images, npy
from hierax.serve.routes.document import NPY, PNG, answers, extra
from hierax.serve.routes.maps import FORMAT
from hierax.serve.routes.schemas import Answer, Explained
from hierax.serve.service import Service, Work, png

router = APIRouter(prefix="/v1", tags=["maps"])
_EXPLAIN = (
    a.text("label", "A label or its index. Default: the most probable class. Not with rollout.", example="0"),
    a.choice(
        "method",
        "gradcam: which regions speak for the label; rollout: which regions hold the attention of the model.",
        METHODS,
        default="gradcam",
    ),
    FORMAT,
    a.size(),
)


@router.post(
    "/explain",
    summary="Which regions speak for a label",
    responses=answers(
        Answer[Explained],
        "The explanation of each image.",
        NPY,
        PNG,
        item={
            "label": "mammals",
            "index": 14,
            "probability": 0.62,
            "shape": [1, 2],
            "stride": [32, 32],
            "image": [32, 64],
            "values": [[0.25, 1.0]],
        },
    ),
    openapi_extra=extra(_EXPLAIN, example={"label": "0"}),
)
async def explain(request: Request, call: Annotated[Call, Depends(read_call)]) -> Response:
    """As `hierax explain`: a value from 0 to 1 for each cell of the model's view. 1 speaks most for the label. The PNG
    shows them as heat over the view. The model runs in PyTorch and fp32, one image at a time.
    """
    images = Images(request, call, "explain", _EXPLAIN)
    service, given = images.service, images.given
    label = await images.prepare(_label, service, given["label"], given["method"])

    async def one(upload: Upload) -> Any:
        pixels = await images.state.in_thread(service.pixels, upload, task="explain", size=given["size"])
        work = Work("explain", tuple(pixels.shape[1:]), (given["method"],))
        found = await images.state.batcher.submit(work, (pixels, label), deadline=call.deadline)
        if given["format"] == "png":
            return await images.prepare(_heat, service, found, pixels)
        if given["format"] == "npy":
            return npy(found.values)
        return {**found.to_dict(), "image": list(pixels.shape[2:])}

    found = await images.each(one, weight=8 * service.weight("explain", given["size"], maps=True))
    return await images.finish(found, {"png": PNG, "npy": NPY})


def _label(service: Service, label: str | None, method: str) -> int | None:
    """The index of a label, after the model was opened.

    Raises:
        Refusal: there is no such label, or the model cannot be explained in this way.
    """
    from hierax.predict.explain import label_index

    if method not in service.models.roles:
        raise refuse(
            "bad_argument", f"method is {method}; {service.source('explain')} is not a classifier", field="method"
        )
    if label is not None and method == "rollout":
        raise refuse("bad_argument", "label is given, but rollout explains no label", field="label")
    config = service.models.predictor(method).config
    try:
        return None if label is None else label_index(config, label)
    except ValueError as error:
        raise refuse("bad_argument", str(error), field="label") from None


def _heat(service: Service, found: Any, pixels: Any) -> bytes:
    from hierax.viz import heat_overlay

    return png(heat_overlay(service.picture(pixels[0], "explain"), found.values, stride=found.stride))
