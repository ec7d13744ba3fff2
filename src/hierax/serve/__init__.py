"""Serves a model over HTTP: `create_app` returns a FastAPI application; `hierax serve` runs it."""

from typing import TYPE_CHECKING

from hierax.lazy import lazy_names

if TYPE_CHECKING:
    from hierax.serve.app import create_app
    from hierax.serve.limits import Limits

__all__ = ["Limits", "create_app"]

__getattr__, __dir__ = lazy_names(__name__, {"hierax.serve.app": ("create_app",), "hierax.serve.limits": ("Limits",)})
