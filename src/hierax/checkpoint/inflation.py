"""Opens a checkpoint of images as one of clips."""

import dataclasses

from hierax.checkpoint.opened import Checkpoint
from hierax.model.inflate import inflate

_FRAMES = 16  # of a clip


def inflate_for_videos(checkpoint: Checkpoint, size: tuple[int, ...] | None) -> Checkpoint:
    """The checkpoint of a video model: `checkpoint` itself, or one inflated from an image model."""
    if checkpoint.config.axes != 2:
        return checkpoint
    made = inflate(checkpoint.model(), frames=size[0] if size else _FRAMES)
    state = made.state_dict()
    notes = {
        "config": made.config.to_dict(),
        "preprocessing": made.preprocessing.to_dict() if made.preprocessing else {},
    }
    source = dataclasses.replace(checkpoint.source, config=None, processor=None)
    return dataclasses.replace(
        checkpoint,
        source=source,
        config=made.config,
        tensors=state,
        theirs={n: n for n in state},
        unexpected=[],
        notes=notes,
    )
