"""From a source (Hub id, folder, file) to its files, and from a file to its tensors; failures name what failed."""

import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hierax.checkpoint.records import CheckpointRecord, find_record

CONFIG, WEIGHTS, PROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
_WEIGHT_FILES = (WEIGHTS, f"{WEIGHTS}.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TENSOR_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True)
class HubOptions:
    """What is passed on to the Hub's client."""

    revision: str | None = None
    cache_dir: str | Path | None = None
    token: str | bool | None = None
    local_files_only: bool = False


@dataclass(frozen=True)
class Source:
    """A located checkpoint: where its files are, as far as it has them.

    Attributes:
        name: what the user wrote.
        weights: file (or index of several) with the tensors; None if only the record was asked for and there is none.
        config, processor: parsed JSON, or None.
        record: what the table of published checkpoints says of this id.
    """

    name: str
    weights: Path | None
    config: Mapping[str, Any] | None
    processor: Mapping[str, Any] | None
    record: CheckpointRecord | None = None
    hub: HubOptions = field(default_factory=HubOptions)


def locate(source: str | Path, hub: HubOptions, *, weights: bool = True) -> Source:
    """Finds the files of a Hub id, a folder or a tensor file.

    Args:
        weights: whether the tensors are wanted; without, only the JSON files are fetched.

    Raises:
        OSError: nothing there, or the Hub cannot be reached and has nothing in the cache.
        ValueError: a file that is no tensor file, a folder without weights, JSON that is none.
    """
    path = Path(source)
    if path.is_file():
        if path.suffix not in TENSOR_SUFFIXES:
            raise ValueError(f"{path}: not a tensor file ({', '.join(TENSOR_SUFFIXES)} are read)")
        return Source(str(source), path, None, None)
    if path.is_dir():
        found = next((path / name for name in _WEIGHT_FILES if (path / name).is_file()), None)
        if found is None and weights:
            raise FileNotFoundError(f"{path}: no weights in this folder; expected one of {', '.join(_WEIGHT_FILES)}")
        return Source(str(source), found, _json(path / CONFIG), _json(path / PROCESSOR))
    name = str(source)
    record = find_record(name)
    repository = record.hub_id if record else name
    local = path.is_absolute() or name.startswith(".") or path.suffix in TENSOR_SUFFIXES or repository.count("/") != 1
    if local:
        raise FileNotFoundError(
            f"{name}: no such file or folder, and no checkpoint of that name (hierax models lists those there are)"
        )
    config, processor = (_json(_fetch(repository, file, hub)) for file in (CONFIG, PROCESSOR))
    found = None
    if weights:
        found = next((p for p in (_fetch(repository, file, hub) for file in _WEIGHT_FILES) if p), None)
        if found is None:
            raise FileNotFoundError(f"{repository}: the Hub has none of {', '.join(_WEIGHT_FILES)} there")
    return Source(name, found, config, processor, record, hub)


def _fetch(repository: str, file: str, hub: HubOptions) -> Path | None:
    """The cached path of a repository's file, fetched if need be; None where the repository has no such file."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(
            hf_hub_download(
                repository,
                file,
                revision=hub.revision,
                cache_dir=hub.cache_dir,
                token=hub.token,
                local_files_only=hub.local_files_only,
            )
        )
    except LocalEntryNotFoundError:
        if file != CONFIG and _cached(repository, CONFIG, hub):
            return None  # offline, but the repository is in the cache: it has no such file
        asked_not_to = hub.local_files_only or constants.HF_HUB_OFFLINE
        reason = "the Hub is switched off" if asked_not_to else "the Hub cannot be reached"
        raise OSError(f"{repository} is not in the local cache and {reason}; a folder or file works offline") from None
    except GatedRepoError:
        raise OSError(f"{repository}: access to it must be asked for on the Hub; pass token=") from None
    except RepositoryNotFoundError:
        raise OSError(f"{repository}: no such repository on the Hub (a private one needs token=)") from None
    except RevisionNotFoundError:
        raise OSError(f"{repository}: no revision {hub.revision!r} on the Hub") from None
    except EntryNotFoundError:
        return None
    except HFValidationError as error:
        raise ValueError(f"{repository}: no file, no folder, and no Hub id either ({error})") from None


def _cached(repository: str, file: str, hub: HubOptions) -> bool:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, file, cache_dir=hub.cache_dir, revision=hub.revision)
    return isinstance(found, str)


def _json(path: Path | None) -> Mapping[str, Any] | None:
    if path is None or not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: holds a {type(values).__name__}; expected an object of fields")
    return values


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, or of the files an index names, mapped from disk where the format allows it.

    Raises:
        ValueError: the file is corrupt, truncated, or holds no tensors; names it.
    """
    if path.name.endswith(".index.json"):
        index = (_json(path) or {}).get("weight_map", {})
        shards = [path.parent / name for name in sorted(set(index.values()))]
        missing = [str(shard) for shard in shards if not shard.is_file()]
        if missing or not shards:
            raise ValueError(f"{path}: names {', '.join(missing) or 'no files'}, which must be beside it")
        return {name: tensor for shard in shards for name, tensor in read_tensors(shard).items()}
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if not tensors:
        raise ValueError(f"{path}: holds no tensors")
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: corrupt or truncated safetensors file ({error})") from None


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """A file of `torch.save`; only tensors and plain containers are unpickled, never code."""
    try:
        mapped = zipfile.is_zipfile(path)  # files older than torch 1.6 are no zip archives and cannot be mapped
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path}: corrupt, or not a file of tensors alone ({first:.120})") from None
    for wrapper in ("model_state", "state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path}: holds a {type(loaded).__name__}; expected named tensors")
    return {str(name): tensor for name, tensor in loaded.items() if isinstance(tensor, Tensor)}
