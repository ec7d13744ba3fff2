"""Semantic segmentation: a class for every pixel, from the maps of all stages and a small head."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hierax.model.config import HieraConfig
from hierax.model.encoder import Features
from hierax.model.layers import Conv2d, LayerNorm, Linear
from hierax.model.losses import segmentation_loss
from hierax.model.outputs import SemanticSegmentationOutput
from hierax.model.pretrained import require_config
from hierax.model.task import Task, as_output_or_tuple, states_of


class LinearHead(nn.Module):
    """A norm and a linear layer for the map of each stage; their results are enlarged to that of stage 1, and summed.

    This is a linear layer on the enlarged and joined maps, but the maps are not enlarged, only their logits.
    """

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        widths = dict(zip(config.stage_names[1:], config.dims, strict=True))
        self.strides = [config.stage_stride(stage) for stage in range(config.stages)]
        self.norms = nn.ModuleDict({name: LayerNorm(c, eps=config.layer_norm_eps) for name, c in widths.items()})
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.ModuleDict(
            {name: Linear(c, config.num_labels, bias=name == "stage1") for name, c in widths.items()}
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits `[B, num_labels, *grid]` on the grid of the first of `maps` `[B, *grid, C]`, one per stage."""
        total: Tensor | None = None
        for stage, (name, norm) in enumerate(self.norms.items()):
            logits = self.classifier[name](self.dropout(norm(maps[stage]))).permute(0, 3, 1, 2)
            if total is None:
                total = logits
            else:
                total = total + _enlarged(logits, self.strides[stage], self.strides[0], like=total)
        assert total is not None
        return total


