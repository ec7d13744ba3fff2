"""Saves models in any format, converts checkpoints, and uploads models to the Hub."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hierax.atomic import atomic_write, make_folder, name_in_errors
from hierax.checkpoint.dialects.dialect import Dialect
from hierax.checkpoint.dialects.sam2 import SAM_2
from hierax.checkpoint.files import CONFIG, INDEX, NOTES, PROCESSOR, TENSOR_SUFFIXES, WEIGHTS, shard_names, write_notes
from hierax.checkpoint.load import detect_task, load_model
from hierax.checkpoint.opened import DIALECTS, open_checkpoint
from hierax.checkpoint.preprocessing import timm_settings
from hierax.checkpoint.report import join_names
from hierax.model.config import HieraConfig
from hierax.model.positions import AbsolutePosition, split_windows
from hierax.model.registry import ENCODER, TASKS, TaskSpec, task_in_config, task_of
from hierax.notices import notify
from hierax.together import replace_together
from hierax.transformers_arguments import without_foreign

if TYPE_CHECKING:
    from hierax.model.pretrained import Pretrained


@contextmanager
def _folder(path: Path, given: Path | None = None) -> Iterator[None]:
    """Creates a folder if it is missing. If writing fails, a folder that was created here is removed again. Errors name
    `given`, the path that the caller passed.
    """
    made = [p for p in (path, *path.parents) if not os.path.lexists(p)]
    with name_in_errors(given or path, path):
        make_folder(path)
    try:
        yield
    except BaseException:
        for folder in made:
            with suppress(OSError):  # the folder is no longer empty
                folder.rmdir()
        raise


def _writer(model: "Pretrained", to: str) -> Dialect:
    """The format that `to` means for a model: for an encoder with windows that of SAM 2, if it can be written so."""
    sam2, config = SAM_2[to], _of_tensors(model)
    fits = sam2.writes(config, task_of(type(model)), model.state_dict())
    return sam2 if fits or (config.is_windowed and to != "transformers") else DIALECTS[to]


def _of_tensors(model: "Pretrained") -> HieraConfig:
    """The configuration of a model, without a neck whose tensors it does not have."""
    config = model.config
    if config.fpn_hidden_size is None or any(name.startswith("pyramid.") for name in model.state_dict()):
        return config
    names = tuple(name for name in config.out_features or () if name in config.stage_names)
    return config.replace(fpn_hidden_size=None, out_features=names or None)


def named_tensors(
    model: "Pretrained", dialect: str | Dialect, state_dict: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The tensors of the model, or those of `state_dict`, with the names and shapes of a format, contiguous and
    detached.

    Raises:
        ValueError: the format has no name for a tensor, or cannot express a model without its last stages; or
            `state_dict` has other names than the model.
    """
    own = model.state_dict()
    if state_dict is not None and state_dict.keys() != own.keys():
        odd = sorted(state_dict.keys() ^ own.keys())
        raise ValueError(f"state_dict and the model differ in {', '.join(odd[:6])}; expected the same names")
    names = DIALECTS[dialect] if isinstance(dialect, str) else dialect
    task, config = task_of(type(model)), model.config
    if names.name != "transformers" and model.leaves_out(f"encoder.blocks.{sum(config.depths) - 1}."):
        raise ValueError(
            f"this backbone has no stages after {(config.out_features or ('',))[-1]}, which {names.name} cannot express"
        )
    around = names.name == "transformers" and task.around
    renamed: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in (own if state_dict is None else state_dict).items():
        ours = task.prefix + name
        theirs = names.theirs(ours, config.depths)
        in_hiera = around and ours.split(".")[0] in ("encoder", "norm")
        stored = names.stored(ours, tensor.detach(), config).contiguous()
        shared = stored.data_ptr() in places  # safetensors refuses tensors that share memory
        places.add(stored.data_ptr())
        renamed[f"hiera.{theirs}" if in_hiera else theirs] = stored.clone() if shared else stored
    return names.completed(renamed, config)


def _tell_differences(model: "Pretrained", tensors: Mapping[str, Tensor], place: Path) -> None:
    """Gives a notice about tensors that are not those of the configuration, because `place` then cannot be opened."""
    task = task_of(type(model))
    expected = task.outline(model.config, tensors).state_dict()
    odd = [name for name in tensors if name not in expected] or [name for name in expected if name not in tensors]
    shapes = [name for name in tensors if not odd and tensors[name].shape != expected[name].shape]
    if odd:
        which = "not tensors" if odd[0] in tensors else "missing tensors"
        adapted = any(".base_layer." in name for name in odd)
        hint = "; merge_and_unload() of peft makes a model without an adapter" if adapted else ""
        notify(
            f"{place}: cannot be opened again: {join_names(odd, 2)} are {which} of a {task.architecture} with this "
            f"configuration{hint}"
        )
    elif shapes:
        name, labels = shapes[0], tensors[shapes[0]].shape[0]
        hint = (
            f"; model.config = model.config.replace(num_labels={labels}) says so" if _is_classifier(task, name) else ""
        )
        notify(
            f"{place}: cannot be opened again: {name} has shape {list(tensors[name].shape)}, but the configuration "
            f"says {list(expected[name].shape)}{hint}"
        )


