"""A teacher's outputs, cached on disk for this run and later ones, so that they are computed only once per input."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hierax.atomic import atomic_write
from hierax.folders import make_room
from hierax.processing.paths import check_regular
from hierax.train.teacher import TeacherOutputs


class TeacherCache:
    """A folder of outputs, by a key of the teacher's input.

    A key is a digest of the teacher and of the exact pixels of a batch, so that outputs are never used for another
    teacher, image, crop or mix. Outputs are stored in float16, 2 bytes per number: 4.5 kB per image for 1,000 logits
    and 1,280 features. Processes may share the folder.

    Args:
        folder: created when the first outputs are stored.
        teacher: the teacher's digest.
    """

    def __init__(self, folder: str | os.PathLike[str], teacher: str) -> None:
        self.folder, self.teacher = Path(folder), teacher

    def key(self, pixels: Tensor, *mixed: object) -> str:
        """The key of a batch: its pixels as they were loaded, and how they were mixed."""
        digest = hashlib.blake2b(f"{self.teacher} {tuple(pixels.shape)} {mixed}".encode(), digest_size=20)
        digest.update(pixels.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()

    def get(self, key: str, device: torch.device, *, shapes: Sequence[tuple[int, int]]) -> TeacherOutputs | None:
        """The outputs stored under a key; None if there are none or the file is damaged.

        Args:
            shapes: rows and columns of logits and of features; 0 columns if the teacher has none.
        """
        path = self._path(key)
        try:
            check_regular(path)
            found = load_file(path)
        except (OSError, ValueError, SafetensorError):
            return None
        kept = [found.get(name) for name in ("logits", "features")]
        if not all(_fits(tensor, shape) for tensor, shape in zip(kept, shapes, strict=True)):
            return None
        return TeacherOutputs(*(None if t is None else t.to(device).float() for t in kept))

    def put(self, key: str, answers: TeacherOutputs) -> TeacherOutputs:
        """Stores outputs; returns them rounded to float16, as they will be read."""
        kept = {"logits": answers.logits, "features": answers.features}
        tensors = {name: t.half().cpu().contiguous() for name, t in kept.items() if t is not None}
        path = self._path(key)
        make_room(path.parent, folder=True)
        make_room(path)
        with atomic_write(path) as part:
            save_file(tensors, part)
        return TeacherOutputs(*(None if t is None else t.half().float() for t in (answers.logits, answers.features)))

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


def _fits(tensor: Tensor | None, shape: tuple[int, int]) -> bool:
    if not shape[1]:
        return tensor is None
    return tensor is not None and tensor.shape == shape and tensor.dtype == torch.float16
