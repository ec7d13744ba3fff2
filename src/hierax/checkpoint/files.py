"""Finds the files of a source (id, folder, file), and reads the tensors of a file. Errors name the file."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from hierax.advice import did_you_mean
from hierax.checkpoint.bundled import bundled_folder
from hierax.checkpoint.explained import content_of, explain_file, explain_folder, is_tensor_file
from hierax.checkpoint.hub import HubOptions, NotCached, fetch, reached
from hierax.checkpoint.parts import choose
from hierax.checkpoint.pickles import is_archive, read_pickle
from hierax.checkpoint.records import CheckpointRecord, checkpoint_names, find_record
from hierax.checkpoint.steps import is_step, model_folder, read_step
from hierax.processing.paths import check_named
from hierax.together import finish_replacement

CONFIG, WEIGHTS, PROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
INDEX = ".index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
_ADAPTER_FILES = (ADAPTER_FILE, "adapter_model.bin")
_WEIGHT_FILES = (WEIGHTS, WEIGHTS + INDEX, "pytorch_model.bin", "pytorch_model.bin" + INDEX)
RUN = "run.json"
_PAGE = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([^/\s]+/[^/\s?#]+)(?:/tree/main)?/?$")
TENSOR_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
"""Suffixes of tensor files. Files with other suffixes, such as .ckpt and .pth.tar, are recognized by their content."""
_MOST_TENSORS, _MOST_SHARDS = 20_000, 1_000
_LARGEST_HEADER, _LARGEST_JSON = 100 * 2**20, 128 * 2**20
"""Maximum bytes: of the header of a safetensors file (as in its library), and of a JSON file (a million labels)."""
NOTES = "hierax"
"""The key, in the metadata of a tensor file, of values for which `config.json` of another format has no field."""


@dataclass(frozen=True)
class JsonFile:
    """A JSON object, and the file that contains it."""

    path: Path
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """The files of a checkpoint that was found.

    Attributes:
        name: the source that the user passed.
        weights: the file with the tensors, or the index of several files; None if the weights were not requested.
        config, processor: the parsed `config.json` and `preprocessor_config.json`, or None.
        record: the record of this id in the table of published checkpoints, or None.
        repository: the id on the Hub, or None.
        hub: the options for the Hub.
    """

    name: str
    weights: Path | None
    config: JsonFile | None = None
    processor: JsonFile | None = None
    record: CheckpointRecord | None = None
    repository: str | None = None
    hub: HubOptions = field(default_factory=HubOptions)

    @property
    def values(self) -> Mapping[str, Any] | None:
        """The fields of `config.json`; None if there is none."""
        return None if self.config is None else self.config.values


@dataclass(frozen=True)
class TensorFile:
    """The tensors of a Hiera model in a file.

    Attributes:
        tensors: the tensors by their names in the file, without their common prefix.
        notes: the metadata that hierax wrote into the file.
        part: the container or prefix that was read, if the file has one.
        others: containers or prefixes that were not read.
        prefix: the common prefix that was removed from the names.
        beside: names of tensors without this prefix.
    """

    tensors: dict[str, Tensor]
    notes: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""
    others: tuple[str, ...] = ()
    prefix: str = ""
    beside: list[str] = field(default_factory=list)


def locate(source: str | os.PathLike[str], hub: HubOptions, *, weights: bool = True) -> Source:
    """Finds the files of a folder, a tensor file, a bundled checkpoint, or a Hub id, in this order.

    Args:
        source: the source.
        hub: the options for the Hub.
        weights: whether the tensors are needed; otherwise, only the JSON files are downloaded.

    Raises:
        OSError: there is no such file or folder, or the Hub cannot be reached and the cache does not have the files.
        ValueError: the file is not a tensor file, the folder has no weights, or a JSON file is not valid.
    """
    name = source_name(source)
    path = Path(name)
    finish_replacement(path.parent)
    if path.is_file():
        if path.suffix not in TENSOR_SUFFIXES and not path.name.endswith(INDEX) and not is_tensor_file(path):
            raise ValueError(f"{path}: {explain_file(path)}")
        return Source(name, path)
    if path.exists() and not path.is_dir():
        check_named(path)
    record = find_record(name)
    holds = weights_in(path) is not None or (not weights and (path / PROCESSOR).is_file())
    if path.is_dir() and (record is None or holds):
        return _in_folder(name, path, weights=weights)
    repository = record.hub_id if record else name
    bundled = bundled_folder(repository)
    if bundled is not None:
        return _in_folder(name, bundled, weights=weights, record=record)
    local = path.is_absolute() or name.startswith(".") or path.suffix in TENSOR_SUFFIXES or repository.count("/") != 1
    if local:
        raise FileNotFoundError(
            f"{name}: no such file or folder, and no checkpoint of that name"
            f"{did_you_mean(name, checkpoint_names()) or ' (hierax models lists those there are)'}"
        )
    hub = reached(repository, CONFIG, hub)
    config = _fetch_config(repository, hub)
    found = Source(name, None, config, None, record, repository, hub)
    weights = weights or (config is None and fetch(repository, ADAPTER_CONFIG, hub) is not None)  # an adapter is small
    found = with_weights(found) if weights else found
    return replace(found, processor=_fetch_processor(repository, hub, lenient=weights or record is not None))


def with_weights(source: Source) -> Source:
    """A source with its weights; they are downloaded if they are missing and the source is on the Hub.

    Raises:
        OSError: see `locate`.
    """
    if source.weights is not None:
        return source
    if source.repository is None:
        return locate(source.name, source.hub)  # raises the error of a folder without weights
    return replace(source, weights=_fetch_weights(source.repository, source.hub))


def source_name(source: str | os.PathLike[str]) -> str:
    """The name or path of a checkpoint, as text. The address of a model on the Hub becomes the id of the model.

    Raises:
        TypeError: `source` is neither a string nor a path.
        ValueError: the name is empty; it would mean the current folder.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            f"the checkpoint is a {type(source).__name__}; expected a name, a path or a Hub id, such as 'hierax/femto'"
        )
    name = os.fspath(source)
    if not name:
        raise ValueError("the checkpoint's name is empty; expected a name, a path or a Hub id, such as 'hierax/femto'")
    page = _PAGE.match(name)
    return page[1] if page and not Path(name).exists() else name


