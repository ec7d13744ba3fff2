"""What the tests of SAM 2's image encoders share: a small one, in hierax and in transformers."""

from typing import Any

from hierax.model.config import HieraConfig
from small import image_config

WINDOWS: dict[str, Any] = {
    "window_sizes": (8, 4, 14, 7),
    "global_blocks": (4,),
    "position_embedding": "abs_win",
    "position_antialias": False,
    "global_position_size": (7, 7),
}


def sam_config(**changes: Any) -> HieraConfig:
    """As the small image model of the tests, with the windows of SAM 2."""
    return image_config(**{**WINDOWS, **changes})


def trunk_in_transformers(**changes: Any) -> Any:
    """The configuration of the same trunk."""
    from transformers import Sam2HieraDetConfig

    return Sam2HieraDetConfig(
        hidden_size=8,
        embed_dim_per_stage=[8, 16, 32, 64],
        blocks_per_stage=[1, 2, 3, 2],
        num_attention_heads=1,
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[8, 4, 14, 7],
        global_attention_blocks=[4],
        window_positional_embedding_background_size=[7, 7],
        **changes,
    )
