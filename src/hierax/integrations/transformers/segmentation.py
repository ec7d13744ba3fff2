"""Semantic segmentation as a model of transformers."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SemanticSegmenterOutput

from hierax.integrations.transformers.configuration import HieraxConfig
from hierax.integrations.transformers.models import HieraxModel, HieraxPreTrainedModel, TaskView
from hierax.model.segmentation import HieraForSemanticSegmentation, segmentation_head


class _SegmentationView(TaskView):
    enlarged, _coarse = HieraForSemanticSegmentation.enlarged, HieraForSemanticSegmentation._coarse


@dataclass
class HieraxSemanticSegmenterOutput(SemanticSegmenterOutput):
    """Output of `HieraxForSemanticSegmentation`, with the fields of `hierax.SemanticSegmentationOutput`."""

    reshaped_hidden_states: tuple[torch.FloatTensor, ...] | None = None


class HieraxForSemanticSegmentation(HieraxPreTrainedModel):
    """`hierax.HieraForSemanticSegmentation` in transformers: logits of every pixel."""

    hierax_class = HieraForSemanticSegmentation

    def __init__(self, config: HieraxConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.hiera = HieraxModel(config, add_pooling_layer=False)
        self.segmentation = segmentation_head(self.hierax_config)
        self.post_init()

    def _modules_of(self, part: str) -> Iterable[nn.Module]:
        return self.segmentation.modules() if part == "segmentation" else ()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
    ) -> HieraxSemanticSegmenterOutput:
        """Logits, and with `labels` the loss; the arguments are those of `hierax.HieraForSemanticSegmentation`."""
        ignored = getattr(self.config, "semantic_loss_ignore_index", 255)
        if ignored != self.hierax_config.semantic_loss_ignore_index:
            self.hierax_config.semantic_loss_ignore_index = ignored
        view = _SegmentationView(self.hiera, config=self.hierax_config, segmentation=self.segmentation)
        out = HieraForSemanticSegmentation.forward(
            cast("Any", view),
            self._pixels(pixel_values),
            labels=labels,
            **self._flags(output_hidden_states, output_attentions),
        )
        return self._output(HieraxSemanticSegmenterOutput, out, return_dict)
