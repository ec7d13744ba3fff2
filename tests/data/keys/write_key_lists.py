"""Write the tensor names and shapes of the published packages' models to JSON files beside this script.

They are facts about file formats that hierax has to read and write, put down by the packages themselves. Run it in an
environment of its own with the three packages (`pip install hiera-transformer timm transformers torch`):

    python -W ignore tests/data/keys/write_key_lists.py

Models are built on the meta device: nothing is initialized or downloaded. Each file holds
`{"package", "version", "model", "arguments", "parameters", "tensors": {name: shape}}`, in the order of the state dict.
"""

import functools
import importlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch

HERE = Path(__file__).parent

TINY: Mapping[str, Any] = {"depths": [1, 2, 7, 2]}
DECODER: Mapping[str, Any] = {
    "num_query_pool": 2,
    "decoder_hidden_size": 512,
    "decoder_depth": 8,
    "decoder_num_heads": 16,
}
ALL_STAGES: Mapping[str, Any] = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}

MODELS: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("hiera-transformer", "hiera_tiny_224", {}),
    ("hiera-transformer", "hiera_base_plus_224", {}),
    ("hiera-transformer", "hiera_base_16x224", {}),
    ("hiera-transformer", "mae_hiera_tiny_224", {}),
    ("hiera-transformer", "mae_hiera_base_16x224", {}),
    ("timm", "hiera_tiny_224", {}),
    ("timm", "hiera_small_abswin_256", {}),
    ("timm", "hiera_base_abswin_256", {}),
    ("transformers", "HieraModel", TINY),
    ("transformers", "HieraBackbone", {**TINY, **ALL_STAGES}),
    ("transformers", "HieraForImageClassification", {**TINY, "num_labels": 1000}),
    ("transformers", "HieraForPreTraining", {**TINY, **DECODER}),
)


def build(package: str, model: str, arguments: Mapping[str, Any]) -> torch.nn.Module:
    """A model of one of the packages, on the meta device."""
    # The packages read the drop path rates out of a linspace, which a meta tensor cannot give.
    linspace = functools.partial(torch.linspace, device="cpu")
    with torch.device("meta"), mock.patch.object(torch, "linspace", linspace):
        if package == "hiera-transformer":
            return getattr(importlib.import_module("hiera"), model)(**arguments)
        if package == "timm":
            return importlib.import_module("timm").create_model(model, **arguments)
        transformers = importlib.import_module("transformers")
        make: Callable[..., torch.nn.Module] = getattr(transformers, model)
        return make(transformers.HieraConfig(**arguments))


def text(package: str, model: str, arguments: Mapping[str, Any]) -> str:
    """The JSON text of one model, one tensor a line."""
    module = build(package, model, arguments)
    head = {
        "package": package,
        "version": importlib.metadata.version(package),
        "model": model,
        "arguments": dict(arguments),
        "parameters": sum(p.numel() for p in module.parameters()),
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    tensors = [f"    {json.dumps(key)}: {json.dumps(list(t.shape))}" for key, t in module.state_dict().items()]
    return "\n".join(["{", *lines, '  "tensors": {', ",\n".join(tensors), "  }", "}"]) + "\n"


def main() -> None:
    """Write every file."""
    for package, model, arguments in MODELS:
        prefix = "official" if package == "hiera-transformer" else package
        (HERE / f"{prefix}.{model}.json").write_text(text(package, model, arguments), encoding="utf-8")


if __name__ == "__main__":
    main()
