"""Saving in any dialect, converting between them, and handing a model to the Hub."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hierax.checkpoint.files import CONFIG, PROCESSOR, WEIGHTS
from hierax.checkpoint.load import DIALECTS, load
from hierax.config import HieraConfig

if TYPE_CHECKING:
    from hierax.pretrained import Pretrained

_TASKS = {
    "Hiera": "encoder",
    "HieraModel": "features",
    "HieraBackbone": "backbone",
    "HieraForImageClassification": "classification",
    "HieraForVideoClassification": "video-classification",
    "HieraForPreTraining": "mae",
}


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """A path to write to that becomes `path` when all went well; a failure leaves what was there before."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def named_tensors(model: "Pretrained", dialect: str) -> dict[str, Tensor]:
    """The model's tensors under the names of a dialect, contiguous and detached.

    Raises:
        ValueError: the dialect has no name for one of them.
    """
    task = _TASKS[type(model).__name__]
    names = DIALECTS[dialect]
    renamed: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        ours = f"encoder.{name}" if task == "encoder" else name
        theirs = names.theirs(ours, model.config.depths)
        in_hiera = ours.split(".")[0] in ("encoder", "norm") and task not in ("encoder", "features", "backbone")
        renamed[f"hiera.{theirs}" if in_hiera and dialect == "transformers" else theirs] = tensor.detach().contiguous()
    return renamed


def _config_values(model: "Pretrained", dialect: str) -> dict[str, Any]:
    task = _TASKS[type(model).__name__]
    values = DIALECTS[dialect].config_values(model.config, task)
    if dialect == "transformers":
        values["dtype"] = str(model.dtype).removeprefix("torch.")
        values.pop("torch_dtype", None)
    return values


def save_model(model: "Pretrained", folder: str | Path, *, dialect: str = "transformers") -> None:
    """Writes `config.json`, `model.safetensors` and `preprocessor_config.json` into `folder`, each atomically.

    Raises:
        ValueError: the dialect cannot express the model; says what.
        NotADirectoryError: `folder` is a file.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder}: is a file; expected a folder to write to")
    values, tensors = _config_values(model, dialect), named_tensors(model, dialect)
    folder.mkdir(parents=True, exist_ok=True)
    with _written(folder / WEIGHTS) as path:
        save_file(tensors, path, metadata={"format": "pt"})
    with _written(folder / CONFIG) as path:
        path.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    if model.preprocessing is not None:
        with _written(folder / PROCESSOR) as path:
            path.write_text(
                json.dumps(model.preprocessing.to_dict(), indent=2, sort_keys=True) + "\n", encoding="utf-8"
            )


def abs_win_values(config: HieraConfig) -> HieraConfig:
    """The configuration of the same model with abs-win position embeddings at the grid it learned."""
    if config.position_embedding != "absolute":
        raise ValueError(
            f"position_embedding is {config.position_embedding!r}; expected 'absolute' to make abs-win from"
        )
    return config.replace(position_embedding="abs_win", global_position_size=config.token_grid(config.image_size))


def to_abs_win(model: "Pretrained") -> "Pretrained":
    """The same model with its absolute table split into a window table and a global table (arXiv 2311.05613).

    The window table is the mean over mask units, the global table what is left, at the learned grid: exact there.

    Raises:
        ValueError: the model has another kind of position embedding.
    """
    from hierax.positions import AbsolutePosition, window_mean

    config = abs_win_values(model.config)
    position = model.get_submodule("pos_embed" if type(model).__name__ == "Hiera" else "encoder.pos_embed")
    assert isinstance(position, AbsolutePosition)
    table = position.weight.detach().unflatten(1, position.grid).float()
    unit = config.masked_unit_size
    window = window_mean(table, unit)
    tiled = window.repeat(1, *(g // u for g, u in zip(position.grid, unit, strict=True)), 1)
    split = {"whole": (table - tiled).movedim(-1, 1), "window": window.movedim(-1, 1)}
    with torch.device("meta"):
        other = type(model)(config)
    prefix = "" if type(model).__name__ == "Hiera" else "encoder."
    tensors = {n: t for n, t in model.state_dict().items() if not n.startswith(f"{prefix}pos_embed.")}
    tensors |= {f"{prefix}pos_embed.{n}": t.to(model.dtype).contiguous() for n, t in split.items()}
    other.load_state_dict(tensors, assign=True)
    other.loading_report, other.preprocessing = model.loading_report, model.preprocessing
    return other.train(model.training)


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: str = "transformers",
    pos_embed: str | None = None,
    variant: str | None = None,
) -> "Pretrained":
    """Writes a checkpoint of any dialect in another one, without loss, and returns the model.

    Args:
        source: a Hub id, a folder, or a file.
        target: a folder; for "official" also a `.pth` file.
        to: "transformers", "official" or "timm".
        pos_embed: "abswin" turns an absolute position embedding into window and global tables.
        variant: the architecture, for a bare tensor file whose shapes do not tell it.

    Raises:
        ValueError: an unknown dialect, or one that cannot express the model.
    """
    if to not in DIALECTS:
        raise ValueError(f"to is {to!r}; expected one of {', '.join(DIALECTS)}")
    if pos_embed not in (None, "abswin"):
        raise ValueError(f"pos_embed is {pos_embed!r}; expected 'abswin'")
    model = load(source, variant=variant, dtype="auto")
    if pos_embed:
        model = to_abs_win(model)
    target = Path(target)
    if to == "official" and target.suffix == ".pth":
        _config_values(model, to)  # says what cannot be expressed
        target.parent.mkdir(parents=True, exist_ok=True)
        with _written(target) as path:
            torch.save({"model_state": named_tensors(model, to)}, path)
    else:
        save_model(model, target, dialect=to)
    return model


def push_model(model: "Pretrained", repo_id: str, *, token: str | bool | None, private: bool | None) -> str:
    """`Pretrained.push_to_hub`, which see."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    address = api.create_repo(repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, folder)
        Path(folder, "README.md").write_text(model_card(model, repo_id), encoding="utf-8")
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload Hiera with hierax")
    return str(address)


def model_card(model: "Pretrained", repo_id: str) -> str:
    """A model card in Markdown: what the model is, how to load it, and the licence of its weights."""
    name, config = type(model).__name__, model.config
    license = model.license or "unknown"
    tags = {"classification": "image-classification", "video-classification": "video-classification"}
    task = tags.get(_TASKS[name], "image-feature-extraction")
    size = "x".join(map(str, config.image_size))
    return f"""---
library_name: hierax
license: {license.lower() if model.license else "other"}
pipeline_tag: {task}
tags: [hiera]
---

# {repo_id}

A Hiera model ({name}, {model.num_parameters() / 1e6:.1f} M parameters, {size} pixels).
Licence of the weights: **{license}**.

```python
from hierax import AutoImageProcessor, {name}
processor = AutoImageProcessor.from_pretrained("{repo_id}")
model = {name}.from_pretrained("{repo_id}")
```
"""
