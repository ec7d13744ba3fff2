"""From a source (id, folder, file) to its files, and from a file to its tensors; failures name what failed."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hierax.checkpoint.bundled import bundled_folder
from hierax.checkpoint.hub import HubOptions, NotCached, fetch, reached
from hierax.checkpoint.records import CheckpointRecord, find_record

CONFIG, WEIGHTS, PROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
INDEX = ".index.json"
_WEIGHT_FILES = (WEIGHTS, WEIGHTS + INDEX, "pytorch_model.bin", "pytorch_model.bin" + INDEX)
RUN = "run.json"
TENSOR_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
NOTES = "hierax"
"""Key, in a tensor file's metadata, of what other dialects' `config.json` has no field for."""


@dataclass(frozen=True)
class JsonFile:
    """A JSON object and where it stands."""

    path: Path
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """A located checkpoint: where its files are, as far as it has them.

    Attributes:
        name: what the user wrote.
        weights: file (or index of several) with the tensors; None if only the record was asked for and there is none.
        config, processor: parsed `config.json` and `preprocessor_config.json`, or None.
        record: what the table of published checkpoints says of this id.
    """

    name: str
    weights: Path | None
    config: JsonFile | None = None
    processor: JsonFile | None = None
    record: CheckpointRecord | None = None

    @property
    def values(self) -> Mapping[str, Any] | None:
        """The fields of `config.json`, where there is one."""
        return None if self.config is None else self.config.values


@dataclass(frozen=True)
class TensorFile:
    """Tensors by the names they have in their file, and the notes that hierax left beside them."""

    tensors: dict[str, Tensor]
    notes: Mapping[str, Any] = field(default_factory=dict)


def locate(source: str | Path, hub: HubOptions, *, weights: bool = True) -> Source:
    """Finds the files of a folder, a tensor file, a checkpoint that comes with hierax, or a Hub id, in this order.

    Args:
        weights: whether the tensors are wanted; without, only the JSON files are fetched.

    Raises:
        OSError: nothing there, or the Hub cannot be reached and nothing of it is in the cache.
        ValueError: a file that is no tensor file, a folder without weights, JSON that is none.
    """
    path = Path(source)
    if path.is_file():
        if path.suffix not in TENSOR_SUFFIXES:
            raise ValueError(f"{path}: not a tensor file ({', '.join(TENSOR_SUFFIXES)} are read)")
        return Source(str(source), path)
    name = str(source)
    if path.is_dir():
        return _in_folder(name, path, weights=weights)
    record = find_record(name)
    repository = record.hub_id if record else name
    bundled = bundled_folder(repository)
    if bundled is not None:
        return _in_folder(name, bundled, weights=weights, record=record)
    local = path.is_absolute() or name.startswith(".") or path.suffix in TENSOR_SUFFIXES or repository.count("/") != 1
    if local:
        raise FileNotFoundError(
            f"{name}: no such file or folder, and no checkpoint of that name (hierax models lists those there are)"
        )
    hub = reached(repository, CONFIG, hub)
    config = read_json(fetch(repository, CONFIG, hub))
    found = _fetch_weights(repository, hub) if weights else None
    return Source(name, found, config, _fetch_processor(repository, hub, lenient=weights or record is not None), record)


def _in_folder(name: str, path: Path, *, weights: bool, record: CheckpointRecord | None = None) -> Source:
    """The checkpoint that is in a folder; in that of a training run, its model."""
    if (path / RUN).is_file() and (path / "model").is_dir():
        path = path / "model"
    found = next((path / file for file in _WEIGHT_FILES if (path / file).is_file()), None)
    if found is None and weights:
        raise FileNotFoundError(f"{path}: no weights in this folder; expected one of {', '.join(_WEIGHT_FILES)}")
    return Source(name, found, read_json(path / CONFIG), read_json(path / PROCESSOR), record)


def _fetch_processor(repository: str, hub: HubOptions, *, lenient: bool) -> JsonFile | None:
    """The preprocessing record; what is not in the cache may be done without when tensors are what is wanted."""
    try:
        return read_json(fetch(repository, PROCESSOR, hub))
    except NotCached:
        if lenient:
            return None
        raise


def _fetch_weights(repository: str, hub: HubOptions) -> Path:
    """The first weights file that the repository has; where that is an index, the files it names too."""
    offline: NotCached | None = None
    for file in _WEIGHT_FILES:
        try:
            found = fetch(repository, file, hub)
        except NotCached as error:
            offline = offline or error
            continue
        if found is not None:
            for shard in _shards(found) if file.endswith(INDEX) else ():
                if fetch(repository, shard, hub) is None:
                    raise FileNotFoundError(f"{repository}: {file} names {shard}, which is not there")
            return found
    raise offline or FileNotFoundError(f"{repository}: the Hub has none of {', '.join(_WEIGHT_FILES)} there")


def read_json(path: Path | None) -> JsonFile | None:
    """The JSON object in a file; None where there is no file.

    Raises:
        ValueError: not JSON, or not an object; names the file.
    """
    if path is None or not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: holds a {type(values).__name__}; expected an object of fields")
    return JsonFile(path, values)


def _shards(index: Path) -> list[str]:
    """The files that an index names, which stand beside it."""
    read = read_json(index)
    named = read.values.get("weight_map") if read else None
    files = sorted(set(map(str, named.values()))) if isinstance(named, dict) else []
    if not files or any(Path(file).name != file or file.endswith(INDEX) for file in files):
        raise ValueError(f"{index}: weight_map is {named!r:.80}; expected tensor names and the files beside it")
    return files


def read_tensors(path: Path) -> TensorFile:
    """All tensors of a file, or of the files an index names, mapped from disk where the format allows it.

    Raises:
        ValueError: the file is corrupt, truncated, or holds no tensors; names it.
        OSError: the file cannot be read.
    """
    if path.name.endswith(INDEX):
        shards = [path.parent / name for name in _shards(path)]
        missing = [str(shard) for shard in shards if not shard.is_file()]
        if missing:
            raise ValueError(f"{path}: names {', '.join(missing)}, which must be beside it")
        return TensorFile({name: tensor for shard in shards for name, tensor in read_tensors(shard).tensors.items()})
    with path.open("rb") as file:  # what cannot be read at all is an OSError, and no sign of a corrupt file
        file.read(1)
    read = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if not read.tensors:
        raise ValueError(f"{path}: holds no tensors")
    return read


def _read_safetensors(path: Path) -> TensorFile:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            notes = (file.metadata() or {}).get(NOTES)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except Exception as error:  # of the parser, and of torch for types it does not have
        raise ValueError(f"{path}: corrupt or truncated safetensors file ({_first_line(error)})") from None
    return TensorFile(tensors, _parsed_notes(path, notes))


def _read_pickle(path: Path) -> TensorFile:
    """A file of `torch.save`; only tensors and plain containers are unpickled, never code."""
    try:
        mapped = zipfile.is_zipfile(path)  # files older than torch 1.6 are no zip archives and cannot be mapped
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(f"{path}: corrupt, or not a file of tensors alone ({_first_line(error)})") from None
    notes = loaded.get(NOTES) if isinstance(loaded, Mapping) else None
    for wrapper in ("model_state", "state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path}: holds a {type(loaded).__name__}; expected named tensors")
    tensors = {str(name): tensor for name, tensor in loaded.items() if isinstance(tensor, Tensor)}
    return TensorFile(tensors, _parsed_notes(path, notes))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{lines[0]:.120}" if lines else type(error).__name__


def _parsed_notes(path: Path, text: Any) -> Mapping[str, Any]:
    """What `write_notes` wrote.

    Raises:
        ValueError: something else; names the file.
    """
    if text is None:
        return {}
    try:
        notes = json.loads(text)
        if all(isinstance(notes[part], dict) for part in ("config", "preprocessing")):
            return notes
    except (ValueError, TypeError, LookupError, RecursionError):
        pass
    raise ValueError(f"{path}: its metadata {NOTES!r} is not what hierax writes there")


def write_notes(config: Mapping[str, Any], preprocessing: Mapping[str, Any] | None) -> str:
    """The text kept in a tensor file for `read_tensors`: the whole configuration and the preprocessing record."""
    return json.dumps({"config": config, "preprocessing": preprocessing or {}}, sort_keys=True)
