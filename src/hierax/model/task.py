"""The base of the models: an encoder, masks, and the outputs that all tasks share."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import torch
from torch import Tensor

from hierax.model.config import HieraConfig
from hierax.model.encoder import Features, Hiera, visible_units
from hierax.model.layers import init_weights
from hierax.model.mae import random_keep
from hierax.model.outputs import Output, TracedOutput
from hierax.model.pretrained import Pretrained

_Output = TypeVar("_Output", bound=Output)


class Task(Pretrained, Generic[_Output]):
    """A model with an encoder; the base of the four tasks."""

    mae = False

    def __init__(self, config: HieraConfig, *, stages: int | None = None) -> None:
        super().__init__(config)
        self.encoder = Hiera(config, initialize=False, stages=stages)

    if TYPE_CHECKING:  # PyTorch types the result of a call as Any

        def __call__(self, pixel_values: Tensor, *arguments: Any, **options: Any) -> _Output:
            """Calls the model; returns what `forward` returns."""
            ...

    def init_weights(self) -> None:
        """Gives all weights new random values; does nothing on the meta device."""
        if self.device.type != "meta":
            init_weights(self, self.config, mae=self.mae)

    def in_graph(self, pixel_values: Tensor, *, hidden_states: bool) -> _Output:
        """The part of a call that engines and exports compute; `after_graph` makes the output of the call of it."""
        return self(pixel_values, output_hidden_states=hidden_states, output_attentions=False)

    def after_graph(self, out: _Output, pixels: Sequence[int]) -> _Output:
        """The output of a call for images of these sizes in pixels, of that of `in_graph`."""
        return out

    def _output_flags(self, hidden_states: bool | None, attentions: bool | None) -> tuple[bool, bool]:
        """Which outputs a call returns: as its arguments say, else as the configuration says."""
        config = self.config
        return (
            config.output_hidden_states if hidden_states is None else hidden_states,
            config.output_attentions if attentions is None else attentions,
        )

    def _encode(
        self,
        pixels: Tensor,
        kept: Tensor | None,
        *,
        states: bool | None,
        attentions: bool | None,
        also: Sequence[int] = (),
        last: bool = False,
    ) -> Features:
        """The encoder's features, such that gradients with respect to all `states`, or to the `last`, exist."""
        every = range(self.encoder.stages + 1) if states else ()
        published = {*every, *((self.encoder.stages,) if last else ())}
        return self.encoder(
            pixels, kept=kept, stages=also, states=published, maps=every, output_attentions=bool(attentions)
        )

    def _mask(
        self, pixels: Tensor, keep: Tensor | None, noise: Tensor | None, mask_ratio: float | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Indices `[B, K]` of the visible mask units, and the ranks of the noise; None and None without a mask."""
        if keep is not None and (noise is not None or mask_ratio is not None):
            raise ValueError(
                f"keep and {'noise' if noise is not None else 'mask_ratio'} are both given; expected one of them"
            )
        if keep is None and noise is None and mask_ratio is None:
            return None, None
        units = self.encoder.unit_grid(pixels)
        if keep is not None:
            return self.encoder.checked_keep(keep, pixels.shape[0], units), None
        count = torch.Size(units).numel()
        if noise is None:
            noise = torch.rand(pixels.shape[0], count, device=pixels.device)
        if not isinstance(noise, Tensor):
            raise TypeError(f"noise is a {type(noise).__name__}; expected a tensor [{pixels.shape[0]}, {count}]")
        if tuple(noise.shape) != (pixels.shape[0], count):
            raise ValueError(f"noise has shape {list(noise.shape)}; expected [{pixels.shape[0]}, {count}]")
        return random_keep(noise, visible_units(self.config, count, mask_ratio))


def states_of(features: Features, wanted: bool | None) -> tuple[tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]:
    """`hidden_states` and `reshaped_hidden_states` of all stages."""
    if not wanted:
        return None, None
    return tuple(features.states.values()), tuple(features.maps.values())


def as_output_or_tuple(out: _Output, return_dict: bool | None) -> _Output:
    """The output, or its tuple if `return_dict` is False (for code written for transformers).

    While PyTorch traces (`torch.jit.trace`, `torch.onnx.export(dynamo=False)`), which supports no classes, it is a
    tuple whose entries also have names.
    """
    if return_dict is False:
        return cast("_Output", out.to_tuple())
    return cast("_Output", TracedOutput(out)) if torch.jit.is_tracing() else out  # pyright: ignore[reportPrivateImportUsage]
