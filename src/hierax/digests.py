"""SHA-256 of files and of weights: one way for engines, collections, exports, training checkpoints and teachers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

_PART = 1 << 22


def file_digest(path: Path) -> str:
    """The SHA-256 digest of the bytes of a file, in hexadecimal."""
    digest = hashlib.sha256()
    add_file(digest, path)
    return digest.hexdigest()


def add_file(digest: Any, path: Path) -> None:
    """Adds the bytes of a file to a digest of `hashlib`."""
    with path.open("rb") as file:
        while part := file.read(_PART):
            digest.update(part)


def weights_digest(model: nn.Module, *, by_value: bool = False) -> str:
    """SHA-256 of all parameters and buffers, in hexadecimal: names, shapes, dtypes and bytes.

    Both kinds of digest are parts of keys on disk, so neither may change.

    Args:
        by_value: digest the names in order, and the values as float32. Weights that are saved in another dtype, such as
            bfloat16 as float32, keep this digest: the cached answers of a teacher stay valid.
    """
    return _digest(model.state_dict(), by_value=by_value)


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors, in hexadecimal: names in order, and values as float32. The digest of weights `by_value`."""
    return _digest(tensors, by_value=True)


def _digest(named: Mapping[str, Any], *, by_value: bool) -> str:
    import torch

    digest, tensors = hashlib.sha256(), named.items()
    for name, tensor in sorted(tensors) if by_value else tensors:
        flat = (tensor.float() if by_value else tensor).detach().cpu().contiguous()
        digest.update((name if by_value else f"{name} {tuple(flat.shape)} {flat.dtype}\n").encode())
        digest.update(memoryview(flat.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()
