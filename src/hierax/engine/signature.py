"""A model as a function of tensors only, for compilers and exports, and the conversion back to typed outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from hierax.model.encoder import Hiera
from hierax.model.mae import check_mae_size, masked_loss, visible_patches
from hierax.model.outputs import Output, PreTrainingOutput
from hierax.model.pretrained import Pretrained
from hierax.model.registry import TASKS, task_of
from hierax.model.task import Task
from hierax.model.tasks import HieraForPreTraining

if TYPE_CHECKING:

    class EngineOutput(Output):
        """The output of an engine's call, which is the output of its task's model. These are the fields of all tasks,
        for editors; the task decides which of them exist.
        """

        logits: Tensor
        pooler_output: Tensor
        last_hidden_state: Tensor
        feature_maps: tuple[Tensor, ...]
        reshaped_hidden_states: tuple[Tensor, ...] | None
        loss: Tensor | None
        bool_masked_pos: Tensor | None
        ids_restore: Tensor | None

else:
    EngineOutput = Output

_STATES = "reshaped_hidden_states"
_MAPS = "feature_maps"


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a program, as an exported file states them.

    Attributes:
        task: a key of `hierax.model.registry.TASKS`: "features", "classification", "backbone", "mae", …
        outputs: names of the tensors it returns, in order; "feature_maps.2" is the third of several.
        masked: whether it takes the indices of the visible mask units besides the pixels.
    """

    task: str
    outputs: tuple[str, ...]
    masked: bool

    @classmethod
    def of(cls, model: Pretrained, *, hidden_states: bool = False) -> Signature:
        """The signature of `model`, with the maps of all stages if `hidden_states`."""
        states = tuple(f"{_STATES}.{i}" for i in range(model.config.stages + 1)) if hidden_states else ()
        task = task_of(type(model))
        if not task.maps:
            return cls(task.name, (*task.outputs, *states), masked=task.masked)
        if hidden_states:
            raise ValueError("hidden_states=True: a HieraBackbone gives feature maps; name them in out_features")
        maps = model.config.map_names
        return cls(task.name, tuple(f"{_MAPS}.{i}" for i in range(len(maps))), masked=task.masked)


class Program(nn.Module):
    """`model` from pixels `[B, C, *size]` (and `kept` `[B, K]`) to the tensors of `signature`, all in float32."""

    def __init__(self, model: Pretrained, signature: Signature) -> None:
        super().__init__()
        self.model, self.signature = model, signature
        self.states = any(name.startswith(_STATES) for name in signature.outputs)

    def forward(self, pixel_values: Tensor, kept: Tensor | None = None) -> tuple[Tensor, ...]:
        """The tensors that `signature.outputs` names."""
        if self.signature.masked:
            assert kept is not None
            assert isinstance(self.model, HieraForPreTraining)
            features, logits = self.model.predict(pixel_values, kept, hidden_states=self.states)
            maps = [features.grid(s) for s in range(self.model.config.stages + 1)] if self.states else []
            return tuple(t.float() for t in (logits, *maps))
        out = task_model(self.model).in_graph(pixel_values, hidden_states=self.states)
        return tuple(_field(out, name).float() for name in self.signature.outputs)


def _field(out: Any, name: str) -> Tensor:
    field, _, index = name.partition(".")
    value = getattr(out, field)
    return value[int(index)] if index else value


def to_output(signature: Signature, tensors: Sequence[Tensor], model: Pretrained, size: Sequence[int]) -> Output:
    """The typed output of a model that is not an MAE model, from a program's tensors for inputs of `size` pixels."""
    fields: dict[str, Any] = {}
    for name, tensor in zip(signature.outputs, tensors, strict=True):
        field, _, index = name.partition(".")
        fields[field] = (*fields.get(field, ()), tensor) if index else tensor
    return task_model(model).after_graph(TASKS[signature.task].output(**fields), size)


def typed_mae(
    signature: Signature, tensors: Sequence[Tensor], *, pixels: Tensor, kept: Tensor, ranks: Tensor | None, config: Any
) -> PreTrainingOutput:
    """The output of an MAE model, with the loss over `pixels`."""
    check_mae_size(pixels.shape[2:], config)
    visible = visible_patches(kept, config.unit_grid(pixels.shape[2:]), config)
    states = tuple(t for n, t in zip(signature.outputs, tensors, strict=True) if n.startswith(_STATES)) or None
    logits = tensors[signature.outputs.index("logits")]
    return PreTrainingOutput(
        loss=masked_loss(logits, pixels, visible, config),
        logits=logits,
        bool_masked_pos=visible,
        ids_restore=ranks,
        reshaped_hidden_states=states,
    )


def task_model(model: Pretrained) -> Task[Any]:
    """The model, which is not the encoder alone."""
    assert isinstance(model, Task)
    return model


def mae_of(model: Pretrained) -> HieraForPreTraining:
    """The model, which must be an MAE model."""
    assert isinstance(model, HieraForPreTraining)
    return model


def encoder_of(model: Pretrained) -> Hiera:
    """The model's encoder."""
    encoder = model.get_submodule("encoder")
    assert isinstance(encoder, Hiera)
    return encoder
