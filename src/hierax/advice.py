"""Advice for names that do not exist: the name that was probably meant, or what to do instead. It does not import
torch.

Users often write names of arguments from timm, from transformers and from the official package.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

CONFIG: Mapping[str, str] = {
    "num_classes": "num_labels", "n_classes": "num_labels", "classes": "num_labels", "in_chans": "num_channels",
    "in_channels": "num_channels", "img_size": "image_size", "input_size": "image_size", "patch_kernel": "patch_size",
    "mask_unit_size": "masked_unit_size", "mask_unit_attn": "masked_unit_attention", "q_pool": "num_query_pool",
    "q_stride": "query_stride", "stages": "depths", "head_dropout": "dropout", "drop_rate": "dropout",
    "drop_path": "drop_path_rate", "init_values": "layer_scale_init", "dim_mul": "embed_dim_multiplier",
    "act_layer": "hidden_act",
}  # fmt: skip
"""Names of fields of `HieraConfig` in timm and in the official package."""
RECORD: Mapping[str, str] = {
    "img_size": "size",
    "image_size": "size",
    "input_size": "size",
    "resize": "size",
    "interpolation": "resample",
    "mean": "image_mean",
    "std": "image_std",
    "rescale": "do_rescale",
    "normalize": "do_normalize",
    "center_crop": "do_center_crop",
}
"""Names of fields of `Preprocessing` in other libraries."""
ENGINE: Mapping[str, str] = {
    "dtype": "precision",
    "torch_dtype": "precision",
    "half": "precision",
    "fp16": "precision",
    "bf16": "precision",
    "device_map": "device",
    "num_threads": "threads",
    "provider": "backend",
    "providers": "backend",
    "output_hidden_states": "hidden_states",
}
"""Names of arguments of `Engine` in other libraries."""

_WEIGHTS = "hierax.load(source) loads weights"
_INT8 = 'hierax.Engine(source, precision="int8") is quantized'
_AFTERWARDS = "call model.to(…) afterwards, or pass it to hierax.load"
_MODEL = {*CONFIG, *CONFIG.values(), "embed_dim", "num_heads", "id2label", "label2id", "mask_ratio", "mlp_ratio"}
_INSTEAD: Mapping[str, str] = {
    "pretrained": _WEIGHTS,
    "checkpoint_path": _WEIGHTS,
    "features_only": 'hierax.load(source, task="backbone") gives the maps of the stages',
    "global_pool": 'hierax.load(source, task="features") gives pooler_output and the map before pooling',
    "load_in_8bit": _INT8,
    "load_in_4bit": _INT8,
    "ignore_mismatched_sizes": "hierax.load takes it",
    "output_hidden_states": "set it as an attribute afterwards, or pass it to hierax.load",
    "output_attentions": "set it as an attribute afterwards, or pass it to hierax.load",
    "return_dict": "pass return_dict=False to the call of the model",
    "use_cache": "leave it out",
    "attn_implementation": "PyTorch picks the fastest kernel itself; leave it out",
    "low_cpu_mem_usage": "leave it out",
    "trust_remote_code": "leave it out",
    **dict.fromkeys(("dtype", "torch_dtype", "device", "device_map", "half", "fp16", "bf16"), _AFTERWARDS),
}
"""What to do instead, for names that have no equivalent argument."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suggestion, such as ` (did you mean hiera_tiny_224?)` for "hiera_tiny": names that begin with it, else similar
    names.

    Empty if no name is similar.
    """
    names = list(known)
    longer = sorted((n for n in names if n.startswith(name)), key=len) if len(name) > 2 else []
    near = longer or difflib.get_close_matches(name, names, 3, 0.7)
    return f" (did you mean {' or '.join(near[:2])}?)" if near else ""


def advice_on(name: str, known: Iterable[str], synonyms: Mapping[str, str]) -> str:
    """A text to add to an error, which says what to write instead of `name`; "" if there is no advice.

    Args:
        name: the name that does not exist.
        known: the names that exist.
        synonyms: the names that exist, by their names in other libraries.
    """
    if name in synonyms:
        return f" (did you mean {synonyms[name]}?)"
    if synonyms is RECORD and name in {*_INSTEAD, *_MODEL}:
        return "; it belongs to a model, not to its processor"
    if name in _INSTEAD:
        return f"; {_INSTEAD[name]}"
    if synonyms is not CONFIG and name in _MODEL:
        return f"; it belongs to a model: hierax.load(source, {CONFIG.get(name, name)}=…)"
    return did_you_mean(name, known)


def advised(synonyms: Mapping[str, str]) -> Callable[[Callable[_P, None]], Callable[_P, None]]:
    """A decorator for an `__init__`: the error for an unknown argument says what to write instead."""

    def decorate(init: Callable[_P, None]) -> Callable[_P, None]:
        known = [name for name in inspect.signature(init).parameters if name != "self"]

        @functools.wraps(init)
        def checked(*given: _P.args, **named: _P.kwargs) -> None:
            for name in named:
                if name not in known:
                    raise TypeError(unknown_argument(type(given[0]).__name__, name, known, synonyms))
            init(*given, **named)

        return checked

    return decorate


def advised_class(synonyms: Mapping[str, str]) -> Callable[[type[_T]], type[_T]]:
    """Like `advised`, for the `__init__` of a dataclass."""

    def decorate(cls: type[_T]) -> type[_T]:
        setattr(cls, "__init__", advised(synonyms)(cls.__init__))  # noqa: B010  (a type checker refuses the other way)
        return cls

    return decorate


def unknown_argument(what: str, name: Any, known: Iterable[str], synonyms: Mapping[str, str]) -> str:
    """The error for an argument that `what` does not have."""
    names = list(known)
    advice = advice_on(name, names, synonyms) or f"; expected {', '.join(names)}"
    return f"{what} has no argument {name!r}{advice}"
