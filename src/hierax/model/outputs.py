"""Outputs of the models: dataclasses that can also be read like the outputs of `transformers`.

`out.logits`, `out["logits"]`, `out[0]`, `out[:2]` and `out.to_tuple()` work. Access by position and by key skips fields
that are None, and iteration gives the keys. `repr` gives shapes and dtypes, not the numbers.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hierax.reprs.markup import entries_card, html_repr
from hierax.reprs.text import never_raises, short_repr


class Output:
    """Access to the fields of a dataclass by name, position or slice."""

    def keys(self) -> tuple[str, ...]:
        """Names of the fields that are not None."""
        return tuple(f.name for f in dataclasses.fields(self) if getattr(self, f.name) is not None)  # type: ignore[arg-type]

    def values(self) -> tuple[Any, ...]:
        """Values of the fields that are not None."""
        return self.to_tuple()

    def items(self) -> tuple[tuple[str, Any], ...]:
        """Pairs of `keys` and `values`."""
        return tuple((name, getattr(self, name)) for name in self.keys())

    def to_tuple(self) -> tuple[Any, ...]:
        """Values of the fields that are not None, in order."""
        return tuple(getattr(self, name) for name in self.keys())

    def get(self, key: str, default: Any = None) -> Any:
        """The field of this name, or `default` if it is None."""
        value = getattr(self, key) if key in self.keys() else None
        return default if value is None else value

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(f"{key!r} is not in this output; it has {', '.join(self.keys())}")
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    @html_repr
    def _repr_html_(self) -> str:
        return entries_card(type(self).__name__, self.items())


class TracedOutput(tuple[Any, ...]):
    """The fields of an output that are not None, as a tuple whose entries also have names."""

    _output: Output

    def __new__(cls, output: Output) -> "TracedOutput":
        """The tuple of this output."""
        made = super().__new__(cls, output.to_tuple())
        made._output = output
        return made

    def __getattr__(self, name: str) -> Any:
        return getattr(self._output, name)

    def __getitem__(self, key: Any) -> Any:
        return self._output[key]

    @never_raises
    def __repr__(self) -> str:
        return f"Traced{self._output!r}"


@short_repr()
@dataclass
class HieraModelOutput(Output):
    """Output of `HieraModel`.

    Attributes:
        last_hidden_state: tokens `[B, N, C]` after the last stage, with padding, in the published order, not
            normalized.
        pooler_output: mean `[B, C]` over the tokens that touch the image, normalized.
        bool_masked_pos: with a mask, `[B, U]`, True for the visible mask units.
        ids_restore: with `noise`, the rank `[B, U]` of every unit's noise.
        hidden_states: tokens `[B, N, C]` of the stem and after each stage, with padding, in the published order.
        attentions: weights `[B, N, windows, queries, keys]` of the last block of each stage, in the published order.
        reshaped_hidden_states: maps `[B, *ceil(size / stride), C]`; with a mask `[B, K, *unit, C]`.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor
    bool_masked_pos: Tensor | None = None
    ids_restore: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    reshaped_hidden_states: tuple[Tensor, ...] | None = None


@short_repr()
@dataclass
class BackboneOutput(Output, dict[str, Any]):  # pyright: ignore[reportIncompatibleMethodOverride]
    """Output of `HieraBackbone`. It is a `dict`, by which DETR and its relatives in transformers know such outputs.

    Attributes:
        feature_maps: `[B, C, *ceil(size / stride)]` for each of `out_features`.
        hidden_states, attentions: as in `HieraModelOutput`.
    """

    feature_maps: tuple[Tensor, ...]
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        given: Any = self.feature_maps
        if isinstance(given, (Iterator, Mapping)):  # names and values, of which PyTorch and accelerate make such a dict
            for name, value in dict(given).items():
                setattr(self, name, value)


@short_repr()
@dataclass
class ClassifierOutput(Output):
    """Output of the classifiers.

    Attributes:
        loss: scalar, if `labels` were given.
        logits: `[B, num_labels]`, before any softmax.
        hidden_states, attentions, reshaped_hidden_states: as in `HieraModelOutput`.
    """

    loss: Tensor | None
    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    reshaped_hidden_states: tuple[Tensor, ...] | None = None


@short_repr()
@dataclass
class SemanticSegmentationOutput(Output):
    """Output of `HieraForSemanticSegmentation`.

    Attributes:
        loss: scalar, if `labels` were given.
        logits: `[B, num_labels, height, width]` of the labels, else of the pixels, at least in float32.
        hidden_states, attentions, reshaped_hidden_states: as in `HieraModelOutput`.
    """

    loss: Tensor | None
    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    reshaped_hidden_states: tuple[Tensor, ...] | None = None


@short_repr()
@dataclass
class PreTrainingOutput(Output):
    """Output of `HieraForPreTraining`.

    Attributes:
        loss: scalar, the mean squared error over the masked patches, in float32.
        logits: predicted pixels `[B, patches, pixels]` of all patches, row-major (video: time-major).
        bool_masked_pos: `[B, patches]`, True for the patches that were visible.
        ids_restore: rank `[B, U]` of every mask unit's noise; None when `keep` was given.
        hidden_states, attentions, reshaped_hidden_states: of the encoder, as in `HieraModelOutput`.
    """

    loss: Tensor
    logits: Tensor
    bool_masked_pos: Tensor
    ids_restore: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    reshaped_hidden_states: tuple[Tensor, ...] | None = None


_OUTPUTS = (HieraModelOutput, BackboneOutput, ClassifierOutput, SemanticSegmentationOutput, PreTrainingOutput)
for _output in _OUTPUTS:
    # torch.export needs to know the parts of an output, and its name in a file
    torch.export.register_dataclass(_output, serialized_type_name=f"hierax.{_output.__name__}")
