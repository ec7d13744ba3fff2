"""Translates the arguments of `from_pretrained` from the names of other libraries, and adapts weights to
other inputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hierax.devices import find_device
from hierax.model.config import OUTPUTS
from hierax.transformers_arguments import without_foreign

if TYPE_CHECKING:
    from hierax.processing import Preprocessing

_SYNONYMS = {"in_chans": "num_channels", "num_classes": "num_labels", "img_size": "image_size"}
_ATTENTIONS = ("sdpa", "eager")


@dataclass(frozen=True)
class Overrides:
    """The arguments, by their names in hierax.

    Attributes:
        fields: fields of the configuration.
        outputs: additional outputs of the model, by name, such as `output_hidden_states`.
        dtype: dtype of the weights; None: that of the file.
        device: device of the weights.
    """

    fields: dict[str, Any]
    outputs: dict[str, bool]
    dtype: torch.dtype | None
    device: torch.device


def read_overrides(
    overrides: Mapping[str, Any], *, dtype: torch.dtype | str | None = None, device: torch.device | str | None = None
) -> Overrides:
    """Translates arguments from the names of transformers and timm.

    `torch_dtype` is `dtype`. `device_map` is `device`, or "auto" for a GPU if there is one. `attn_implementation` may
    be "sdpa" or "eager", which make no difference. `in_chans`, `num_classes` and `img_size` are the names of fields in
    timm. Arguments of transformers that change nothing are accepted, see `without_foreign`.

    Raises:
        ValueError: a value is wrong, or two names of the same argument have different values.
    """
    given = without_foreign(overrides)
    outputs = {name: given.pop(name) for name in OUTPUTS if name in given}
    for name, value in outputs.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}; expected true or false")
    for theirs, ours in _SYNONYMS.items():
        if theirs in given:
            value = given.pop(theirs)
            if given.setdefault(ours, value) != value:
                raise ValueError(f"{theirs} is {value!r} but {ours} is {given[ours]!r}; expected one of them")
    asked = given.pop("torch_dtype", None)
    if asked is not None and dtype is not None and _precision(asked) != _precision(dtype):
        raise ValueError(f"torch_dtype is {asked!r} but dtype is {dtype!r}; expected one of them")
    attention = given.pop("attn_implementation", None)
    if attention not in (None, *_ATTENTIONS):
        raise ValueError(
            f"attn_implementation is {attention!r}; expected 'sdpa' or 'eager': PyTorch picks the fastest kernel itself"
        )
    mapped = _mapped_device(given.pop("device_map", None))
    if mapped is not None and device is not None and _device(mapped) != _device(device):
        raise ValueError(f"device_map is {mapped} but device is {device!r}; expected one of them")
    return Overrides(
        given, outputs, _precision(asked if dtype is None else dtype), _device(mapped if device is None else device)
    )


def _mapped_device(device_map: Any) -> torch.device | str | None:
    """The device that a `device_map` of transformers means. Raises ValueError if there are several."""
    if isinstance(device_map, Mapping):
        devices = set(device_map.values())
        device_map = next(iter(devices)) if len(devices) == 1 else device_map
    if isinstance(device_map, int) and not isinstance(device_map, bool):
        return f"cuda:{device_map}"
    if device_map is not None and not isinstance(device_map, (str, torch.device)):
        raise ValueError(f"device_map is {device_map!r:.200}; expected one device for the whole model, or 'auto'")
    if device_map in ("balanced", "balanced_low_0", "sequential"):
        raise ValueError(f"device_map is {device_map!r}; expected one device for the whole model, or 'auto'")
    return device_map


def _precision(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The requested dtype; None for that of the file."""
    if dtype is None or dtype == "auto":
        return torch.float32 if dtype is None else None
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype is {dtype!r}; expected a floating-point dtype, its name, or 'auto'")
    return found


def _device(device: torch.device | str | None) -> torch.device:
    return torch.device("meta") if str(device) == "meta" else find_device(device or "cpu")


def for_channels(weight: Tensor, channels: int) -> Tensor:
    """Adapts the weight of a patch embedding `[C, own, *kernel]` to another number of channels `[C, channels,
    *kernel]`.

    Each new channel gets the mean over the old channels. It is scaled so that an input with equal channels gives the
    same result as before.
    """
    repeated = weight.mean(1, keepdim=True) * (weight.shape[1] / channels)
    return repeated.expand(-1, channels, *weight.shape[2:]).contiguous()


def record_for_channels(record: "Preprocessing", channels: int) -> "Preprocessing":
    """The record for another number of channels. Each gets the average mean and standard deviation of the
    old channels.
    """
    mean, std = (sum(values) / len(values) for values in (record.image_mean, record.image_std))
    return record.replace(image_mean=(mean,) * channels, image_std=(std,) * channels)