def _in_folder(name: str, path: Path, *, weights: bool, record: CheckpointRecord | None = None) -> Source:
    """The checkpoint in a folder. For the folder of a training run, it is the model of the run."""
    if (path / RUN).is_file() and (path / "model").is_dir():
        path = path / "model"
    found = weights_in(path)
    path = model_folder(path) if found == path else path
    if found is None and weights:
        raise FileNotFoundError(f"{path}: {explain_folder(path, _WEIGHT_FILES)}")
    return Source(name, found, read_json(path / CONFIG), read_json(path / PROCESSOR), record)


def weights_in(path: Path) -> Path | None:
    """The file with the weights in a folder, or in the model folder of a run; None if there is none.

    For one step of a run, it is the folder itself. Saving that was interrupted is finished first.
    For an adapter, it is the file with its matrices.
    """
    if is_step(path):
        return path
    if (path / RUN).is_file() and (path / "model").is_dir():
        path = path / "model"
    finish_replacement(path)
    return next((path / file for file in (*_WEIGHT_FILES, *_ADAPTER_FILES) if (path / file).is_file()), None)


def is_adapter(weights: Path | None) -> bool:
    """Whether a file with weights holds an adapter, which changes a base model."""
    return weights is not None and weights.name in _ADAPTER_FILES


def _fetch_config(repository: str, hub: HubOptions) -> JsonFile | None:
    """`config.json`; None if the repository has none. An adapter has none, and the cache may not know that."""
    try:
        return read_json(fetch(repository, CONFIG, hub))
    except NotCached as error:
        try:
            adapter = fetch(repository, ADAPTER_CONFIG, hub)
        except NotCached:
            adapter = None
        if adapter is None:
            raise error from None
        return None


def _fetch_processor(repository: str, hub: HubOptions, *, lenient: bool) -> JsonFile | None:
    """The preprocessing record. It may be missing from the cache if the caller wants the tensors."""
    try:
        return read_json(fetch(repository, PROCESSOR, hub))
    except NotCached:
        if lenient:
            return None
        raise


def _fetch_weights(repository: str, hub: HubOptions) -> Path:
    """The first weights file that the repository has. If this is an index, its files are downloaded too."""
    offline: NotCached | None = None
    for file in (*_WEIGHT_FILES, *_ADAPTER_FILES):
        try:
            found = fetch(repository, file, hub)
        except NotCached as error:
            offline = offline or error
            continue
        if found is not None:
            for shard in shard_names(found) if file.endswith(INDEX) else ():
                if fetch(repository, shard, hub) is None:
                    raise FileNotFoundError(f"{repository}: {file} names {shard}, which is not there")
            return found
    raise offline or FileNotFoundError(f"{repository}: the Hub has none of {', '.join(_WEIGHT_FILES)} there")


def read_json(path: Path | None) -> JsonFile | None:
    """The JSON object in a file; None if there is no file.

    Raises:
        ValueError: the file is not JSON, or not a JSON object; the message names the file.
    """
    if path is None or not path.is_file():
        return None
    size = path.stat().st_size
    if size > _LARGEST_JSON:
        raise ValueError(f"{path}: has {size / 2**20:,.0f} MiB; expected a JSON file of at most {_LARGEST_JSON >> 20}")
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: holds a {type(values).__name__}; expected an object of fields")
    return JsonFile(path, values)


