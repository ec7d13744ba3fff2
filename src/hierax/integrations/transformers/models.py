"""hierax's models as models of transformers."""

from collections.abc import Iterable
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_outputs import BackboneOutput
from transformers.models.hiera.modeling_hiera import (
    HieraForImageClassificationOutput,
    HieraForPreTrainingOutput,
    HieraModelOutput,
)
from transformers.utils.generic import ModelOutput

from hierax.checkpoint.dialects.transformers import fits_transformers
from hierax.checkpoint.save import named_tensors
from hierax.integrations.transformers.configuration import HieraxConfig, bundled_or_given, hierax_config
from hierax.integrations.transformers.tree import (
    Encoder,
    Layer,
    MultiscaleFusion,
    PixelDecoder,
    Pooler,
    embeddings,
)
from hierax.model import tasks
from hierax.model.encoder import Hiera
from hierax.model.layers import Head, LayerNorm, init_weights
from hierax.model.outputs import Output
from hierax.model.positions import PositionEmbedding
from hierax.model.pretrained import Pretrained
from hierax.model.task import Task

_Model = TypeVar("_Model", bound="HieraxPreTrainedModel")
_Theirs = TypeVar("_Theirs", bound=ModelOutput)

_PARTS = ("fusion", "segmentation")


class _EncoderView:
    """What `Hiera.forward` reads of an encoder, found in a tree with other names."""

    forward = __call__ = Hiera.forward
    unit_grid, checked_keep = Hiera.unit_grid, Hiera.checked_keep
    _embed, _pad, _run = Hiera._embed, Hiera._pad, Hiera._run
    recomputed_every = 1

    def __init__(self, tree: "HieraxPreTrainedModel") -> None:
        encoder = cast("Encoder", tree.encoder)
        self.config, self.dtype, self.training = tree.hierax_config, tree.dtype, tree.training
        self.gradient_checkpointing = tree.gradient_checkpointing
        self.pos_embed = cast("PositionEmbedding", tree.embeddings)
        self.patch_embed = self.pos_embed.patch_embeddings
        self.stages, self.blocks = len(encoder.stages), encoder.blocks()


class TaskView:
    """What the `forward` of a task reads of its model."""

    _output_flags, _mask, _encode = Task._output_flags, Task._mask, Task._encode

    def __init__(self, tree: "HieraxPreTrainedModel", **parts: Any) -> None:
        self.encoder, self.config = _EncoderView(tree), tree.hierax_config
        self.__dict__.update(parts)


class _BackboneView(TaskView):
    maps_of, pyramid = tasks.HieraBackbone.maps_of, None


class _PreTrainingView(TaskView):
    visible, predict = tasks.HieraForPreTraining.visible, tasks.HieraForPreTraining.predict


