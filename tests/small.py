"""What the tests of the models share: configurations that run in milliseconds, weights in which nothing hides."""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hierax.model.config import HieraConfig

# tensors here are so small that threads cost more than they give: 7 s become 90 s when something else runs beside
torch.set_num_threads(1)


def narrow(*, depths: Sequence[int], heads: Sequence[int], decoder: tuple[int, int]) -> dict[str, Any]:
    """Fields of a model whose first stage has 8 channels; `decoder`: its blocks and heads."""
    own = {"embed_dim": 8, "depths": tuple(depths), "num_heads": tuple(heads), "decoder_hidden_size": 16}
    return {**own, "decoder_depth": decoder[0], "decoder_num_heads": decoder[1]}


_WIDTHS = {**narrow(depths=(1, 2, 3, 2), heads=(1, 2, 4, 8), decoder=(2, 4)), "num_labels": 5}


def image_config(**changes: Any) -> HieraConfig:
    """64 x 64 pixels: 2 x 2 mask units, tokens 16 x 16, 8 x 8, 4 x 4, 2 x 2 by stage."""
    return HieraConfig(**{**_WIDTHS, "image_size": (64, 64), **changes})


def abs_win_config(**changes: Any) -> HieraConfig:
    """As `image_config`, with everything that the small abs-win variant has."""
    fields = {
        "position_embedding": "abs_win",
        "global_position_size": (6, 6),
        "layer_scale_init": 0.5,
        "pooled_shortcut": True,
    }
    return image_config(**{**fields, **changes})


def video_config(**changes: Any) -> HieraConfig:
    """8 frames of 64 x 64 pixels: 4 x 2 x 2 mask units."""
    fields: dict[str, Any] = {
        "image_size": (8, 64, 64),
        "patch_size": (3, 7, 7),
        "patch_stride": (2, 4, 4),
        "patch_padding": (1, 3, 3),
        "query_stride": (1, 2, 2),
        "masked_unit_size": (1, 8, 8),
        "position_embedding": "separable",
    }
    return HieraConfig(**{**_WIDTHS, **fields, **changes})


def line_config(**changes: Any) -> HieraConfig:
    """A signal of 512 samples in 8 channels: 16 mask units."""
    return HieraConfig(**{**_WIDTHS, "image_size": (512,), "num_channels": 8, **changes})


def volume_config(**changes: Any) -> HieraConfig:
    """A volume of 32 x 64 x 64: 1 x 2 x 2 mask units of 512 tokens; the first axis is pooled as the others are."""
    fields = {"image_size": (32, 64, 64), "num_channels": 1, "depths": (1, 1, 1, 1)}
    return HieraConfig(**{**_WIDTHS, **fields, **changes})


CONFIGS: dict[str, Callable[..., HieraConfig]] = {
    "image": image_config,
    "abs_win": abs_win_config,
    "video": video_config,
    "line": line_config,
    "volume": volume_config,
}


def fresh_seed() -> int:
    """Another seed in every run; pytest shows it when a test fails. HIERAX_SEED repeats a run."""
    seed = int(os.environ.get("HIERAX_SEED") or int.from_bytes(os.urandom(3), "big"))
    print(f"HIERAX_SEED={seed}")
    torch.manual_seed(seed)
    return seed


@torch.no_grad()
def randomize(module: nn.Module, std: float = 0.05) -> nn.Module:
    """Draws every parameter from a normal of this deviation; norms' weights about 1. Returns the module."""
    norms = {id(p.weight) for p in module.modules() if isinstance(p, nn.LayerNorm)}
    for parameter in module.parameters():
        parameter.normal_(std=std)
        if id(parameter) in norms:
            parameter.add_(1.0)
    return module


def pixels(config: HieraConfig, batch: int = 2, size: Iterable[int] | None = None, **options: Any) -> Tensor:
    """Random pixels `[batch, channels, *size]`; `options` are those of `torch.randn`."""
    return torch.randn(batch, config.num_channels, *(size or config.image_size), **options)


def units_of(config: HieraConfig, size: Iterable[int] | None = None) -> int:
    """Number of mask units of an input of `size` pixels."""
    return torch.Size(config.unit_grid(tuple(size or config.image_size))).numel()


def relative(ours: Tensor, theirs: Tensor) -> float:
    """norm(ours - theirs) / norm(theirs); the shapes must be the same."""
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} instead of {tuple(theirs.shape)}"
    ours, theirs = ours.detach().double(), theirs.detach().double()
    scale = theirs.norm()
    assert scale > 0, "the reference is zero everywhere"
    return float((ours - theirs).norm() / scale)
