"""A teacher's answers, kept on disk: what it was shown once it need not see again, in this run or another."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hierax.atomic import written
from hierax.processing.paths import check_regular
from hierax.train.teacher import Answers


class AnswerCache:
    """A folder of answers by what they are answers to.

    A key is a digest of the teacher and of the very pixels of a batch, so that no answer can serve another teacher,
    other images, crops or mixes. Answers are kept in float16, 2 bytes a number: of 1,000 logits and 1,280 features
    4.5 kB an image. Processes may share the folder.

    Args:
        folder: is made when there is something to keep.
        teacher: the teacher's digest.
    """

    def __init__(self, folder: str | os.PathLike[str], teacher: str) -> None:
        self.folder, self.teacher = Path(folder), teacher

    def key(self, pixels: Tensor, *mixed: object) -> str:
        """Of a batch as it was loaded, and of how it was mixed."""
        digest = hashlib.blake2b(f"{self.teacher} {tuple(pixels.shape)} {mixed}".encode(), digest_size=20)
        digest.update(pixels.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()

    def get(self, key: str, device: torch.device, *, shapes: Sequence[tuple[int, int]]) -> Answers | None:
        """The answers kept under a key; None where there are none, or what is there is not what was kept.

        Args:
            shapes: rows and columns of logits and of features; no columns where a teacher has none.
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
        return Answers(*(None if t is None else t.to(device).float() for t in kept))

    def put(self, key: str, answers: Answers) -> Answers:
        """Keeps answers, and returns them as they will be read: rounded."""
        kept = {"logits": answers.logits, "features": answers.features}
        tensors = {name: t.half().cpu().contiguous() for name, t in kept.items() if t is not None}
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with written(path) as part:
            save_file(tensors, part)
        return Answers(*(None if t is None else t.half().float() for t in (answers.logits, answers.features)))

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


def _fits(tensor: Tensor | None, shape: tuple[int, int]) -> bool:
    if not shape[1]:
        return tensor is None
    return tensor is not None and tensor.shape == shape and tensor.dtype == torch.float16
