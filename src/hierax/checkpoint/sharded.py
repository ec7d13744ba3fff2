"""Writes and reads checkpoints of all ranks in the distributed format of PyTorch. No file of a run may run code.

The format stores its table of contents, and values that are not tensors, as pickles. PyTorch reads both without limits.
Here, the table may name only the classes of such a table, and values must be plain.
"""

from __future__ import annotations

import io
import os
import pathlib
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import metadata as tables
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.planner import ReadItem

_TABLE = ".metadata"
_PART = re.compile(r"__\d+_\d+\.distcp")
_CLASSES: dict[tuple[str, str], Any] = {
    **{
        (tables.__name__, name): getattr(tables, name)
        for name in (
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    },
    (_StorageInfo.__module__, "_StorageInfo"): _StorageInfo,
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
}


class UnsafePickle(ValueError):
    """A pickle names a class or function that no checkpoint of a run contains."""


def _member(owner: Any, name: str) -> Any:
    """Replaces `getattr`: returns only members of the enumeration that a table may contain."""
    if owner is not tables._MEM_FORMAT_ENCODING or name not in owner.__members__:
        raise UnsafePickle(
            f"names the attribute {name!r:.80} of an object, which no checkpoint holds; nothing of it was run"
        )
    return owner[name]


class _TableUnpickler(pickle.Unpickler):
    """Unpickles only the objects of a table of contents."""

    def find_class(self, module: str, name: str) -> Any:
        """The class with this name, if a table may contain it. Otherwise raises `UnsafePickle`."""
        found = _CLASSES.get((module, name))
        if found is not None:
            return found
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) == (
            "builtins",
            "getattr",
        ):  # how some Python 3.11 pickle enumerations
            return _member
        if module in ("pathlib", "pathlib._local") and name.endswith(("PosixPath", "WindowsPath")):
            return pathlib.PurePath  # the path where it was written, maybe on another operating system
        raise UnsafePickle(f"names {module}.{name}, which no checkpoint holds; nothing of it was run")


def read_table(folder: Path) -> tables.Metadata:
    """Reads the table of contents that `write` wrote to `folder`.

    Raises:
        ValueError: it is not a table of contents, or names objects or files that a table does not contain. No code is
            run.
        OSError: it cannot be read.
    """
    path = folder / _TABLE
    try:
        with path.open("rb") as file:
            found = _TableUnpickler(file).load()
        places = found.storage_data.values()
        good = isinstance(found, tables.Metadata) and isinstance(found.state_dict_metadata, dict)
        good = good and all(_PART.fullmatch(p.relative_path) and not p.transform_descriptors for p in places)
    except (OSError, UnsafePickle) as error:
        if isinstance(error, OSError):
            raise
        raise UnsafePickle(f"{path} {error}") from None
    except Exception as error:  # damaged bytes can raise any error
        raise ValueError(f"{path} is damaged ({type(error).__name__})") from None
    if not good:
        raise ValueError(f"{path} is not a checkpoint's table of contents")
    return found


class _Reader(FileSystemReader):
    """Reads a folder. Its table of contents must not contain code."""

    def read_metadata(self, *_: Any, **__: Any) -> tables.Metadata:
        """The table of contents."""
        found = read_table(Path(self.path))
        found.storage_meta = found.storage_meta or tables.StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found


class _Planner(DefaultLoadPlanner):
    """Reads only tensors and plain values."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Loads a value that is not a tensor."""
        name = read_item.dest_index.fqn
        try:
            plain = torch.load(value, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError):
            raise UnsafePickle(f"{name} is not a plain value; no code of it was run") from None
        written = io.BytesIO()  # PyTorch loads the value from these bytes, which are known to be harmless
        torch.save(plain, written)
        written.seek(0)
        super().load_bytes(read_item, written)


def write(state: dict[str, Any], folder: Path, *, alone: bool) -> None:
    """Writes the state of all ranks. All ranks must call this function, unless there is only one (`alone`)."""
    try:
        _quietly(lambda: state_dict_saver.save(state, checkpoint_id=folder, no_dist=alone))
    except CheckpointException as error:
        reason = _of_system(next(iter(error.failures.values()))[0])
        if reason is None:
            raise
        raise OSError(reason.errno, reason.strerror, reason.filename or str(folder)) from error


def _of_system(error: BaseException | None) -> OSError | None:
    """The error of the operating system, such as a full disk, from inside an error of PyTorch."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error
        error = error.__cause__ or error.__context__
    return None


def read(state: dict[str, Any], folder: Path, *, alone: bool) -> None:
    """Reads the folder into the tensors of `state`. All ranks must call this function, unless there is only one
    (`alone`).
    """
    reader = _Reader(os.fspath(folder))
    _quietly(lambda: state_dict_loader.load(state, storage_reader=reader, planner=_Planner(), no_dist=alone))


def _quietly(act: Callable[[], Any]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # a single process is intended
        act()
