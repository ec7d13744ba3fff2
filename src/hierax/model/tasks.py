"""The public models: features, maps, classification of images and clips, pretraining."""

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hierax.model.config import HieraConfig
from hierax.model.encoder import Features, require_units
from hierax.model.layers import Head, LayerNorm
from hierax.model.losses import classification_loss
from hierax.model.mae import Decoder, Fusion, check_mae_size, masked_loss, visible_patches
from hierax.model.outputs import BackboneOutput, ClassifierOutput, HieraModelOutput, PreTrainingOutput
from hierax.model.pretrained import require_config
from hierax.model.pyramid import FeaturePyramid, levels_for
from hierax.model.task import Task, as_output_or_tuple, states_of
from hierax.model.tokens import channels_first, shown_units

if TYPE_CHECKING:
    from typing_extensions import Self

    from hierax.checkpoint.load import Source


class HieraModel(Task[HieraModelOutput]):
    """The encoder with a pooled and normalized output (paper, section 3)."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__(config)
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.init_weights()

    def forward(
        self,
        pixel_values: Tensor,
        noise: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
        keep: Tensor | None = None,
        mask_ratio: float | None = None,
    ) -> HieraModelOutput:
        """Features of `pixel_values` `[B, channels, *size]`, any size.

        Args:
            noise: `[B, U]`; the mask units with the smallest noise are visible; the configuration's `mask_ratio` gives
                their number.
            keep: a mask of your own, booleans `[B, U]`, True = visible; every image keeps the same number.
            mask_ratio: share of the mask units to hide; None is the configuration's if `noise` is given, else nothing
                is hidden.
            output_attentions, output_hidden_states: whether to fill these fields of the output; None is the
                configuration's value. The output is computed from them, so that gradients with respect to them exist.
            interpolate_pos_encoding: accepted for code written for `transformers`; position embeddings always follow
                the size.
            return_dict: False returns a tuple.

        Returns:
            `HieraModelOutput`.

        Raises:
            ValueError: a wrong shape or mask; names it and says what is expected.
        """
        output_hidden_states, output_attentions = self._output_flags(output_hidden_states, output_attentions)
        kept, ranks = self._mask(pixel_values, keep, noise, mask_ratio)
        features = self._encode(
            pixel_values, kept, states=output_hidden_states, attentions=output_attentions, last=True
        )
        hidden, reshaped = states_of(features, output_hidden_states)
        out = HieraModelOutput(
            last_hidden_state=features.published(self.config.stages),
            pooler_output=self.norm(features.mean()),
            bool_masked_pos=None if kept is None else shown_units(kept, torch.Size(features.units).numel()),
            ids_restore=ranks,
            hidden_states=hidden,
            attentions=features.attentions,
            reshaped_hidden_states=reshaped,
        )
        return as_output_or_tuple(out, return_dict)


class HieraBackbone(Task[BackboneOutput]):
    """Feature maps for detection and segmentation, the same as those of the classifier.

    With a neck (`config.fpn_hidden_size`), "p1", "p2", … are its maps; see `FeaturePyramid`. Stages after the last
    requested map are not built, loaded or run.

    Attributes:
        out_features: names of the maps, in order of depth: "stem", "stage1", …, "p1", … (default: the maps of the neck,
            or the last stage).
        out_indices: their numbers; 0 is the stem.
        channels: width of each of them.
        strides: pixels per cell of each of them (one number per axis if they differ).
        stage_names, num_features: names and widths of all maps, with the stem first.
        pyramid: the neck, or None if none of its maps was requested.
    """

    constructor_arguments = ("out_features", "out_indices", "norms")

    def __init__(
        self,
        config: HieraConfig,
        *,
        out_features: Sequence[str] | None = None,
        out_indices: Sequence[int] | None = None,
        norms: bool = False,
    ) -> None:
        config = _with_features(config, out_features, out_indices)
        chosen, names = config.map_names, list(config.feature_names)
        levels = [config.feature_stage(name) for name in chosen if name not in config.stage_names]
        numbers = [config.stage_names.index(name) for name in chosen if name in config.stage_names]
        self.needed = sorted({*numbers, *(1 + n for level in levels for n in levels_for(config, level))})
        super().__init__(config, stages=self.needed[-1])
        self.stage_names, self.out_features = names, list(chosen)
        self.num_features = [config.feature_width(name) for name in names]
        self.out_indices = [names.index(name) for name in self.out_features]
        self.channels = [self.num_features[i] for i in self.out_indices]
        strides = [config.stage_stride(config.feature_stage(name)) for name in self.out_features]
        self.strides = [stride[0] if len(set(stride)) == 1 else stride for stride in strides]
        self.norms = nn.ModuleDict(
            {n: LayerNorm(c, eps=1e-5) for n, c in zip(self.out_features, self.channels, strict=True)} if norms else {}
        )
        self.pyramid = FeaturePyramid(config, levels) if levels else None
        self.init_weights()

    @property
    def out_feature_channels(self) -> dict[str, int]:
        """Width of each of `out_features`."""
        return dict(zip(self.out_features, self.channels, strict=True))

    def leaves_out(self, name: str) -> bool:
        """Whether a tensor belongs to a block, or a level of the neck, that no requested map needs."""
        block = re.match(r"encoder\.blocks\.(\d+)\.", name)
        level = re.match(r"pyramid\.laterals\.(\d+)\.", name)
        if level is not None:
            return self.pyramid is None or level[1] not in self.pyramid.laterals
        return block is not None and int(block[1]) >= len(self.encoder.blocks)

    @classmethod
    def from_pretrained(
        cls,
        source: "Source",
        *,
        out_features: Sequence[str] | None = None,
        out_indices: Sequence[int] | None = None,
        norms: bool = False,
        **options: Any,
    ) -> "Self":
        """Like `Pretrained.from_pretrained`, with a choice of maps; the other `options` are passed to it.

        Args:
            source: a Hub id, a folder or a file.
            out_features: names of the maps, in order of depth.
            out_indices: the same by number; 0 is the stem, negative ones count from the end.
            norms: whether to normalize each map (LayerNorm, eps 1e-5), with the file's weights if it has some, else
                with 1 and 0.
        """
        return super().from_pretrained(
            source, out_features=out_features, out_indices=out_indices, norms=norms, **options
        )

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        interpolate_pos_encoding: bool | None = None,
    ) -> BackboneOutput:
        """Maps of `pixel_values` `[B, channels, *size]`, any size; see `BackboneOutput`.

        Raises:
            ValueError: a wrong shape; names it and says what is expected.
        """
        output_hidden_states, output_attentions = self._output_flags(output_hidden_states, output_attentions)
        features = self._encode(
            pixel_values, None, states=output_hidden_states, attentions=output_attentions, also=self.needed
        )
        hidden, _ = states_of(features, output_hidden_states)
        maps = tuple(self.maps_of(features))
        out = BackboneOutput(feature_maps=maps, hidden_states=hidden, attentions=features.attentions)
        return as_output_or_tuple(out, return_dict)

    def forward_with_filtered_kwargs(self, *arguments: Any, **options: Any) -> BackboneOutput:
        """A call without the `options` that `forward` does not have; its name in transformers, whose models call it."""
        known = inspect.signature(self.forward).parameters
        return self(*arguments, **{name: value for name, value in options.items() if name in known})

    def maps_of(self, features: Features) -> Iterator[Tensor]:
        """The requested maps `[B, C, *grid]`, from the features of the encoder."""
        levels: dict[int, Tensor] = {}
        if self.pyramid is not None:
            stages = (int(level) for level in self.pyramid.laterals)
            levels = self.pyramid({stage: features.map(stage + 1) for stage in stages})
        for name in self.out_features:
            if name in self.config.stage_names:
                stage = self.config.stage_names.index(name)
                plain = features.map(stage) if not self.norms else features.grid(stage)
            else:
                plain = levels[self.config.feature_stage(name)]
                plain = plain.movedim(1, -1) if self.norms else plain
            yield channels_first(self.norms[name](plain)) if self.norms else plain


def _with_features(config: HieraConfig, names: Sequence[str] | None, indices: Sequence[int] | None) -> HieraConfig:
    """The configuration with the features that were requested by name or by number."""
    require_config(config)
    for name, given in (("out_features", names), ("out_indices", indices)):
        if isinstance(given, str) or (isinstance(given, (list, tuple)) and not given):
            raise ValueError(
                f"{name} is {given!r}; expected a list of at least one of {', '.join(config.feature_names)}"
            )
    if indices is not None:
        chosen = config.names_at(indices)
        if names is not None and tuple(names) != chosen:
            raise ValueError(f"out_features is {tuple(names)} but out_indices names {chosen}; expected one of them")
        names = chosen
    return config if names is None else config.replace(out_features=tuple(names))


class _Classifier(Task[ClassifierOutput]):
    """Encoder, pooling, norm, dropout, linear head."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__(config)
        if config.num_labels < 1:
            raise ValueError(
                "num_labels is 0; expected at least one label for a classifier (task='features' gives a model without "
                "a head)"
            )
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.head = Head(config.hidden_size, config.num_labels)
        self.init_weights()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("classifier", "fc"):  # it would become a module that no call uses
            raise AttributeError(
                f"{name} cannot be assigned: the head of a {type(self).__name__} is called head; "
                "from_pretrained(…, num_labels=…) makes a new one"
            )
        super().__setattr__(name, value)

    @property
    def classifier(self) -> nn.Module:
        """`head`, by its name in transformers."""
        return self.head

    def pooled(self, pixel_values: Tensor) -> Tensor:
        """Input of the head before dropout: the normalized mean over the tokens, `[B, C]`."""
        return self.norm(self._encode(pixel_values, None, states=None, attentions=None).mean())

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
        keep: Tensor | None = None,
    ) -> ClassifierOutput:
        """Logits of `pixel_values` `[B, channels, *size]`, any size, in training and in eval mode.

        Args:
            labels: class indices `[B]`; or booleans or floats `[B, num_labels]` if several labels may be true (with
                `problem_type` "single_label_classification", the probability of each class).
            keep: a mask of your own, booleans `[B, U]`, True = visible; every image keeps the same number.
            output_attentions, output_hidden_states: whether to fill these fields of the output; None is the
                configuration's value. The output is computed from them, so that gradients with respect to them exist.
            interpolate_pos_encoding: accepted for code written for `transformers`; position embeddings always follow
                the size.
            return_dict: False returns a tuple.

        Returns:
            `ClassifierOutput`.

        Raises:
            ValueError: a wrong shape or mask; names it and says what is expected.
        """
        output_hidden_states, output_attentions = self._output_flags(output_hidden_states, output_attentions)
        kept, _ = self._mask(pixel_values, keep, None)
        features = self._encode(pixel_values, kept, states=output_hidden_states, attentions=output_attentions)
        logits = self.head(self.dropout(self.norm(features.mean())))
        hidden, reshaped = states_of(features, output_hidden_states)
        out = ClassifierOutput(
            loss=None if labels is None else classification_loss(logits, labels, self.config),
            logits=logits,
            hidden_states=hidden,
            attentions=features.attentions,
            reshaped_hidden_states=reshaped,
        )
        return as_output_or_tuple(out, return_dict)


