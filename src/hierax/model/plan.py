"""The plan of a model's blocks, as data. Nothing here imports torch.

The whole model is decided before any module exists: `plan(config)` lists one `BlockSpec` per transformer block, and
`encoder.Hiera` only builds what the list says.
"""

import math
from dataclasses import dataclass

from hierax.model.config import HieraConfig


@dataclass(frozen=True)
class BlockSpec:
    """One transformer block, as `blocks.Block` is built from it.

    Attributes:
        stage: the stage that the block belongs to; 0 is the first.
        dim, dim_out: width of the input tokens and of the output tokens.
        heads: attention heads.
        window: tokens per axis of the windows that attention stays within, on the grid of the input tokens; None is
            attention over all tokens.
        pool: number of neighboring tokens whose queries and shortcut are max-pooled into one; 1 is none.
        drop_path: probability that a residual branch is dropped in training.
    """

    stage: int
    dim: int
    dim_out: int
    heads: int
    window: tuple[int, ...] | None
    pool: int
    drop_path: float


def plan(config: HieraConfig) -> tuple[BlockSpec, ...]:
    """One `BlockSpec` per block of the encoder, in order.

    The first block of a stage has the windows of the stage before, because its keys are tokens of that stage. Drop
    path rises linearly from 0 to `drop_path_rate` (paper, section 3).
    """
    windows = [_window(config, stage) for stage in range(config.stages)]
    specs: list[BlockSpec] = []
    for stage, depth in enumerate(config.depths):
        for layer in range(depth):
            entering = layer == 0 and stage > 0
            specs.append(
                BlockSpec(
                    stage=stage,
                    dim=config.dims[stage - 1] if entering else config.dims[stage],
                    dim_out=config.dims[stage],
                    heads=config.num_heads[stage],
                    window=None if len(specs) in config.global_blocks else windows[stage - entering],
                    pool=math.prod(config.query_stride) if entering and stage <= config.num_query_pool else 1,
                    drop_path=config.drop_path_rate * len(specs) / max(sum(config.depths) - 1, 1),
                )
            )
    return tuple(specs)


def _window(config: HieraConfig, stage: int) -> tuple[int, ...] | None:
    """Tokens per axis of the windows of a stage; None if its attention is over all tokens."""
    if config.window_sizes is not None:
        return (config.window_sizes[stage],) * config.axes if config.window_sizes[stage] else None
    return config.unit_size(stage) if config.masked_unit_attention[stage] else None
