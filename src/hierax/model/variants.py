"""The table of named architectures, as data."""

from collections.abc import Mapping
from typing import Any


def _variants() -> dict[str, dict[str, Any]]:
    """Every named architecture, as the fields in which it differs from `HieraConfig()` (paper, table 1).

    Femto is not from the paper. It is small enough for its weights to come with the package.
    """
    femto: dict[str, Any] = {
        "embed_dim": 40, "num_heads": (1, 2, 4, 8), "depths": (1, 2, 5, 1), "image_size": (160, 160),
        "decoder_hidden_size": 128, "decoder_depth": 2, "decoder_num_heads": 4,
    }  # fmt: skip
    sizes: dict[str, dict[str, Any]] = {
        "tiny": {"embed_dim": 96, "num_heads": (1, 2, 4, 8), "depths": (1, 2, 7, 2)},
        "small": {"embed_dim": 96, "num_heads": (1, 2, 4, 8), "depths": (1, 2, 11, 2)},
        "base": {"embed_dim": 96, "num_heads": (1, 2, 4, 8), "depths": (2, 3, 16, 3)},
        "base_plus": {"embed_dim": 112, "num_heads": (2, 4, 8, 16), "depths": (2, 3, 16, 3)},
        "large": {"embed_dim": 144, "num_heads": (2, 4, 8, 16), "depths": (2, 6, 36, 4)},
        "huge": {"embed_dim": 256, "num_heads": (4, 8, 16, 32), "depths": (2, 6, 36, 4)},
    }
    video: dict[str, Any] = {
        "image_size": (16, 224, 224), "patch_size": (3, 7, 7), "patch_stride": (2, 4, 4), "patch_padding": (1, 3, 3),
        "query_stride": (1, 2, 2), "masked_unit_size": (1, 8, 8), "position_embedding": "separable",
        "mask_ratio": 0.9, "num_labels": 400,
    }  # fmt: skip
    variants = {"hiera_femto_160": femto} | {f"hiera_{size}_224": fields for size, fields in sizes.items()}
    variants |= {f"hiera_{size}_16x224": {**sizes[size], **video} for size in ("base", "base_plus", "large", "huge")}
    variants |= {f"mae_{name}": {**fields, "num_query_pool": 2} for name, fields in variants.items()}
    abs_win: dict[str, Any] = {"image_size": (256, 256), "position_embedding": "abs_win", "layer_scale_init": 1e-5}
    small, base = {"global_position_size": (16, 16), "pooled_shortcut": True}, {"global_position_size": (14, 14)}
    variants["hiera_small_abswin_256"] = {**sizes["small"], **abs_win, **small}
    variants["hiera_base_abswin_256"] = {**sizes["base"], **abs_win, **base}
    windowed: dict[str, Any] = {
        "image_size": (1024, 1024), "position_embedding": "abs_win", "position_antialias": False,
        "global_position_size": (7, 7), "window_sizes": (8, 4, 14, 7),
    }  # fmt: skip
    trunks: dict[str, dict[str, Any]] = {  # SAM 2 (arXiv 2408.00714), appendix
        "tiny": {"global_blocks": (5, 7, 9)},
        "small": {"global_blocks": (7, 10, 13)},
        "base_plus": {"global_blocks": (12, 16, 20), "global_position_size": (14, 14)},
        "large": {"global_blocks": (23, 33, 43), "window_sizes": (8, 4, 16, 8)},
    }
    return variants | {f"sam2_hiera_{size}": {**sizes[size], **windowed, **own} for size, own in trunks.items()}


VARIANTS: Mapping[str, Mapping[str, Any]] = _variants()
