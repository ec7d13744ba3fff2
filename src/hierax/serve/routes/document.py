"""What the OpenAPI document says of a route: its arguments, bodies, examples and answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from hierax.serve.routes.arguments import Argument

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAIElEQVR42mNkYPgvwPCDeMTCIPCDgYEENKphVMPQ0QAAivz6JdiB"
    "PUoAAAAASUVORK5CYII="
)
"""A small PNG in base64, for the examples."""
PNG, NPY, JPEG, ARROW = "image/png", "application/octet-stream", "image/jpeg", "application/vnd.apache.arrow.stream"
_KINDS = {
    PNG: "format=png",
    NPY: "format=npy: a NumPy file",
    JPEG: "format=overlay",
    ARROW: "format=arrow: an Arrow stream",
}


def extra(arguments: Sequence[Argument], *, example: Mapping[str, Any] | None = None, image: bool = True) -> Any:
    """`openapi_extra` of a route with these arguments. `example` are the fields of a JSON body besides its image.

    Args:
        image: whether a body must have an image.
    """
    parameters = [argument.parameter() for argument in arguments if argument.in_query]
    return {"parameters": parameters, "requestBody": _body(arguments, example or {}, required=image)}


def parameters(arguments: Sequence[Argument]) -> Any:
    """`openapi_extra` of a route without a body."""
    return {"parameters": [argument.parameter() for argument in arguments]}


def _body(arguments: Sequence[Argument], example: Mapping[str, Any], *, required: bool) -> dict[str, Any]:
    fields = {a.name: {**a.shape(), "description": a.about} for a in arguments}
    file = {"type": "string", "contentMediaType": "application/octet-stream", "description": "the file of an image"}
    form = {"type": "object", "properties": {"image": {"type": "array", "items": file}, **fields}}
    entry = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "data": {"type": "string", "contentEncoding": "base64"}},
        "required": ["data"],
    }
    body = {"type": "object", "properties": {"images": {"type": "array", "items": entry}, **fields}}
    if required:
        form, body = {**form, "required": ["image"]}, {**body, "required": ["images"]}
    shown = {"images": [{"name": "colors.png", "data": PIXEL}], **example}
    return {
        "required": required,
        "description": (
            "Images as a form (several files in the field `image`), as the bytes of one file, or in JSON with base64. "
            "PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF and others are read, upright; of animations the first frame. "
            "Arguments may be in the query or in the form or JSON."
        ),
        "content": {
            "multipart/form-data": {"schema": form},
            "image/*": {"schema": {"type": "string", "contentMediaType": "image/*"}},
            "application/octet-stream": {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}},
            "application/json": {"schema": body, "example": json.loads(json.dumps(shown))},
        },
    }


def answers(
    model: type[BaseModel] | None, about: str, *kinds: str, example: Any = None, item: Any = None
) -> dict[int | str, dict[str, Any]]:
    """The successful response of a route: JSON of a model, and other media types.

    Args:
        model: the form of the JSON; None if there is none.
        about: what is answered.
        kinds: media types besides JSON.
        example: an answer; or with `item` the result of one image in it.
    """
    binary = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
    content = {kind: {**binary, "x-when": _KINDS[kind]} for kind in kinds}
    entry: dict[str, Any] = {"description": about}
    if item is not None:
        example = {"model": "hierax/femto", "results": [{"name": "cat.jpg", **item}], "milliseconds": 12.5}
    if example is not None:
        content["application/json"] = {"example": example}
    if model is not None:
        entry["model"] = model
    if content:
        entry["content"] = content
    return {200: entry}
