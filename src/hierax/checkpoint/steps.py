"""Reads the weights of one step of a training run, from the folder `RUN/checkpoints/step-N`."""

import json
import math
from pathlib import Path
from typing import Any

import torch

from hierax.checkpoint.lora import merged_state
from hierax.digests import file_digest

_SHARED, _DIGESTS = "shared", "digests.json"
OLDER = "sizes.json"
"""The file that early versions wrote instead of digests."""

_MODELS = ("model", "average")
"""The parts of the shared state that are weights; the rest belongs to the optimizer."""


def is_step(folder: Path) -> bool:
    """Whether a folder is a step that a run can resume from."""
    return (folder / _SHARED / ".metadata").is_file() and any((folder / name).is_file() for name in (_DIGESTS, OLDER))


def model_folder(folder: Path) -> Path:
    """The folder in which the run of this step stores its model and configuration. It may not exist."""
    return folder.absolute().parent.parent / "model"


def read_step(folder: Path) -> dict[str, Any]:
    """The weights of a step: `model`, and `average` if the run has a moving average. No code of the folder is run.

    Raises:
        ValueError: the folder is damaged, or is not a step of a run; the message names the file.
    """
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    from hierax.checkpoint import sharded

    _check_digests(folder)
    try:
        table = sharded.read_table(folder / _SHARED)
    except OSError as error:
        raise ValueError(f"{folder / _SHARED}: cannot be read ({error.strerror})") from None
    sizes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        name: (tuple(entry.size), entry.properties.dtype)
        for name, entry in table.state_dict_metadata.items()
        if name.partition(".")[0] in _MODELS and isinstance(entry, TensorStorageMetadata)
    }
    wanted = sum(math.prod(size) * dtype.itemsize for size, dtype in sizes.values())
    there = sum(file.stat().st_size for file in (folder / _SHARED).glob("*.distcp"))
    if wanted > there:
        raise ValueError(
            f"{folder / _SHARED}: is damaged; its table states {wanted:,} bytes, but its files have {there:,}"
        )
    state: dict[str, Any] = {}
    for name, (size, dtype) in sizes.items():
        part, _, inner = name.partition(".")
        state.setdefault(part, {})[inner] = torch.empty(size, dtype=dtype)
    try:
        sharded.read(state, folder / _SHARED, alone=True)
    except Exception as error:  # damaged files can raise any error
        raise ValueError(f"{folder / _SHARED}: is damaged ({type(error).__name__})") from None
    return {part: _without_adapter(tensors, folder) for part, tensors in state.items()}


def _without_adapter(tensors: dict[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a step, with the matrices of an adapter added to them; run.json states their scale."""
    if not any(".lora_" in name for name in tensors):
        return tensors
    path = model_folder(folder).parent / "run.json"
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))["recipe"]
        rank = max(int(t.shape[0]) for name, t in tensors.items() if ".lora_A." in name)
        alpha = recipe["alpha"]
        scale = 2.0 if alpha is None else float(alpha) / rank  # as Recipe.adapter_scale
        return merged_state(tensors, scale)
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise ValueError(f"{path}: does not state the scale of the adapter in {folder} ({error})") from None


def _check_digests(folder: Path) -> None:
    """Compares the shared files with the digests that the run wrote."""
    if (folder / OLDER).is_file() and not (folder / _DIGESTS).exists():
        return  # reading it shows whether it is complete
    try:
        digests = dict(json.loads((folder / _DIGESTS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        raise ValueError(f"{folder / _DIGESTS}: is damaged or missing") from None
    for name, expected in digests.items():
        file = folder / str(name)
        if Path(str(name)).parent.name != _SHARED or file.parent.parent != folder:
            continue  # the random state and the progress of a rank
        if not file.is_file():
            raise ValueError(f"{file}: is missing")
        if file_digest(file) != expected:
            raise ValueError(f"{file}: is damaged; it is not what the run wrote")
