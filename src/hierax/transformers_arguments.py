"""Arguments of transformers that have no effect in hierax, or raise an error with advice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WITHOUT_EFFECT = {
    "adapter_kwargs", "code_revision", "disable_grouping", "low_cpu_mem_usage", "resume_download",
    "max_shard_size", "save_original_format", "save_peft_format", "trust_remote_code", "use_cache", "use_safetensors",
    "weights_only",
}  # fmt: skip
"""Arguments that select how files are read or written. hierax has only one way, so they have no effect."""

_FSDP = "training shares a model between GPUs with --parallel fsdp"
_ONE_VALUE: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "add_pooling_layer": ((None, True), "pooler_output is always there; last_hidden_state is the map before pooling"),
    "device_mesh": ((None,), _FSDP),
    "distributed_config": ((None,), _FSDP),
    "distributed_checkpoint": ((None, False), "model.safetensors is one file"),
    "do_pad": ((None, False), "images are not padded to the largest of a batch"),
    "force_download": ((None, False), "delete the model from the Hub's cache to fetch it again"),
    "from_flax": ((None, False), "weights are those of PyTorch"),
    "from_tf": ((None, False), "weights are those of PyTorch"),
    "gguf_file": ((None,), "GGUF files are not read"),
    "key_mapping": ((None,), "names of tensors are recognized"),
    "max_memory": ((None,), "a model is on one device"),
    "mirror": ((None,), "the variable HF_ENDPOINT names another Hub"),
    "offload_buffers": ((None, False), "a model is on one device"),
    "offload_folder": ((None,), "a model is on one device"),
    "offload_state_dict": ((None, False), "a model is on one device"),
    "output_loading_info": ((None, False), "model.loading_report lists missing and new tensors"),
    "proxies": ((None, {}), "the variable HTTPS_PROXY names a proxy"),
    "push_to_hub": ((None, False), "call push_to_hub(repo_id) afterwards"),
    "quantization_config": ((None,), 'hierax.Engine(…, precision="int8") is quantized'),
    "return_dict": ((None, True), "pass return_dict=False to the call of the model"),
    "return_unused_kwargs": ((None, False), "an unknown argument is an error"),
    "save_function": ((None,), "weights are written as safetensors"),
    "state_dict": ((None,), "call load_state_dict() afterwards"),
    "subfolder": ((None, ""), "download the folder and give its path"),
    "tp_plan": ((None,), _FSDP),
    "tp_size": ((None,), _FSDP),
}


def without_foreign(given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` without the arguments of transformers that have no effect.

    Raises:
        ValueError: a value would have an effect in transformers; the message says what to do instead.
    """
    others: dict[str, Any] = {}
    for name, value in given.items():
        if name in _ONE_VALUE:
            allowed, instead = _ONE_VALUE[name]
            if not any(value is one or value == one for one in allowed):
                raise ValueError(f"{name} is {value!r:.80}; expected {allowed[-1]!r}: {instead}")
        elif name not in _WITHOUT_EFFECT:
            others[name] = value
    return others


def token_of(given: dict[str, Any], token: str | bool | None) -> str | bool | None:
    """`token`, or the value of its former name `use_auth_token`, which is removed from `given`.

    Raises:
        ValueError: both are given, and they differ.
    """
    former = given.pop("use_auth_token", None)
    if former is not None and token is not None and former != token:
        raise ValueError("token and use_auth_token differ; expected one of them")
    return former if token is None else token
