"""Opens a checkpoint of a classic Hiera as one with the windows of SAM 2, which cost less at high resolution."""

import dataclasses
import math
from typing import Any

from torch import Tensor

from hierax.checkpoint.opened import Checkpoint
from hierax.model.config import HieraConfig
from hierax.model.positions import split_windows

WINDOWS = ("sam2",)
"""The windows that a checkpoint can be given."""
_SIZES = (8, 4, 14, 7)
_TABLE = "encoder.pos_embed.weight"


def with_windows(checkpoint: Checkpoint, windows: str) -> Checkpoint:
    """The checkpoint with windows of 8, 4, 14 and 7 tokens by stage, and three blocks of stage 3 that see all tokens.

    At 224 pixels, 14 and 7 tokens are the whole grid: the maps are those of the classic model. The absolute position
    table is split into a window table, which is tiled, and a global table, which is interpolated (arXiv 2311.05613).

    Raises:
        ValueError: `windows` is not "sam2", or the model cannot have these windows; the message says why.
    """
    if windows not in WINDOWS:
        raise ValueError(f"windows is {windows!r}; expected 'sam2'")
    config, where = checkpoint.config, checkpoint.source.weights
    for lacking, fits in _conditions(checkpoint).items():
        if not fits:
            raise ValueError(f"{where}: windows is {windows!r}, but {lacking}")
    changes: dict[str, Any] = {"window_sizes": _SIZES, "global_blocks": global_blocks(config.depths)}
    tensors, theirs = dict(checkpoint.tensors), dict(checkpoint.theirs)
    if config.position_embedding == "absolute":
        grid, table = config.token_grid(config.image_size), tensors.pop(_TABLE, None)
        changes |= {"position_embedding": "abs_win", "position_antialias": False, "global_position_size": grid}
        if table is not None:
            tensors |= _split(table, config, f"{where}: {theirs[_TABLE]}")
            theirs |= dict.fromkeys(("encoder.pos_embed.whole", "encoder.pos_embed.window"), theirs[_TABLE])
    record = checkpoint.preprocessing
    notes = checkpoint.notes if record is None else {**checkpoint.notes, "preprocessing": record.to_dict()}
    return dataclasses.replace(
        checkpoint, config=config.replace(**changes), tensors=tensors, theirs=theirs, notes=notes
    )


def global_blocks(depths: tuple[int, ...]) -> tuple[int, ...]:
    """The blocks that see all tokens: the last of stage 3, and two before it, two sevenths of the stage apart.

    For the four sizes of SAM 2, these are its own. The first block of the stage is none of them: its keys are tokens of
    stage 2.
    """
    last, step = sum(depths[:3]) - 1, max(2 * depths[2] // 7, 1)
    return tuple(block for block in (last - 2 * step, last - step, last) if block > sum(depths[:2]))


def _conditions(checkpoint: Checkpoint) -> dict[str, bool]:
    """What a model needs, as texts of what it is instead."""
    config = checkpoint.config
    return {
        f"the model already has windows of {config.window_sizes}": not config.is_windowed,
        f"inputs have {config.axes} axes; expected images": config.axes == 2,
        f"the model has {config.stages} stages; expected 4": config.stages == 4,
        f"masked_unit_size is {config.masked_unit_size}; expected (8, 8)": config.masked_unit_size == (8, 8),
        f"query_stride is {config.query_stride}; expected (2, 2)": config.query_stride == (2, 2),
        "pretraining hides mask units, which need their own windows": "decoder" not in checkpoint.parts,
    }


def _split(table: Tensor, config: HieraConfig, name: str) -> dict[str, Tensor]:
    """The window table and the global table of an absolute position table, in its dtype."""
    grid = config.token_grid(config.image_size)
    if table.ndim != 3 or tuple(table.shape) != (1, math.prod(grid), config.embed_dim):
        raise ValueError(f"{name} has shape {list(table.shape)}; expected {[1, math.prod(grid), config.embed_dim]}")
    window, residual = split_windows(table.unflatten(1, grid), config.masked_unit_size)
    split = {"encoder.pos_embed.whole": residual, "encoder.pos_embed.window": window}
    return {name: part.movedim(-1, 1).to(table.dtype).contiguous() for name, part in split.items()}


def changed_fields(before: HieraConfig, after: HieraConfig) -> list[str]:
    """The fields that `with_windows` changed, each with both values."""
    fields = ("window_sizes", "global_blocks", "position_embedding")
    pairs = ((name, getattr(before, name), getattr(after, name)) for name in fields)
    return [f"{name} {old} -> {new}" for name, old, new in pairs if old != new]