class HieraForImageClassification(_Classifier):
    """Image classifier: logits of `[B, channels, height, width]`."""


class HieraForVideoClassification(_Classifier):
    """Clip classifier: logits of `[B, channels, time, height, width]`."""

    def __init__(self, config: HieraConfig) -> None:
        if config.axes != 3:
            raise ValueError(f"image_size is {config.image_size}; expected (time, height, width) for a clip classifier")
        super().__init__(config)


class HieraForPreTraining(Task[PreTrainingOutput]):
    """Masked autoencoder: encodes the visible mask units and predicts the pixels of the others (paper, section 3)."""

    mae = True

    def __init__(self, config: HieraConfig) -> None:
        require_config(config)
        require_units(config)
        super().__init__(config)
        self.fusion = Fusion(config)
        self.encoder_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = Decoder(config)
        self.init_weights()

    def forward(
        self,
        pixel_values: Tensor,
        noise: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
        keep: Tensor | None = None,
        mask_ratio: float | None = None,
    ) -> PreTrainingOutput:
        """Loss and predicted pixels of `pixel_values` `[B, channels, *size]`, whose size is a multiple of the mask
        unit.

        Args:
            noise: `[B, U]`; the mask units with the smallest noise are visible; the configuration's `mask_ratio` gives
                their number. Random if neither it nor `keep` is given.
            keep: a mask of your own, booleans `[B, U]`, True = visible; every image keeps the same number.
            mask_ratio: share of the mask units to hide; None is the configuration's.
            output_attentions, output_hidden_states: whether to fill these fields of the output; None is the
                configuration's value. The output is computed from them, so that gradients with respect to them exist.
            interpolate_pos_encoding: accepted for code written for `transformers`; position embeddings always follow
                the size.
            return_dict: False returns a tuple.

        Returns:
            `PreTrainingOutput`.

        Raises:
            ValueError: a wrong shape or mask; names it and says what is expected.
        """
        output_hidden_states, output_attentions = self._output_flags(output_hidden_states, output_attentions)
        kept, ranks = self.visible(pixel_values, keep=keep, noise=noise, mask_ratio=mask_ratio)
        features, logits = self.predict(
            pixel_values, kept, hidden_states=output_hidden_states, attentions=output_attentions
        )
        visible = visible_patches(kept, self.config.unit_grid(pixel_values.shape[2:]), self.config)
        hidden, reshaped = states_of(features, output_hidden_states)
        out = PreTrainingOutput(
            loss=masked_loss(logits, pixel_values, visible, self.config),
            logits=logits,
            bool_masked_pos=visible,
            ids_restore=ranks,
            hidden_states=hidden,
            attentions=features.attentions,
            reshaped_hidden_states=reshaped,
        )
        return as_output_or_tuple(out, return_dict)

    def visible(
        self, pixels: Tensor, *, keep: Tensor | None, noise: Tensor | None, mask_ratio: float | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Indices `[B, K]` of the visible mask units (random if not given), and the ranks of the noise."""
        units = self.encoder.unit_grid(pixels)
        check_mae_size(pixels.shape[2:], self.config)
        count = torch.Size(units).numel()
        if keep is None and noise is None:
            noise = torch.rand(pixels.shape[0], count, device=pixels.device)
        kept, ranks = self._mask(pixels, keep, noise, mask_ratio)
        assert kept is not None
        if kept.shape[1] == count:
            raise ValueError(f"keep shows all {count} mask units; at least one must be hidden")
        return kept, ranks

    def predict(
        self, pixels: Tensor, kept: Tensor, *, hidden_states: bool | None = None, attentions: bool | None = None
    ) -> tuple[Features, Tensor]:
        """The encoder's features of the mask units `kept` `[B, K]`, and pixels `[B, patches, pixels]` of all patches.

        The computation of `forward` without its checks and its loss.
        """
        features = self._encode(pixels, kept, states=hidden_states, attentions=attentions, also=self.fusion.stages)
        units = self.config.unit_grid(pixels.shape[2:])
        return features, self.decoder(self.encoder_norm(self.fusion(features)), kept, units)
