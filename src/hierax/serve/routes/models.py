"""`GET /v1/model`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Request, Response

from hierax.serve.bodies import Call, read_call
from hierax.serve.routes.arguments import parse
from hierax.serve.routes.document import answers
from hierax.serve.routes.schemas import Description

if TYPE_CHECKING:
    from hierax.serve.app import State

router = APIRouter(prefix="/v1", tags=["server"])


@router.get("/model", summary="What this server has", responses=answers(Description, "Its tasks, models and limits."))
async def model(request: Request, call: Annotated[Call, Depends(read_call)]) -> Response:
    """The tasks that this server answers, its models with their labels, sizes and licenses, and its limits."""
    parse((), call.fields)
    state: State = request.app.state.hierax
    described = await asyncio.to_thread(state.service.describe)
    names = ("max_images", "max_body", "max_pixels")
    limits = {name: getattr(state.limits, name) for name in names}
    return await state.answer({"version": request.app.version, **described, "limits": limits})
