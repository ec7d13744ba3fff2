"""The arithmetic of LoRA: a weight W becomes W + scale * B A, with two narrow matrices A and B (arXiv 2106.09685).

PEFT is not needed here. It names the matrices `LAYER.lora_A.weight` and `LAYER.lora_B.weight` in files, and
`LAYER.lora_A.default.weight` in models, where the layer's own tensors are in `LAYER.base_layer`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

_MATRIX = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])(?:\.default)?\.(?P<kind>weight|bias)")
_WRAPPED = re.compile(r"\.(?:base_layer|modules_to_save(?:\.default)?)\.")


@dataclass
class Matrices:
    """The matrices of one layer.

    Attributes:
        down: A, `[rank, in]`; of a convolution `[rank, in, *kernel]`.
        up: B, `[out, rank]`; of a convolution `[out, rank, 1, 1]`.
        bias: `[out]`, or None.
    """

    down: Tensor
    up: Tensor
    bias: Tensor | None = None

    @property
    def rank(self) -> int:
        """The rank."""
        return self.down.shape[0]

    def product(self, shape: torch.Size) -> Tensor:
        """B A in the shape of the layer's weight, in float32 or more.

        Raises:
            ValueError: the matrices do not fit each other, or not the layer.
        """
        up, down = (matrix.flatten(1).to(_precise(matrix)) for matrix in (self.up, self.down))
        if up.shape[1] != down.shape[0] or up.shape[0] * down.shape[1] != shape.numel() or up.shape[0] != shape[0]:
            both = f"{list(self.up.shape)} and {list(self.down.shape)}"
            raise ValueError(f"lora_B and lora_A have shapes {both}, which do not fit a weight {list(shape)}")
        return (up @ down).view(shape)


@dataclass
class Adapter:
    """The tensors of an adapter.

    Attributes:
        layers: the matrices by the names of their layers.
        replaced: the tensors that replace those of the base model, such as the head, by their names.
    """

    layers: dict[str, Matrices] = field(default_factory=dict)
    replaced: dict[str, Tensor] = field(default_factory=dict)


def adapter_of(tensors: Mapping[str, Tensor]) -> Adapter:
    """The adapter in the tensors of a file, or of a model with layers of PEFT; `replaced` has all its other tensors.

    Raises:
        ValueError: a layer lacks a matrix, or a tensor belongs to a kind of LoRA that hierax does not know.
    """
    found, sides = Adapter(), dict[str, dict[str, Tensor]]()
    for name, tensor in tensors.items():
        match = _MATRIX.fullmatch(name)
        if match:
            sides.setdefault(match["layer"], {})[f"{match['side']}.{match['kind']}"] = tensor
        elif ".lora_" in name:
            raise ValueError(f"{name} belongs to a kind of LoRA that hierax does not know")
        elif ".original_module." not in name:  # bias="all" also stores the head as it was before
            found.replaced[_WRAPPED.sub(".", name)] = tensor
    for layer, parts in sides.items():
        lacking = {"A.weight", "B.weight"} - parts.keys()
        if lacking or any(part.ndim < 2 or not part.is_floating_point() for part in _weights(parts)):
            raise ValueError(f"{layer} needs two matrices of floating-point numbers, lora_A.weight and lora_B.weight")
        found.layers[layer] = Matrices(parts["A.weight"], parts["B.weight"], parts.get("B.bias"))
    return found


def _weights(parts: Mapping[str, Tensor]) -> list[Tensor]:
    return [tensor for name, tensor in parts.items() if name.endswith("weight")]


def _precise(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def add_layer(tensors: dict[str, Tensor], layer: str, matrices: Matrices, scale: float) -> None:
    """Adds the product of a layer's matrices, times `scale`, to its weight in `tensors`, and likewise the bias.

    Raises:
        ValueError: the matrices do not fit the layer.
    """
    weight = tensors[f"{layer}.weight"]
    try:
        tensors[f"{layer}.weight"] = weight.to(_precise(weight)) + scale * matrices.product(weight.shape)
    except ValueError as error:
        raise ValueError(f"{layer}: {error}") from None
    if matrices.bias is not None:
        bias = tensors[f"{layer}.bias"]
        tensors[f"{layer}.bias"] = bias.to(_precise(bias)) + scale * matrices.bias.to(_precise(bias))


def merged_state(state: Mapping[str, Tensor], scale: float | None) -> dict[str, Tensor]:
    """The state of a model with layers of PEFT as the state of the model without them, which computes the same.

    Args:
        state: the state; that of a model without such layers is returned as it is.
        scale: what the products are multiplied by; None if there are none.
    """
    if scale is None:
        return dict(state)
    adapter = adapter_of(state)
    for layer, matrices in adapter.layers.items():
        add_layer(adapter.replaced, layer, matrices, scale)
    return adapter.replaced
