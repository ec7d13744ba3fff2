"""The engines behind the routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Service:
    """Opens engines and runs them."""

    def __init__(self, model: Any, **options: Any) -> None:
        self.model, self.options = model, options

    def open(self) -> None:
        """Loads and warms up the main engine."""

    def run(self, work: Any, items: Sequence[Any]) -> Sequence[Any]:
        """Results of items, for the batcher."""
        raise NotImplementedError

    def close(self) -> None:
        """Frees the engines."""