def _is_classifier(task: TaskSpec, name: str) -> bool:
    return task.labels and name.startswith(f"{task.classifier}.")


def _config_values(model: "Pretrained", names: Dialect) -> dict[str, Any]:
    config = _of_tensors(model) if names in SAM_2.values() else model.config
    values = names.config_values(config, task_of(type(model)))
    if names.name == "timm" and model.preprocessing is not None:
        values["pretrained_cfg"] = timm_settings(values["pretrained_cfg"], model.preprocessing)
    if names.name.startswith("transformers"):
        values["dtype"] = str(model.dtype).removeprefix("torch.")
        values.pop("torch_dtype", None)
    return values


def _notes(model: "Pretrained") -> str:
    """The metadata for formats that cannot express everything: the whole configuration and the preprocessing record."""
    record = model.preprocessing.to_dict() if model.preprocessing else None
    return write_notes({**_of_tensors(model).to_dict(), "architectures": [task_of(type(model)).architecture]}, record)


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def save_model(
    model: "Pretrained",
    folder: str | Path,
    *,
    dialect: str = "transformers",
    state_dict: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes `config.json`, `model.safetensors` and `preprocessor_config.json` into `folder`.

    All files are written to temporary files first, so the folder is not changed by a failure. Whenever the process is
    killed, and after a power cut, the old or the new model opens, and the folder never contains weights with the
    configuration of another model. Other files in it stay; only shards of the old model are deleted.

    Raises:
        ValueError: the format cannot express the model, or the model has no weights; the message says why.
        NotADirectoryError: `folder` is a file.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder}: is a file; expected a folder to write to")
    names = _writer(model, dialect)
    values, tensors = _config_values(model, names), named_tensors(model, names, state_dict)
    if any(tensor.is_meta for tensor in tensors.values()):
        raise ValueError("the model is on the meta device, which holds no weights; expected a model with weights")
    _tell_differences(model, model.state_dict() if state_dict is None else state_dict, folder)
    notes = {} if names.name == "transformers" else {NOTES: _notes(model)}
    texts = {CONFIG: _json(values)}
    if model.preprocessing is not None:
        texts[PROCESSOR] = _json(model.preprocessing.to_dict())
    with _folder(folder), replace_together(folder, without=_old_shards(folder)) as files:
        with files.write(WEIGHTS) as part:
            save_file(tensors, part, metadata={"format": "pt", **notes})
        for name, text in texts.items():
            if _text(folder / name) != text:
                with files.write(name) as part:
                    part.write_text(text, encoding="utf-8")


def _old_shards(folder: Path) -> list[str]:
    """The names of the index and the shards of a model that other libraries wrote in several files."""
    index = folder / (WEIGHTS + INDEX)
    try:
        shards = [name for name in shard_names(index) if name.endswith(".safetensors") and name[0] != "."]
        return [index.name, *(name for name in shards if name != WEIGHTS)]
    except (OSError, ValueError):  # there is none, or it is damaged
        return []


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def check_options(options: Mapping[str, Any]) -> None:
    """Raises an error for arguments of `save_pretrained` of transformers that hierax does not support."""
    left = {
        name
        for name, value in without_foreign(options).items()
        if name != "token" and (name, value) != ("variant", None)
    }
    if left:
        raise TypeError(
            f"save_pretrained got {', '.join(map(repr, sorted(left)))}; see its documentation for what it takes"
        )


def save_config(config: HieraConfig, folder: str | Path) -> None:
    """Writes only `config.json` into `folder`, for the class that the configuration names, or for `HieraModel`."""
    task = task_in_config(config.architectures) or TASKS["features"]
    with _folder(Path(folder)), atomic_write(Path(folder) / CONFIG) as part:
        part.write_text(_json(DIALECTS["transformers"].config_values(config, task)), encoding="utf-8")


def _save_pth(model: "Pretrained", path: Path) -> None:
    """Writes a file of the official format: the tensors in `model_state`, and the metadata of hierax."""
    names = _writer(model, "official")
    _config_values(model, names)  # raises an error if the format cannot express the model
    tensors = named_tensors(model, names)
    with _folder(path.parent, path), atomic_write(path) as part:
        torch.save({names.container: tensors, NOTES: _notes(model)}, part)


def abs_win_values(config: HieraConfig) -> HieraConfig:
    """The configuration of the same model with abs-win position embeddings. The global table has the learned grid."""
    if config.position_embedding != "absolute":
        raise ValueError(
            f"position_embedding is {config.position_embedding!r}; expected 'absolute' to make abs-win from"
        )
    return config.replace(position_embedding="abs_win", global_position_size=config.token_grid(config.image_size))


