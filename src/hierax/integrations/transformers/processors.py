"""hierax's processors as processors of transformers."""

from typing import Any

from transformers.image_processing_utils import BaseImageProcessor

from hierax.processing import HieraImageProcessor


class HieraxImageProcessor(HieraImageProcessor, BaseImageProcessor):
    """`hierax.HieraImageProcessor`, which transformers accepts as an image processor."""

    @classmethod
    def from_pretrained(cls, source: Any, **options: Any) -> "HieraxImageProcessor":
        """As in hierax; the arguments that transformers' `Auto` classes add are left out."""
        for name in ("_from_auto", "_from_pipeline"):
            options.pop(name, None)
        return super().from_pretrained(source, **options)