def shard_names(index: Path) -> list[str]:
    """The files that an index names; they are in the same folder."""
    read = read_json(index)
    named = read.values.get("weight_map") if read else None
    files = sorted(set(map(str, named.values()))) if isinstance(named, dict) else []
    if not files or any(Path(file).name != file or file.endswith(INDEX) for file in files):
        raise ValueError(f"{index}: weight_map is {named!r:.80}; expected tensor names and the files beside it")
    if len(files) > _MOST_SHARDS:
        raise ValueError(f"{index}: names {len(files):,} files; no Hiera is in more than {_MOST_SHARDS:,}")
    return files


def read_tensors(path: Path, part: str | None = None, *, any_of_them: bool = False) -> TensorFile:
    """Reads the tensors of the model in a file, or in the files that an index names. They are memory-mapped if
    possible.

    Args:
        path: the file.
        part: which model to read if the file contains several.
        any_of_them: if the file contains several models, read the first.

    Raises:
        ValueError: the file is corrupt, or truncated, or contains no weights of a Hiera; the message names it.
        OSError: the file cannot be read.
    """
    loaded = read_step(path) if path.is_dir() else _read_index(path) if path.name.endswith(INDEX) else _read(path)
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path}: holds a {type(loaded).__name__}; expected named tensors")
    notes = _parsed_notes(path, loaded.get(NOTES))
    try:
        chosen = choose({name: value for name, value in loaded.items() if name != NOTES}, part, any_of_them=any_of_them)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    weights = chosen.weights
    return TensorFile(weights.tensors, notes, weights.part, chosen.others, weights.prefix, weights.beside)


def read_named(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """All tensors of a file by their names in it, and the metadata that hierax wrote.

    Raises:
        ValueError: the file is corrupt or truncated; the message names it.
        OSError: the file cannot be read.
    """
    loaded = _read(path)
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path}: holds a {type(loaded).__name__}; expected named tensors")
    tensors = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
    return tensors, _parsed_notes(path, loaded.get(NOTES))


def _read_index(path: Path) -> dict[str, Any]:
    """The tensors of all files that an index names."""
    shards = [path.parent / name for name in shard_names(path)]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        more = f" and {len(missing) - 3:,} more" if len(missing) > 3 else ""
        raise ValueError(f"{path}: names {', '.join(missing[:3])}{more}, which must be beside it")
    merged: dict[str, Any] = {}
    for shard in shards:
        read = _read(shard)
        if not isinstance(read, Mapping):
            raise ValueError(f"{shard}: holds a {type(read).__name__}; expected named tensors")
        merged |= {name: tensor for name, tensor in read.items() if isinstance(tensor, Tensor)}
    return merged


def _read(path: Path) -> Any:
    with path.open("rb") as file:  # OSError if the file cannot be read; it may not be corrupt
        head = file.read(9)
    named = path.suffix == ".safetensors"
    return _read_safetensors(path) if named or head[8:] == b"{" else read_pickle(path)


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    try:
        _check_header(path)
        with safe_open(path, framework="pt") as file:
            notes = (file.metadata() or {}).get(NOTES)
            tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except TooManyTensors as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:  # errors of the parser, and of torch for unknown dtypes
        other = content_of(path)
        if other is None and is_archive(path):
            other = "is a file of torch.save, not of safetensors; call it .pth"
        if other is not None:
            raise ValueError(f"{path}: {other}") from None
        raise ValueError(f"{path}: corrupt or truncated safetensors file ({_first_line(error)})") from None
    return tensors if notes is None else {**tensors, NOTES: notes}


def _check_header(path: Path) -> None:
    """Counts the tensors before the header is parsed, because parsing takes half a minute for a million of them."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        count = file.read(min(length, _LARGEST_HEADER)).count(b"data_offsets")
    if count > _MOST_TENSORS:
        raise TooManyTensors(f"describes {count:,} tensors; no Hiera has more than {_MOST_TENSORS:,}")


class TooManyTensors(ValueError):
    """The file has more tensors than any Hiera."""


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{lines[0]:.120}" if lines else type(error).__name__


def _parsed_notes(path: Path, text: Any) -> Mapping[str, Any]:
    """The metadata that `write_notes` wrote.

    Raises:
        ValueError: the metadata is not valid; the message names the file.
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
    """The metadata of a tensor file as text: the whole configuration and the preprocessing record."""
    return json.dumps({"config": config, "preprocessing": preprocessing or {}}, sort_keys=True)
