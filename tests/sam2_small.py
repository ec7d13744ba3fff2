"""What the tests of SAM 2's image encoders share: a small one, in hierax and in transformers."""

from typing import Any

from torch import Tensor

from hierax.model.config import HieraConfig
from small import image_config, randomize

SIZE = 256
"""Pixels of an image of `small_sam`, per side."""
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


def small_sam() -> Any:
    """All of SAM 2 for images of 256 pixels, in transformers, with random weights."""
    import transformers

    trunk = trunk_in_transformers(image_size=[SIZE, SIZE])
    vision = transformers.Sam2VisionConfig(
        backbone_config=trunk,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[SIZE // stride] * 2 for stride in (4, 8, 16)],
    )
    model = transformers.Sam2Model(
        transformers.Sam2Config(vision_config=vision, prompt_encoder_config={"image_size": SIZE})
    ).eval()
    randomize(model)
    return model


def embeddings(sam: Any, maps: Any) -> list[Tensor]:
    """What SAM 2's decoder takes, of the maps of the neck."""
    fine, middle, coarse = maps
    decoder = sam.mask_decoder
    return [decoder.conv_s0(fine), decoder.conv_s1(middle), coarse + sam.no_memory_embedding.view(1, -1, 1, 1)]
