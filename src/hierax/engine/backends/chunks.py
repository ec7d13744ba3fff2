"""Calls a runtime with a few images at a time; converts tensors to arrays, and the arrays of all calls to tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from hierax.engine.memory import check_outputs

CHUNK = 8
"""Images per call: more are not faster, and their activations need memory."""


def to_arrays(pixels: Tensor, kept: Tensor | None) -> list[np.ndarray]:
    """The inputs of a program as arrays."""
    return [t.detach().cpu().contiguous().numpy() for t in (pixels, kept) if t is not None]


def join(
    chunks: Iterable[Sequence[np.ndarray]],
    stated: Sequence[Sequence[int | None]],
    *,
    batch: int,
    step: int,
    by: str,
) -> list[Tensor]:
    """The outputs of a program for `batch` images, from calls with `step` images each; the last call has the rest.

    Args:
        stated: for each output, the lengths of its axes after the first, as the compiled program states them.

    Raises:
        MemoryError: an output has a shape that was not stated; a runtime without enough memory returns such outputs.
    """
    checked = []
    for number, chunk in enumerate(chunks):
        rows = min(step, batch - number * step)
        check_outputs([array.shape for array in chunk], [[rows, *axes] for axes in stated], by=by)
        checked.append(chunk)
    return [torch.from_numpy(np.concatenate(parts)) for parts in zip(*checked, strict=True)]