def to_abs_win(model: "Pretrained") -> "Pretrained":
    """The same model, with its absolute table split into a window table and a global table (arXiv 2311.05613).

    The window table is the mean over mask units. The global table is the difference. At the learned grid, this is
    exact.

    Raises:
        ValueError: the model has another kind of position embedding.
    """
    config = abs_win_values(model.config)
    task = task_of(type(model))
    place = "encoder.pos_embed".removeprefix(task.prefix)
    position = model.get_submodule(place)
    assert isinstance(position, AbsolutePosition)
    window, residual = split_windows(position.weight.detach().unflatten(1, position.grid), config.masked_unit_size)
    split = {"whole": residual.movedim(-1, 1), "window": window.movedim(-1, 1)}
    with torch.device("meta"):
        other = type(model)(config, **task.constructor_arguments({name.split(".")[0] for name in model.state_dict()}))
    tensors = {n: t for n, t in model.state_dict().items() if not n.startswith(f"{place}.")}
    tensors |= {f"{place}.{n}": t.to(model.dtype).contiguous() for n, t in split.items()}
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
    part: str | None = None,
    base: str | Path | None = None,
    windows: str | None = None,
    neck: bool = True,
) -> "Pretrained":
    """Converts a checkpoint from any format to another, without loss, and returns the model.

    Args:
        source: a Hub id, a folder, or a file.
        target: a folder; for "official" also a `.pth` file.
        to: "transformers", "official" or "timm".
        pos_embed: "abswin" splits an absolute position embedding into a window table and a global table.
        variant: the architecture, for a tensor file with ambiguous shapes.
        part: which model to read if the file contains several, such as "model_ema".
        base: the base model of an adapter; None is the one that the adapter names.
        windows: "sam2" gives a classic model the windows of SAM 2; see `Pretrained.from_pretrained`.
        neck: False writes the trunk alone of a checkpoint with a neck, which timm does not have.

    Raises:
        ValueError: the format is unknown, or cannot express the model.
        OSError: see `hierax.load`; or the files cannot be written.
    """
    if to not in DIALECTS:
        raise ValueError(f"to is {to!r}; expected one of {', '.join(DIALECTS)}")
    if pos_embed not in (None, "abswin"):
        raise ValueError(f"pos_embed is {pos_embed!r}; expected 'abswin'")
    if pos_embed and windows:
        raise ValueError("pos_embed and windows are both given; expected one: windows splits the position table too")
    target = Path(target)
    if target.suffix in TENSOR_SUFFIXES and not target.is_dir() and (to, target.suffix) != ("official", ".pth"):
        raise ValueError(f"{target}: expected a folder to write to, or with to='official' a .pth file")
    model = _whole(source, variant, part, base, windows, neck=neck)
    if pos_embed:
        model = to_abs_win(model)
    if target.suffix == ".pth" and not target.is_dir():
        _save_pth(model, target)
    else:
        save_model(model, target, dialect=to)
    return model


def _whole(
    source: str | Path,
    variant: str | None,
    part: str | None,
    base: str | Path | None,
    windows: str | None,
    *,
    neck: bool,
) -> "Pretrained":
    """The model with all tensors of a checkpoint, in the precision of the file. Without a norm, only the encoder."""
    opened = open_checkpoint(source, variant=variant, part=part, base=base)
    task = detect_task(opened)
    cls = ENCODER.cls if task.name == "features" and task.part not in opened.parts else task.cls
    arguments = task.constructor_arguments(opened.parts)
    if not neck:
        if "pyramid" not in opened.parts:
            raise ValueError(f"{opened.name} has no neck; expected one to leave out")
        arguments["out_features"] = opened.config.stage_names[1:]
    return load_model(cls, opened, dtype="auto", overrides=arguments, windows=windows, copy=False)


def push_model(
    model: "Pretrained",
    repo_id: str,
    *,
    token: str | bool | None,
    private: bool | None,
    message: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """See `Pretrained.push_to_hub`."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    address = api.create_repo(repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, folder)
        if not api.file_exists(repo_id, "README.md", revision=revision):  # the author may have written one
            Path(folder, "README.md").write_text(model_card(model, repo_id), encoding="utf-8")
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=message or "Upload Hiera with hierax",
            revision=revision,
            create_pr=create_pr,
        )
    return str(address)


def model_card(model: "Pretrained", repo_id: str) -> str:
    """A model card in Markdown: what the model is, how to load it, and the license of its weights."""
    task, config, license = task_of(type(model)), model.config, model.license or "unknown"
    name = task.architecture
    size = "x".join(map(str, config.image_size))
    return f"""---
library_name: hierax
license: {license.lower()}
pipeline_tag: {task.pipeline_tag}
tags: [hiera]
---

# {repo_id}

A Hiera model ({name}, {model.num_parameters() / 1e6:.1f} M parameters, {size} pixels).
License of the weights: **{license}**.

```python
from hierax import AutoImageProcessor, {name}
processor = AutoImageProcessor.from_pretrained("{repo_id}")
model = {name}.from_pretrained("{repo_id}")
```
"""