class HieraxPreTrainedModel(PreTrainedModel):
    """The base of the models: weights, initialization, and the way from and to hierax's own models.

    Attributes:
        config: the `HieraxConfig`.
        hierax_config: the same as a `hierax.HieraConfig`.
    """

    config_class = HieraxConfig
    config: HieraxConfig
    base_model_prefix = "hiera"
    main_input_name = "pixel_values"
    input_modalities = ["image", "video"]
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # losses are means over the batch, which Trainer divides by the steps it accumulates
    _no_split_modules = [Layer.__name__, "PositionEmbedding"]
    _supports_sdpa = True
    hierax_class: ClassVar[type[Pretrained]]
    """The class of hierax that computes the same."""
    mae = False

    def __init__(self, config: HieraxConfig) -> None:
        super().__init__(config)
        self.hierax_config = hierax_config(config)
        self.gradient_checkpointing = False

    def _add_encoder(self, stages: int | None = None) -> None:
        own = self.hierax_config
        self.embeddings = embeddings(own, on_grid=not fits_transformers(own))
        self.encoder = Encoder(own, own.stages if stages is None else stages)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initializes those parameters of `module` itself that were not loaded, as hierax does."""
        own, direct = self.hierax_config, list(module.parameters(recurse=False))
        loaded = {p: p.clone() for p in direct if getattr(p, "_is_hf_initialized", False)}
        if len(loaded) == len(direct):
            return
        if isinstance(module, Layer):
            for scale in direct:
                nn.init.constant_(scale, own.layer_scale_init or 0.0)
        elif isinstance(module, (PositionEmbedding, PixelDecoder)):
            for table in direct:
                nn.init.trunc_normal_(table, std=own.initializer_range)
        else:
            part = next((name for name in _PARTS if any(module is m for m in self._modules_of(name))), "")
            init_weights(module, own, mae=self.mae, name=part)
        for parameter, value in loaded.items():
            parameter.copy_(value)

    def _modules_of(self, part: str) -> Iterable[nn.Module]:
        """The modules of a part that is initialized in its own way, if this model has it."""
        return ()

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding."""
        base = cast("HieraxPreTrainedModel", self.base_model)
        return cast("PositionEmbedding", base.embeddings).get_submodule("patch_embeddings")

    @classmethod
    def from_pretrained(cls: type[_Model], pretrained_model_name_or_path: Any, *arguments: Any, **options: Any) -> Any:
        """As in transformers; "hierax/femto" and "hierax/femto.mae", which are part of hierax, are names too.

        transformers keeps the precision of the file. These two are stored in float16, in which training fails, so they
        are loaded in float32 unless `dtype` says otherwise.
        """
        source = bundled_or_given(pretrained_model_name_or_path)
        if source is not pretrained_model_name_or_path and not options.keys() & {"dtype", "torch_dtype"}:
            options["dtype"] = torch.float32
        return super().from_pretrained(source, *arguments, **options)  # pyright: ignore[reportAttributeAccessIssue]

    @classmethod
    def from_hierax(cls: type[_Model], model: Pretrained) -> _Model:
        """A copy of a model of hierax.

        Raises:
            TypeError: the model is not of the class that this class stands for; names both.
            ValueError: the model has a neck, which the classes here do not have.
        """
        if not isinstance(model, cls.hierax_class):
            raise TypeError(f"model is a {type(model).__name__}; expected a {cls.hierax_class.__name__}")
        if any(name.startswith("pyramid.") for name in model.state_dict()):
            raise ValueError(
                f"fpn_hidden_size is {model.config.fpn_hidden_size}, but {cls.__name__} has no neck; expected a model "
                'without one: from_pretrained(…, out_features=("stage1", …), fpn_hidden_size=None)'
            )
        norms = isinstance(model, tasks.HieraBackbone) and len(model.norms) > 0
        made = cls(HieraxConfig.from_hierax(model.config, backbone_norms=norms))
        nn.Module.to(made, dtype=model.dtype, device=model.device)
        made.load_state_dict(named_tensors(model, "transformers"))
        made.train(model.training)
        return made

    def _pixels(self, pixel_values: Tensor | None) -> Tensor:
        """The pixels as hierax takes them: of clips, the channels before the time."""
        if pixel_values is None:
            raise ValueError("pixel_values is None; expected a tensor")
        if self.hierax_config.is_video and pixel_values.ndim == 5:
            return pixel_values.transpose(1, 2)
        return pixel_values

    def _flags(self, hidden_states: bool | None, attentions: bool | None) -> dict[str, Any]:
        config = self.config
        return {
            "output_hidden_states": bool(config.output_hidden_states if hidden_states is None else hidden_states),
            "output_attentions": bool(config.output_attentions if attentions is None else attentions),
        }

    def _output(self, theirs: type[_Theirs], out: Output, return_dict: bool | None) -> _Theirs:
        made = theirs(**dict(out.items()))
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return made if as_dict else cast("_Theirs", made.to_tuple())


class HieraxModel(HieraxPreTrainedModel):
    """`hierax.HieraModel` in transformers: tokens, and their pooled and normalized mean."""

    hierax_class = tasks.HieraModel

    def __init__(self, config: HieraxConfig, add_pooling_layer: bool = True, *, mae: bool = False) -> None:
        """`mae` initializes the weights as those of a masked autoencoder."""
        super().__init__(config)
        self.mae = mae
        self._add_encoder()
        self.pooler = Pooler(self.hierax_config) if add_pooling_layer else None
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        noise: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
    ) -> HieraModelOutput:
        """Features of images `[B, channels, height, width]`, or of clips `[B, time, channels, height, width]`, of any
        size; the arguments are those of `hierax.HieraModel`.
        """
        norm = nn.Identity() if self.pooler is None else self.pooler.layernorm
        out = tasks.HieraModel.forward(
            cast("Any", TaskView(self, norm=norm)),
            self._pixels(pixel_values),
            noise=noise,
            **self._flags(output_hidden_states, output_attentions),
        )
        if self.pooler is None:
            out.pooler_output = cast("Any", None)
        return self._output(HieraModelOutput, out, return_dict)


