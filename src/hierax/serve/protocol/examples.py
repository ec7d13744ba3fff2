"""What the OpenAPI document says of requests of the Open Inference Protocol v2, with examples that work."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from hierax.serve.errors import RESPONSES


class ErrorText(BaseModel):
    """The body of an error of this protocol."""

    error: str


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {**response, "model": ErrorText} for status, response in RESPONSES.items()
}
"""The responses that the OpenAPI document states for every route of this protocol."""
EMPTY: dict[int | str, dict[str, Any]] = {200: {"description": "Yes", "content": {}}}
"""The response of a route that says all by its status."""
TINY = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFUlEQVR42mM8UaHBgA0wMeAAg1MCAB4nAXgllso1AAAAAElFTkSuQmCC"
"""An image of 8 by 8 pixels, in base64."""
_PARAMETERS = {"type": "object", "additionalProperties": True}
_INPUT: dict[str, Any] = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string", "enum": ["image", "pixel_values"]},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"type": "string", "enum": ["BYTES", "FP16", "FP32", "FP64"]},
        "parameters": _PARAMETERS,
        "data": {"type": "array", "items": {}},
    },
}
_OUTPUT: dict[str, Any] = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string"}, "parameters": _PARAMETERS},
}
_REQUEST: dict[str, Any] = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": _PARAMETERS,
        "inputs": {"type": "array", "items": _INPUT, "minItems": 1, "maxItems": 1},
        "outputs": {"type": "array", "items": _OUTPUT},
    },
}
EXAMPLE = {
    "id": "1",
    "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [TINY]}],
    "outputs": [{"name": "probabilities", "parameters": {"classification": 3}}],
}
"""A request that the default model answers."""
INFER: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _REQUEST, "example": EXAMPLE},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}
"""The body of an inference: JSON, or JSON and then the bytes of tensors."""