class FpnHead(nn.Module):
    """A feature pyramid (Kirillov et al., CVPR 2019) of one width, from the last stage to the first.

    The map of each stage is normalized and brought to the width, and the coarser level is enlarged and added. A 3x3
    convolution, a norm and GELU follow at each level; their results are enlarged and summed, and one linear layer gives
    the logits. Norms are over channels, so that the result for a pixel does not depend on the size of the image.
    """

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        width, eps = config.segmentation_hidden_size, config.layer_norm_eps
        widths = dict(zip(config.stage_names[1:], config.dims, strict=True))
        self.strides = [config.stage_stride(stage) for stage in range(config.stages)]
        self.norms = nn.ModuleDict({name: LayerNorm(c, eps=eps) for name, c in widths.items()})
        self.laterals = nn.ModuleDict({name: Linear(c, width) for name, c in widths.items()})
        self.convs = nn.ModuleDict({name: Conv2d(width, width, 3, padding=1, bias=False) for name in widths})
        self.conv_norms = nn.ModuleDict({name: LayerNorm(width, eps=eps) for name in widths})
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = Linear(width, config.num_labels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits `[B, num_labels, *grid]` on the grid of the first of `maps` `[B, *grid, C]`, one per stage."""
        level: Tensor | None = None  # the pyramid, and the sum of what the convolutions find in it
        total: Tensor | None = None  # both are `[B, width, *grid]`; in memory, channels are last
        for stage, (name, norm) in reversed([*enumerate(self.norms.items())]):
            lateral = self.laterals[name](norm(maps[stage])).permute(0, 3, 1, 2)
            level = lateral if level is None else lateral + self._finer(level, stage, like=lateral)
            found = F.gelu(self.conv_norms[name](self.convs[name](level).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
            total = found if total is None else found + self._finer(total, stage, like=found)
        assert total is not None
        return self.classifier(self.dropout(total.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)

    def _finer(self, coarser: Tensor, stage: int, *, like: Tensor) -> Tensor:
        """The map of the stage after `stage`, on the grid of `stage`."""
        return _enlarged(coarser, self.strides[stage + 1], self.strides[stage], like=like)


def segmentation_head(config: HieraConfig) -> LinearHead | FpnHead:
    """The head of `config.segmentation_head`.

    Raises:
        ValueError: the model is not for images, or has no labels.
    """
    if config.axes != 2:
        raise ValueError(f"image_size is {config.image_size}; expected (height, width) for semantic segmentation")
    if config.num_labels < 1:
        raise ValueError("num_labels is 0; expected at least one label for semantic segmentation")
    return LinearHead(config) if config.segmentation_head == "linear" else FpnHead(config)


class HieraForSemanticSegmentation(Task[SemanticSegmentationOutput]):
    """A class for every pixel of an image of any size.

    `config.segmentation_head` chooses the head: "fpn", or "linear" for little data and as a probe. Both see the maps of
    all stages of the encoder. A neck (`config.fpn_hidden_size`) is not used: its maps are linear maps of the same
    stages, with fewer channels.
    """

    def __init__(self, config: HieraConfig) -> None:
        require_config(config)
        head = segmentation_head(config)
        super().__init__(config)
        self.segmentation = head
        self.init_weights()

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
    ) -> SemanticSegmentationOutput:
        """Logits of every pixel of `pixel_values` `[B, channels, height, width]`, any size.

        Args:
            labels: the class of each pixel, integers `[B, height, width]`, of any height and width: the logits are
                enlarged to it. Pixels with `config.semantic_loss_ignore_index` (255) do not count.
            output_attentions, output_hidden_states: whether to fill these fields of the output; None is the
                configuration's value. The output is computed from them, so that gradients with respect to them exist.
            interpolate_pos_encoding: accepted for code written for `transformers`; position embeddings always follow
                the size.
            return_dict: False returns a tuple.

        Returns:
            `SemanticSegmentationOutput`.

        Raises:
            ValueError: a wrong shape, or a label that is no class; names it and says what is expected.
        """
        states, attentions = self._output_flags(output_hidden_states, output_attentions)
        features, coarse = self._coarse(pixel_values, states=states, attentions=attentions)
        size = tuple(pixel_values.shape[2:])
        if labels is not None:
            size = _label_size(labels, batch=pixel_values.shape[0])
        logits = self.enlarged(coarse, pixel_values.shape[2:], size)
        hidden, reshaped = states_of(features, states)
        out = SemanticSegmentationOutput(
            loss=None if labels is None else segmentation_loss(logits, labels, self.config),
            logits=logits,
            hidden_states=hidden,
            attentions=features.attentions,
            reshaped_hidden_states=reshaped,
        )
        return as_output_or_tuple(out, return_dict)

    def coarse_logits(self, pixel_values: Tensor) -> Tensor:
        """Logits `[B, num_labels, ceil(height / 4), ceil(width / 4)]`, before they are enlarged; see `enlarged`.

        Raises:
            ValueError: a wrong shape; names it and says what is expected.
        """
        return self._coarse(pixel_values, states=False, attentions=False)[1]

    def enlarged(self, coarse: Tensor, pixels: Sequence[int], size: Sequence[int] | None = None) -> Tensor:
        """Logits `[B, num_labels, *size]`, bilinear, at least in float32, of coarse logits.

        The last cell of a side that is no multiple of 4 pixels is cut, so that every logit stays where its pixels are.

        Args:
            coarse: the result of `coarse_logits`.
            pixels: height and width of the images that it was computed from.
            size: height and width of the result; None is `pixels`.
        """
        height, width = pixels if size is None else size
        stride = self.config.stage_stride(0)
        cells = zip(coarse.shape[2:], stride, pixels, (height, width), strict=True)
        whole = [-(-count * step * wanted // side) for count, step, side, wanted in cells]
        exact = coarse if coarse.dtype == torch.float64 else coarse.float()
        # on a CPU, enlarging and argmax are faster with channels last, and the loss with channels first
        traced = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]  # its check has no gradients
        order = torch.contiguous_format if exact.requires_grad or traced else torch.channels_last
        exact = exact.contiguous(memory_format=order)
        return F.interpolate(exact, whole, mode="bilinear", align_corners=False)[..., :height, :width]

    def in_graph(self, pixel_values: Tensor, *, hidden_states: bool) -> SemanticSegmentationOutput:
        """See the base class. The logits are the coarse ones, which are 16 times fewer numbers."""
        features, coarse = self._coarse(pixel_values, states=hidden_states, attentions=False)
        hidden, reshaped = states_of(features, hidden_states)
        return SemanticSegmentationOutput(None, coarse, hidden_states=hidden, reshaped_hidden_states=reshaped)

    def after_graph(self, out: SemanticSegmentationOutput, pixels: Sequence[int]) -> SemanticSegmentationOutput:
        """See the base class."""
        return dataclasses.replace(out, logits=self.enlarged(out.logits, pixels))

    def _coarse(self, pixels: Tensor, *, states: bool, attentions: bool) -> tuple[Features, Tensor]:
        """The features, and the logits on the grid of stage 1."""
        stages = range(1, self.encoder.stages + 1)
        features = self._encode(pixels, None, states=states, attentions=attentions, also=stages)
        return features, self.segmentation([features.grid(stage) for stage in stages])


def _enlarged(coarse: Tensor, stride: Sequence[int], wanted: Sequence[int], *, like: Tensor) -> Tensor:
    """A map of one `stride` at the stride `wanted`, on the grid of the map `like`. The last cells may be cut."""
    if stride == wanted:
        return coarse
    factors = [before // after for before, after in zip(stride, wanted, strict=True)]
    whole = [cells * factor for cells, factor in zip(coarse.shape[2:], factors, strict=True)]
    height, width = like.shape[2:]
    return F.interpolate(coarse, whole, mode="bilinear", align_corners=False)[..., :height, :width]


def _label_size(labels: Tensor, *, batch: int) -> tuple[int, int]:
    """Height and width of `labels`.

    Raises:
        TypeError: they are no tensor.
        ValueError: they are not integers `[batch, height, width]`.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels is a {type(labels).__name__}; expected a tensor")
    if labels.ndim != 3 or labels.shape[0] != batch or 0 in labels.shape:
        raise ValueError(f"labels has shape {list(labels.shape)}; expected [{batch}, height, width]: a class per pixel")
    if labels.is_floating_point():
        raise ValueError(f"labels has dtype {labels.dtype}; expected integers, the class of each pixel")
    return labels.shape[1], labels.shape[2]
