"""Opens files of `torch.save` without running code that they contain.

The restricted reader of PyTorch builds tensors and plain containers. Training scripts also store parsed arguments,
numbers of NumPy and paths. For the names in `_SETTINGS`, the reader gets a placeholder of hierax: the named class or
function is neither imported nor called. Every other name is refused.
"""

import threading
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from hierax.checkpoint.explained import content_of

_MOST_PICKLED = 8 * 2**20
"""Maximum bytes of names and settings in addition to the tensors. Ten thousand tensors need about two million."""
_MOST_LISTED = 16 * 2**20
"""Maximum bytes of the table of contents of an archive; each tensor needs a hundred."""
_END, _LARGE_END = b"PK\x05\x06", b"PK\x06\x06"  # the end of the table of contents of a zip archive


class Setting:
    """A placeholder for a setting of a training script. It stores nothing."""

    def __new__(cls, *_: Any) -> "Setting":
        """Accepts any arguments."""
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None:
        """Takes any arguments."""

    def __setstate__(self, _: Any) -> None:
        """Takes any state."""


class Mapped(dict[Any, Any]):
    """A placeholder for a dict of another class: its items are read, and its class is not imported."""

    def __new__(cls, *_: Any) -> Any:
        """An empty dict of the type that the reader of PyTorch fills."""
        return OrderedDict()


class Listed(list[Any]):
    """A placeholder for a list of another class."""

    def __new__(cls, *_: Any) -> Any:
        """An empty list."""
        return []


_SETTINGS = tuple(
    f"{module}.{name}"
    for modules, names in {
        "argparse": "Namespace",
        "types": "SimpleNamespace",
        "pathlib pathlib._local": "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath",
        "numpy": "dtype ndarray",
        "numpy.core.multiarray numpy._core.multiarray": "scalar _reconstruct",
        "numpy.core.numeric numpy._core.numeric": "_frombuffer",
        "datetime": "date datetime time timedelta timezone",
        "uuid": "UUID",
        "decimal": "Decimal",
        "fractions": "Fraction",
        "builtins __builtin__": "frozenset slice range complex list dict tuple int float str bool bytes",
        "numpy.random._pickle": "__randomstate_ctor __generator_ctor __bit_generator_ctor",
        "numpy.random._mt19937": "MT19937",
        "numpy.random._pcg64": "PCG64",
        "numpy.random.bit_generator": "SeedSequence",
        "typing": "Any",
        "omegaconf.dictconfig": "DictConfig",
        "omegaconf.listconfig": "ListConfig",
        "omegaconf.base": "ContainerMetadata Metadata",
        "omegaconf.nodes": "AnyNode StringNode IntegerNode FloatNode BooleanNode PathNode BytesNode",
        "lightning.pytorch.callbacks.model_checkpoint pytorch_lightning.callbacks.model_checkpoint": "ModelCheckpoint",
        "lightning.pytorch.callbacks.early_stopping pytorch_lightning.callbacks.early_stopping": "EarlyStopping",
    }.items()
    for module in modules.split()
    for name in names.split()
)
_MAPPINGS = (
    "collections.defaultdict",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "easydict.EasyDict",
    "addict.addict.Dict",
    "fvcore.common.config.CfgNode",
    "yacs.config.CfgNode",
)
_ALLOWED: list[Any] = [
    *((Setting, name) for name in _SETTINGS),
    *((Mapped, name) for name in _MAPPINGS),
    (Listed, "collections.deque"),
]
_ONE_AT_A_TIME = threading.Lock()  # in PyTorch, the list of allowed names is global to the process


def read_pickle(path: Path) -> Any:
    """Reads a file of `torch.save`: tensors on the CPU, memory-mapped if possible, in plain containers.

    Raises:
        ValueError: the file is damaged, or of another kind, or needs more than tensors and settings; the message names
            it.
    """
    archive = is_archive(path)  # files of versions before torch 1.6 are not zip archives and cannot be memory-mapped
    if archive:
        _check_archive(path)
    with _ONE_AT_A_TIME, safe_globals(_ALLOWED), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about the protocol; errors are handled below
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
        except Exception as error:  # a damaged pickle can fail in any way
            reason = _refused(path, error, archive=archive) or _of_later_protocol(path, archive=archive)
            reason = reason or content_of(path) or f"corrupt, or not a file of tensors alone ({_first_line(error)})"
            raise ValueError(f"{path}: {reason}") from None