class _Classifier(HieraxPreTrainedModel):
    """Encoder, pooling, norm, linear head."""

    def __init__(self, config: HieraxConfig) -> None:
        super().__init__(config)
        own, self.num_labels = self.hierax_config, config.num_labels
        self.hiera = HieraxModel(config)
        self.dropout = nn.Dropout(own.dropout)
        self.classifier = Head(own.hidden_size, self.num_labels) if self.num_labels else nn.Identity()
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
    ) -> HieraForImageClassificationOutput:
        """Logits, and with `labels` the loss; the arguments are those of hierax's classifiers."""
        if self.config.problem_type != self.hierax_config.problem_type:
            self.hierax_config.problem_type = self.config.problem_type
        pooler = cast("Pooler", self.hiera.pooler)
        parts = {"norm": pooler.layernorm, "dropout": self.dropout, "head": self.classifier}
        out = self.hierax_class.forward(
            cast("Any", TaskView(self.hiera, config=self.hierax_config, **parts)),
            self._pixels(pixel_values),
            labels=labels,
            **self._flags(output_hidden_states, output_attentions),
        )
        return self._output(HieraForImageClassificationOutput, out, return_dict)


class HieraxForImageClassification(_Classifier):
    """`hierax.HieraForImageClassification` in transformers: logits of `[B, channels, height, width]`."""

    hierax_class = tasks.HieraForImageClassification


class HieraxForVideoClassification(_Classifier):
    """`hierax.HieraForVideoClassification` in transformers: logits of clips `[B, time, channels, height, width]`."""

    hierax_class = tasks.HieraForVideoClassification


class HieraxForPreTraining(HieraxPreTrainedModel):
    """`hierax.HieraForPreTraining` in transformers: the masked autoencoder."""

    hierax_class = tasks.HieraForPreTraining
    mae = True

    def __init__(self, config: HieraxConfig) -> None:
        super().__init__(config)
        own = self.hierax_config
        self.hiera = HieraxModel(config, add_pooling_layer=False, mae=True)
        self.encoder_norm = LayerNorm(own.hidden_size, eps=own.layer_norm_eps)
        self.multiscale_fusion = MultiscaleFusion(own)
        self.decoder = PixelDecoder(own)
        self.post_init()

    def _modules_of(self, part: str) -> Iterable[nn.Module]:
        return list(self.multiscale_fusion.convs) if part == "fusion" else ()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        noise: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
    ) -> HieraForPreTrainingOutput:
        """Loss and predicted pixels; the arguments are those of `hierax.HieraForPreTraining`."""
        if self.config.normalize_pixel_loss != self.hierax_config.normalize_pixel_loss:
            self.hierax_config.normalize_pixel_loss = bool(self.config.normalize_pixel_loss)
        parts = {"fusion": self.multiscale_fusion, "encoder_norm": self.encoder_norm, "decoder": self.decoder}
        out = tasks.HieraForPreTraining.forward(
            cast("Any", _PreTrainingView(self.hiera, config=self.hierax_config, **parts)),
            self._pixels(pixel_values),
            noise=noise,
            **self._flags(output_hidden_states, output_attentions),
        )
        return self._output(HieraForPreTrainingOutput, out, return_dict)


class HieraxBackbone(BackboneMixin, HieraxPreTrainedModel):
    """`hierax.HieraBackbone` in transformers: the maps that detection and segmentation models build on.

    Stages after the last of `out_features` are not built. `config.backbone_norms` adds a LayerNorm to each map.
    """

    hierax_class = tasks.HieraBackbone

    def __init__(self, config: HieraxConfig) -> None:
        super().__init__(config)
        own = self.hierax_config
        self._add_encoder(stages=max(self._indices()))
        self.num_features = [own.dims[max(stage - 1, 0)] for stage in range(own.stages + 1)]
        norms = getattr(config, "backbone_norms", False)  # transformers' own configuration has no such field
        self.hidden_states_norms = nn.ModuleDict(
            {n: LayerNorm(c, eps=1e-5) for n, c in zip(self.out_features, self.channels, strict=True)} if norms else {}
        )
        self.post_init()

    def _indices(self) -> list[int]:
        return [index % len(self.stage_names) for index in self.out_indices]

    @property
    def strides(self) -> list[int]:
        """Pixels per cell of each map."""
        return [self.hierax_config.stage_stride(max(stage - 1, 0))[-1] for stage in self._indices()]

    def forward(
        self,
        pixel_values: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> BackboneOutput:
        """Maps `[B, C, height, width]` of images of any size; the arguments are those of `hierax.HieraBackbone`."""
        view = _BackboneView(
            self, out_features=self.out_features, needed=self._indices(), norms=self.hidden_states_norms
        )
        out = tasks.HieraBackbone.forward(
            cast("Any", view), self._pixels(pixel_values), **self._flags(output_hidden_states, output_attentions)
        )
        return self._output(BackboneOutput, out, return_dict)
