"""Videos for a command: which models take them, how they are read, and how many views are looked at."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hierax.cli.terminal import UserError

if TYPE_CHECKING:
    import torch

    from hierax.pretrained import Pretrained
    from hierax.processing import Clip

CLASSIFIER = "facebook/hiera_base_16x224.mae_k400_ft_k400"
MAE = "facebook/hiera_base_16x224.mae_k400"
_AT_ONCE = 4  # clips that a model sees at once: bounds the memory of many views


def view_counts(text: str) -> tuple[int, int]:
    """Windows x crops, for argparse."""
    windows, mark, crops = text.lower().replace("×", "x").partition("x")
    if not (mark and windows.isdecimal() and crops.isdecimal() and int(windows) and int(crops)):
        raise argparse.ArgumentTypeError(f"{text!r} is not WINDOWSxCROPS, such as 5x3")
    return int(windows), int(crops)


def takes_clips(source: str | Path) -> bool:
    """Whether a checkpoint is one of clips, by its preprocessing record: its weights are not fetched.

    Raises:
        ValueError, OSError: those of `hierax.load`.
    """
    from hierax.checkpoint import load_preprocessing

    try:
        return load_preprocessing(source).num_frames is not None
    except ValueError:  # no record, as of signals; what is wrong is said when it is loaded
        return False


def check_inputs(model: Pretrained, paths: Sequence[Path]) -> None:
    """Raises `UserError` for a model of signals or volumes, videos for one of pictures, pictures for one of clips."""
    from hierax.processing.decode import IMAGE_SUFFIXES, VIDEO_SUFFIXES

    config = model.config
    if config.axes != 2 and not config.is_video:
        raise UserError(
            f"this model ({type(model).__name__}) takes {config.axes}-D inputs; pictures and videos are what this "
            "command reads"
        )
    pictures = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
    if pictures and config.is_video:
        raise UserError(f"{pictures[0]} is a picture and this model takes clips; videos are what it reads")
    videos = [path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES]
    if videos and not config.is_video:
        raise UserError(
            f"{videos[0]} is a video and this model takes pictures; --model {CLASSIFIER}, for example, takes clips"
        )


def in_parts(clips: Sequence[Clip], model: Pretrained) -> list[torch.Tensor]:
    """Clips as batches `[B, C, T, H, W]` on the model's device."""
    import numpy as np
    import torch

    return [
        torch.from_numpy(np.stack([clip.pixels for clip in clips[i : i + _AT_ONCE]])).to(model.device)
        for i in range(0, len(clips), _AT_ONCE)
    ]