def is_archive(path: Path) -> bool:
    """Whether a file is a zip archive, or was one before it was damaged."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return True


def _check_archive(path: Path) -> None:
    """Refuses archives that `torch.save` does not write, such as archives that are small on disk but large
    in memory.
    """
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 2**16 - 22, 0))
        tail = file.read()
    at = tail.rfind(_END)
    listed = int.from_bytes(tail[at + 12 : at + 16], "little")
    if listed == 2**32 - 1:  # stated in the record for large archives
        at = tail.rfind(_LARGE_END)
        listed = int.from_bytes(tail[at + 40 : at + 48], "little")
    if listed > _MOST_LISTED:
        raise ValueError(f"{path}: lists more records than any checkpoint of Hiera has")
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise ValueError(f"{path}: corrupt, or not a file of tensors alone ({_first_line(error)})") from None
    names = {record.filename.rpartition("/")[2]: record for record in records}
    if "constants.pkl" in names:
        raise ValueError(
            f"{path}: is a TorchScript program; expected tensors, as torch.save(model.state_dict()) writes"
        )
    if "data.pkl" not in names:
        what = "a program of torch.export" if "archive_format" in names or path.suffix == ".pt2" else "a zip archive"
        raise ValueError(f"{path}: is {what}; expected tensors, as torch.save(model.state_dict()) writes")
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise ValueError(f"{path}: its records are compressed; expected them as torch.save writes them")
    if names["data.pkl"].file_size > _MOST_PICKLED:
        size = names["data.pkl"].file_size / 2**20
        raise ValueError(
            f"{path}: {size:,.0f} MiB of settings beside its tensors; at most {_MOST_PICKLED >> 20} are read"
        )


def _refused(path: Path, error: Exception, *, archive: bool) -> str:
    """One sentence about the refused names in a file; empty if reading failed for another reason."""
    words = str(error).split()
    if "GLOBAL" not in words[:-1] and not any("Unsupported" in word for word in words):
        return ""
    try:
        names = sorted(get_unsafe_globals_in_checkpoint(path)) if archive else []
    except Exception:  # damaged
        names = []
    if not names and "GLOBAL" in words[:-1]:
        names = [words[words.index("GLOBAL") + 1]]
    if not names:
        return ""
    listed = ", ".join(f"{name!r:.80}".strip("'\"") for name in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"not a file of tensors alone: it asks for {listed}{more}, which hierax does not run; "
        "save the weights alone, with torch.save(model.state_dict(), FILE)"
    )


def _of_later_protocol(path: Path, *, archive: bool) -> str:
    """One sentence about a pickle with a protocol that PyTorch does not write; empty if the protocol is right."""
    try:
        with path.open("rb") if not archive else zipfile.ZipFile(path) as opened:
            if isinstance(opened, zipfile.ZipFile):
                begin = opened.read(next(n for n in opened.namelist() if n.rpartition("/")[2] == "data.pkl"))[:2]
            else:
                begin = opened.read(2)
    except Exception:  # damaged, in any way
        return ""
    if begin[:1] != b"\x80" or len(begin) < 2 or not 2 < begin[1] < 10:
        return ""
    return f"not a file of tensors alone, or pickled by protocol {begin[1]}; expected 2, the protocol of torch.save"


def _first_line(error: Exception) -> str:
    """The first line of an error of PyTorch, without advice and colors."""
    lines = str(error).strip().splitlines()
    if not lines or "\x1b" in lines[0] or "weights_only" in lines[0]:
        lines = [lines[-1]] if lines and "\x1b" not in lines[-1] and "weights_only" not in lines[-1] else []
    text = lines[0].split(". ")[0] if lines else type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in text)[:120]
