"""Explains files and folders that hierax cannot open as a checkpoint: what they are, and what to do."""

from collections.abc import Sequence
from pathlib import Path

_EXPORTS = (".onnx", ".pt2", ".xml")
_STORED = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
_ADAPTER, _EXPORT = "adapter_config.json", "export.json"


def is_tensor_file(path: Path) -> bool:
    """Whether the first bytes of a file are those of a tensor file, whatever its name."""
    with path.open("rb") as file:
        head = file.read(9)
    pickled = head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"
    return path.suffix not in _EXPORTS and (pickled or head[:4] == b"PK\x03\x04" or head[8:] == b"{")


_BEGINNINGS = (
    (b"version https://git-lfs", "this is a pointer of Git LFS, not the weights; git lfs pull fetches them"),
    (b"<", "this is a web page or XML, not the weights; the download gave a page instead of the file"),
    (b"{", "this is JSON text, not the weights; the download may have given an error instead of the file"),
    (b"\x1f\x8b", "this is compressed by gzip; unpack it first"),
    (b"BZh", "this is compressed by bzip2; unpack it first"),
    (b"\xfd7zXZ", "this is compressed by xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "this is compressed by zstd; unpack it first"),
    (b"\x89HDF", "this is an HDF5 file, as Keras writes it; expected weights of PyTorch"),
    (b"Rar!", "this is a rar archive; unpack it first"),
    (b"7z\xbc\xaf", "this is a 7z archive; unpack it first"),
)


def content_of(path: Path) -> str | None:
    """A text that says what a file is, based on its first bytes; None if it may be a tensor file."""
    with path.open("rb") as file:
        head = file.read(600)
    if not head:
        return "this is empty; the download or the copy was not finished"
    if head[8:9] == b"{" and head[:1] != b"<":  # the header of safetensors, after its length
        return None
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return next((words for start, words in _BEGINNINGS if text.startswith(start)), None)


def explain_file(path: Path) -> str:
    """One sentence that says what a file without tensors is."""
    if path.suffix in _EXPORTS:
        return "this is an exported model, whose weights cannot be loaded; hierax.Engine runs the folder of an export"
    content = content_of(path)
    if content is not None and path.suffix != ".json":
        return content
    if path.suffix == ".json":
        return "this is a JSON file; expected the folder that it is in, or the file with the weights"
    with path.open("rb") as file:
        head = file.read(600)
    if head[257:262] == b"ustar":
        return "this is a tar archive of files; unpack it, and name the folder or the file with the weights"
    return "not a tensor file (.safetensors, .pth, .pt, .bin are read), by its name and its content"


def explain_folder(path: Path, expected: Sequence[str]) -> str:
    """One sentence that says what a folder without the `expected` files is."""
    if (path / _EXPORT).is_file():
        return f"this is an export, whose weights cannot be loaded; hierax.Engine({str(path)!r}) runs it"
    if (path / _ADAPTER).is_file():
        missing = "adapter_model.safetensors"
        return f"it holds the {_ADAPTER} of an adapter, but not its tensors; expected {missing} beside it"
    if (path / "run.json").is_file():
        return "this is a run that has written no model yet; run the same command again to resume it"
    if (path / ".metadata").is_file() and any(path.glob("*.distcp")):
        return (
            "this is a distributed checkpoint of PyTorch; if you trust it, write it as a file with "
            "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pth"
        )
    if (path / "zero_to_fp32.py").is_file():
        return "this is a checkpoint of DeepSpeed; its script zero_to_fp32.py writes the weights as a file"
    return f"no weights in this folder; expected one of {', '.join(expected)}{_nearby(path)}"


def _nearby(path: Path) -> str:
    """A text that names files and folders inside the folder that the user may have meant."""
    try:
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))[:10_000]
    except OSError:
        return ""
    files = [e.name for e in entries if e.suffix in _STORED and e.is_file() and "optimizer" not in e.stem]
    files += [e.name for e in entries if e.is_dir() and e.name.startswith(("checkpoint-", "checkpoints", "step-"))]
    marks = ("config.json", _ADAPTER)
    files += [e.name for e in entries if e.is_dir() and any((e / m).is_file() for m in marks) and e.name not in files]
    if not files:
        return ""
    more = f" and {len(files) - 4} more" if len(files) > 4 else ""
    return f"; it holds {', '.join(files[:4])}{more}: name the one you mean"
