"""hierax's processors as processors of transformers."""

import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers.image_processing_utils import BaseImageProcessor

from hierax.processing import HieraImageProcessor, HieraVideoProcessor
from hierax.processing.batch import BatchFeature
from hierax.processing.video import named_videos

_OF_AUTO_CLASSES = ("_from_auto", "_from_pipeline", "_commit_hash")
_OF_MODELS = ("attn_implementation", "device_map", "dtype", "torch_dtype")  # pipelines pass them to processors too


def _own(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in _OF_AUTO_CLASSES + _OF_MODELS}


class HieraxImageProcessor(HieraImageProcessor, BaseImageProcessor):  # pyright: ignore[reportIncompatibleMethodOverride]
    """`hierax.HieraImageProcessor`, which transformers accepts as an image processor."""

    @classmethod
    def from_pretrained(cls, source: Any, **options: Any) -> "HieraxImageProcessor":  # pyright: ignore[reportIncompatibleMethodOverride]
        """As in hierax; what transformers' `Auto` classes add to the arguments changes nothing."""
        return super().from_pretrained(source, **_own(options))  # pyright: ignore[reportReturnType]

    def save_pretrained(self, folder: str | os.PathLike[str], **options: Any) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As in hierax; but the file names this class, which `AutoImageProcessor` opens after `register()`."""
        named = type(self)(self.record.replace(image_processor_type=type(self).__name__))
        return HieraImageProcessor.save_pretrained(named, folder, **options)

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[Tensor]:
        """The class of every pixel: a tensor `[height, width]` for each image of a segmentation model's output.

        Args:
            outputs: the output, with `logits` `[B, num_labels, height, width]`.
            target_sizes: height and width of each image; None is the size of the logits.

        Raises:
            ValueError: the processor crops images, so the logits are not those of a whole image; or the number of sizes
                is another than that of the images.
        """
        if self.record.do_center_crop:
            raise ValueError(
                "do_center_crop is True, so the logits are those of a part of the image; expected a processor that "
                "resizes the whole image"
            )
        logits = outputs.logits
        sizes = [tuple(logits.shape[2:])] * len(logits) if target_sizes is None else list(target_sizes)
        if len(sizes) != len(logits):
            raise ValueError(f"target_sizes has {len(sizes)} sizes; expected {len(logits)}, one for each image")
        pairs = zip(logits, sizes, strict=True)
        return [
            functional.interpolate(one[None], tuple(size), mode="bilinear", align_corners=False)[0].argmax(0)
            for one, size in pairs
        ]


class HieraxVideoProcessor(HieraVideoProcessor):
    """`hierax.HieraVideoProcessor` for transformers, whose clips are `[B, time, channels, height, width]`."""

    @classmethod
    def from_pretrained(cls, source: Any, **options: Any) -> "HieraxVideoProcessor":
        """As in hierax; what transformers' `Auto` classes add to the arguments changes nothing."""
        return super().from_pretrained(source, **_own(options))  # pyright: ignore[reportReturnType]

    def __call__(self, videos: Any, *, do_sample_frames: bool = True, **options: Any) -> BatchFeature:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Clips `[B, time, channels, height, width]`; the arguments are those of `hierax.HieraVideoProcessor`.

        With `do_sample_frames=False`, the frames of arrays and lists are all taken, one after the other.

        Raises:
            ValueError: `do_sample_frames` is False, and a video is a file, or they have different numbers of frames.
        """
        if not do_sample_frames:
            counts = {_frame_count(name, video) for name, video in named_videos(videos)}
            if len(counts) > 1:
                numbers = " and ".join(map(str, sorted(counts)))
                raise ValueError(
                    f"do_sample_frames is False, but the videos have {numbers} frames; expected one number"
                )
            options = {"sampling_rate": 1, "num_frames": counts.pop(), **options}
        made = super().__call__(videos, **options)
        return BatchFeature(pixel_values=made["pixel_values"].swapaxes(1, 2))


def _frame_count(name: str, video: Any) -> int:
    """The number of frames of a list or an array."""
    if isinstance(video, (list, tuple)) or getattr(video, "ndim", 0) > 0:
        return len(video)
    raise ValueError(
        f"do_sample_frames is False, but {name} is a file, not frames; expected a list or an array of frames"
    )
