"""Writes an adapter (LoRA) as a folder that PEFT opens.

Its names are those of transformers, so it fits `HieraxForImageClassification` and transformers' own classes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hierax.atomic import make_folder
from hierax.checkpoint.adapters import ROOT
from hierax.checkpoint.dialects.transformers import Transformers
from hierax.checkpoint.files import ADAPTER_CONFIG, ADAPTER_FILE, NOTES, PROCESSOR
from hierax.model.registry import task_of
from hierax.together import replace_together

if TYPE_CHECKING:
    from hierax.model.pretrained import Pretrained


@dataclass(frozen=True)
class AdapterFile:
    """What is written.

    Attributes:
        tensors: the matrices and the tensors of full modules, by their names in hierax.
        layers, full: names of the layers with matrices, and of the modules that are trained in full.
        rank, alpha, dropout: settings of LoRA.
        base, revision, digest: the name of the base model, its revision on the Hub, and the digest of its weights.
    """

    tensors: Mapping[str, Tensor]
    layers: tuple[str, ...]
    full: tuple[str, ...]
    rank: int
    alpha: float
    dropout: float
    base: str
    revision: str | None
    digest: str


def save_adapter(folder: Path, adapter: AdapterFile, model: "Pretrained") -> None:
    """Writes `adapter_config.json`, `adapter_model.safetensors` and `preprocessor_config.json`, together or not at
    all, for a model with this configuration and preprocessing record.

    There is no `config.json`, because transformers would take the folder for a whole model. The configuration, with the
    names of the classes, is in the metadata of the tensors.
    """
    from safetensors.torch import save_file

    names, depths, around = Transformers(), model.config.depths, task_of(type(model)).around

    def theirs(name: str) -> str:
        inner = names.theirs(name, depths)
        return f"hiera.{inner}" if around and name.split(".")[0] in ("encoder", "norm") else inner

    values = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": adapter.base,
        "revision": adapter.revision,
        "r": adapter.rank,
        "lora_alpha": int(adapter.alpha) if adapter.alpha.is_integer() else adapter.alpha,
        "lora_dropout": adapter.dropout,
        "target_modules": [theirs(layer) for layer in adapter.layers],
        "modules_to_save": [theirs(f"{module}.weight").removesuffix(".weight") for module in adapter.full],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "use_dora": False,
        "use_rslora": False,
    }
    record = model.preprocessing
    notes: dict[str, Any] = {
        "config": {**model.config.to_dict(), "architectures": [task_of(type(model)).architecture]},
        "preprocessing": record.to_dict() if record else {},
        "base": {"name": adapter.base, "digest": adapter.digest, "license": model.license},
    }
    texts = {ADAPTER_CONFIG: values} | ({PROCESSOR: record.to_dict()} if record else {})
    tensors = {ROOT + theirs(name): tensor.contiguous() for name, tensor in adapter.tensors.items()}
    make_folder(folder)
    with replace_together(folder) as files:
        with files.write(ADAPTER_FILE) as part:
            save_file(tensors, part, metadata={"format": "pt", NOTES: json.dumps(notes, sort_keys=True)})
        for name, content in texts.items():
            text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
            with files.write(name) as part:
                part.write_text(text, encoding="utf-8")
