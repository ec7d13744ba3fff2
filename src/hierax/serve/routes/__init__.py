"""The routes under /v1. Each is a thin layer over the functions of `predict`, `embedding` and `collection`."""

from __future__ import annotations

from fastapi import APIRouter


def routers() -> list[APIRouter]:
    """The routers of all routes."""
    from hierax.serve.routes import classes, collection, explain, maps, masks, models, together

    modules = (models, classes, together, maps, explain, masks, collection)
    return [module.router for module in modules]
