"""Initialization of every parameter, in one function, and the layers that do not initialize themselves.

PyTorch's layers initialize themselves when they are made. Here a model is first built and then initialized or loaded,
so `reset_parameters` does nothing in these subclasses. Building a model on the meta device then takes milliseconds, and
loading wastes no initialization.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from hierax.model.config import HieraConfig
from hierax.model.positions import AbsolutePosition, DecoderPosition, SeparablePosition, WindowPosition
from hierax.model.products import linear, linear_and_gelu


class Linear(nn.Linear):
    """`nn.Linear` that only `init_weights` initializes, and that is faster on some CPUs."""

    def reset_parameters(self) -> None:
        """Does nothing."""

    def forward(self, input: Tensor) -> Tensor:
        """`[..., C_in]` -> `[..., C_out]`."""
        return linear(input, self.weight, self.bias)


def activated(layer: nn.Module, act: nn.Module, x: Tensor) -> Tensor:
    """`act(layer(x))`, in one operation where that is possible and nothing has to see what is between."""
    if type(layer) is Linear and type(act) is nn.GELU and act.approximate == "none" and not is_seen(layer, act):
        found = linear_and_gelu(x, layer.weight, layer.bias)
        if found is not None:
            return found
    return act(layer(x))


def is_seen(*modules: nn.Module) -> bool:
    """Whether calls of a module do more than its `forward`: hooks, also those of accelerate, which replace it."""
    return bool(_has_any_global_hook()) or any(
        part._forward_hooks or part._forward_pre_hooks or "forward" in part.__dict__ for part in modules
    )


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` that only `init_weights` initializes."""

    def reset_parameters(self) -> None:
        """Does nothing."""


class Conv1d(nn.Conv1d):
    """`nn.Conv1d` that only `init_weights` initializes."""

    def reset_parameters(self) -> None:
        """Does nothing."""


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` that only `init_weights` initializes."""

    def reset_parameters(self) -> None:
        """Does nothing."""


class Conv3d(nn.Conv3d):
    """`nn.Conv3d` that only `init_weights` initializes."""

    def reset_parameters(self) -> None:
        """Does nothing."""


CONVS = {1: Conv1d, 2: Conv2d, 3: Conv3d}
CONVS_ANY = (Conv1d, Conv2d, Conv3d)


class Scale(nn.Module):
    """Layer scale: a learned factor per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        """`x` times the factors of its last axis."""
        return x * self.weight


class MaskToken(nn.Module):
    """The learned vector in place of masked tokens: `weight` `[1, 1, C]`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, 1, dim))


class Head(Linear):
    """The linear head of a classifier; its initial weights are a thousand times smaller than those of other linear
    layers.
    """


@torch.no_grad()
def init_weights(module: nn.Module, config: HieraConfig, *, mae: bool, name: str = "") -> None:
    """Initializes all parameters below `module` as the published code does (specification of Hiera, section 2).

    Truncated normals are cut at the absolute values +-2, which changes nothing at these standard deviations. With
    `mae`, linear layers and the patch embedding are Xavier-uniform with zero biases, and norms start at 1 and 0.
    Position embeddings and the mask token are always truncated normals. Convolution biases, the fusion's convolutions
    and the head of segmentation have PyTorch's default: with the encoder's small weights, that head learns slowly.
    `name` is the name of `module` if it is part of a model.
    """
    std = config.initializer_range
    for path, part in module.named_modules(prefix=name):
        if path.split(".")[0] == "segmentation":
            _init_as_pytorch(part)
        elif isinstance(part, nn.Linear):
            _init_linear(part, std, mae=mae and not isinstance(part, Head))
            if isinstance(part, Head):
                part.weight.mul_(0.001)
                part.bias.mul_(0.001)
        elif isinstance(part, nn.LayerNorm):
            nn.init.constant_(part.weight, 1.0 if mae else config.layer_norm_init)
            nn.init.constant_(part.bias, 0.0 if mae else std)
        elif isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            _init_conv(part, std, mae=mae, fusion="fusion" in path)
        elif isinstance(part, Scale):
            nn.init.constant_(part.weight, config.layer_scale_init or 0.0)
        elif isinstance(part, (AbsolutePosition, SeparablePosition, WindowPosition, DecoderPosition, MaskToken)):
            for parameter in part.parameters(recurse=False):
                nn.init.trunc_normal_(parameter, std=std)


def _init_as_pytorch(part: nn.Module) -> None:
    if isinstance(part, nn.LayerNorm):
        nn.init.ones_(part.weight)
        nn.init.zeros_(part.bias)
    elif isinstance(part, (nn.Linear, nn.Conv2d)):
        nn.init.kaiming_uniform_(part.weight, a=math.sqrt(5))
        if part.bias is not None:
            bound = 1 / math.sqrt(part.weight[0].numel())
            nn.init.uniform_(part.bias, -bound, bound)


def _init_linear(part: nn.Linear, std: float, *, mae: bool) -> None:
    if mae:
        nn.init.xavier_uniform_(part.weight)
    else:
        nn.init.trunc_normal_(part.weight, std=std)
    if part.bias is not None:
        nn.init.constant_(part.bias, 0.0 if mae else std)


def _init_conv(part: nn.Conv1d | nn.Conv2d | nn.Conv3d, std: float, *, mae: bool, fusion: bool) -> None:
    if fusion:
        nn.init.kaiming_uniform_(part.weight, a=math.sqrt(5))
    elif mae:
        nn.init.xavier_uniform_(part.weight.view(part.weight.shape[0], -1))
    else:
        nn.init.trunc_normal_(part.weight, std=std)
    if part.bias is not None:
        bound = 1 / math.sqrt(part.weight[0].numel())
        nn.init.uniform_(part.bias, -bound, bound)
