"""hierax's modules in the module tree of transformers' Hiera.

The tree carries transformers' names, so that loading, saving, adapters, device maps and resuming need nothing special.
Each class here is a module of hierax whose children and parameters have other names. It computes what its base class
computes.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from hierax.model.blocks import Block, PatchEmbed
from hierax.model.config import HieraConfig
from hierax.model.layers import LayerNorm, MaskToken
from hierax.model.mae import Decoder, Fusion
from hierax.model.plan import plan
from hierax.model.positions import (
    AbsolutePosition,
    DecoderPosition,
    PositionEmbedding,
    SeparablePosition,
    WindowPosition,
    decoder_table,
)


class _Renamed(nn.Module):
    """Registers children and parameters under the names of `renamed`, and reads them under hierax's names too."""

    renamed: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, renamed: Mapping[str, str] | None = None) -> None:
        super().__init_subclass__()
        cls.renamed = {**cls.renamed, **(renamed or {})}
        for ours, theirs in (renamed or {}).items():
            if ours not in cls.__dict__:
                setattr(cls, ours, property(_reader(theirs)))

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(self.renamed.get(name, name), value)


def _reader(name: str) -> Callable[[nn.Module], Any]:
    def read(module: nn.Module) -> Any:
        return getattr(module, name)

    return read


class PatchProjection(_Renamed, PatchEmbed, renamed={"proj": "projection"}):
    """The patch embedding: `projection`."""


class Layer(_Renamed, Block, renamed={"norm1": "layernorm_before", "norm2": "layernorm_after"}):
    """A block: `layernorm_before`, `attn`, `layernorm_after`, `mlp`, `proj`, `layer_scale1`, `layer_scale2`."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("ls1", "ls2"):  # a module with one parameter, which is a parameter of the layer there
            self.register_parameter(f"layer_scale{name[-1]}", None if value is None else value.weight)
        else:
            super().__setattr__(name, value)

    @property
    def ls1(self) -> Callable[[Tensor], Tensor] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Layer scale after attention."""
        return _scale(cast("Tensor | None", self.layer_scale1))

    @property
    def ls2(self) -> Callable[[Tensor], Tensor] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Layer scale after the MLP."""
        return _scale(cast("Tensor | None", self.layer_scale2))


def _scale(factors: Tensor | None) -> Callable[[Tensor], Tensor] | None:
    return None if factors is None else partial(torch.mul, factors)


class Layers(nn.Module):
    """Blocks in a row: `layers`."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class Encoder(nn.Module):
    """The blocks by stage: `stages.0.layers.0`."""

    def __init__(self, config: HieraConfig, stages: int) -> None:
        super().__init__()
        specs = plan(config)
        self.stages = nn.ModuleList(
            Layers(Layer(spec, config) for spec in specs if spec.stage == stage) for stage in range(stages)
        )

    def blocks(self) -> list[nn.Module]:
        """All blocks, in order."""
        return [layer for stage in self.stages for layer in stage.layers]  # pyright: ignore[reportGeneralTypeIssues, reportAttributeAccessIssue]


class Pooler(nn.Module):
    """The norm after pooling: `layernorm`."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        self.layernorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class _AbsoluteEmbeddings(_Renamed, AbsolutePosition, renamed={"weight": "position_embeddings"}):
    """One table."""


class _GridEmbeddings(_Renamed, AbsolutePosition, renamed={"weight": "position_embeddings"}):
    """One table in the form `[1, *grid, C]`, which models have that transformers' own classes would compute wrongly."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__(config)
        self.position_embeddings = nn.Parameter(self.position_embeddings.detach().unflatten(1, self.grid))

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The table as `[1, N, C]`."""
        return self.position_embeddings.flatten(1, -2)


_SEPARABLE = {"spatial": "position_embeddings_spatial", "temporal": "position_embeddings_temporal"}
_WINDOW = {"whole": "position_embeddings", "window": "position_embeddings_window"}


class _SeparableEmbeddings(_Renamed, SeparablePosition, renamed=_SEPARABLE):
    """A table of space and one of time."""


class _WindowEmbeddings(_Renamed, WindowPosition, renamed=_WINDOW):
    """A global table and one of a mask unit."""


def embeddings(config: HieraConfig, *, on_grid: bool) -> PositionEmbedding:
    """The position embedding, which holds the patch embedding as `patch_embeddings`."""
    kinds = {
        "absolute": _GridEmbeddings if on_grid else _AbsoluteEmbeddings,
        "separable": _SeparableEmbeddings,
        "abs_win": _WindowEmbeddings,
    }
    module = kinds[config.position_embedding](config)
    module.patch_embeddings = PatchProjection(config)
    return module


class MultiscaleFusion(_Renamed, Fusion, renamed={"convs": "multi_scale_fusion_heads"}):
    """The fusion: `multi_scale_fusion_heads`."""


_DECODER = {"embed": "decoder_embeddings", "norm": "decoder_norm", "pred": "decoder_pred"}


class PixelDecoder(_Renamed, Decoder, renamed=_DECODER):
    """The decoder: `decoder_embeddings`, `mask_token`, `decoder_position_embeddings`, `decoder_block.layers`,
    `decoder_norm`, `decoder_pred`.
    """

    block: ClassVar[type[Block]] = Layer

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, MaskToken):
            self.register_parameter(name, value.weight)
        elif isinstance(value, DecoderPosition):
            self.register_parameter("decoder_position_embeddings", value.weight)
            self.native_grid = value.grid
        elif name == "blocks":
            self.decoder_block = Layers(value)
        else:
            super().__setattr__(name, value)

    @property
    def mask_vector(self) -> Tensor:
        """See the base class."""
        return self.mask_token  # pyright: ignore[reportReturnType]

    @property
    def pos_embed(self) -> Callable[[tuple[int, ...]], Tensor]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Makes the table of a grid."""
        return partial(decoder_table, cast("Tensor", self.decoder_position_embeddings), self.native_grid)

    @property
    def blocks(self) -> nn.ModuleList:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The blocks."""
        return self.decoder_block.layers
