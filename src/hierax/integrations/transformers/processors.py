"""hierax's processors as processors of transformers."""

from typing import Any

from transformers.image_processing_utils import BaseImageProcessor

from hierax.processing import HieraImageProcessor, HieraVideoProcessor
from hierax.processing.batch import BatchFeature

_OF_AUTO_CLASSES = ("_from_auto", "_from_pipeline", "_commit_hash")


def _own(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in _OF_AUTO_CLASSES}


class HieraxImageProcessor(HieraImageProcessor, BaseImageProcessor):  # pyright: ignore[reportIncompatibleMethodOverride]
    """`hierax.HieraImageProcessor`, which transformers accepts as an image processor."""

    @classmethod
    def from_pretrained(cls, source: Any, **options: Any) -> "HieraxImageProcessor":  # pyright: ignore[reportIncompatibleMethodOverride]
        """As in hierax; what transformers' `Auto` classes add to the arguments changes nothing."""
        return super().from_pretrained(source, **_own(options))  # pyright: ignore[reportReturnType]


class HieraxVideoProcessor(HieraVideoProcessor):
    """`hierax.HieraVideoProcessor` for transformers, whose clips are `[B, time, channels, height, width]`."""

    @classmethod
    def from_pretrained(cls, source: Any, **options: Any) -> "HieraxVideoProcessor":
        """As in hierax; what transformers' `Auto` classes add to the arguments changes nothing."""
        return super().from_pretrained(source, **_own(options))  # pyright: ignore[reportReturnType]

    def __call__(self, videos: Any, *, do_sample_frames: bool = True, **options: Any) -> BatchFeature:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Clips `[B, time, channels, height, width]`; the arguments are those of `hierax.HieraVideoProcessor`.

        With `do_sample_frames=False`, the frames of arrays and lists are all taken, one after the other.
        """
        if not do_sample_frames:
            options = {"sampling_rate": 1, "num_frames": len(videos), **options}
        made = super().__call__(videos, **options)
        return BatchFeature(pixel_values=made["pixel_values"].swapaxes(1, 2))
