"""Finds the processor that fits a checkpoint."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from hierax.processing.decode import DEFAULT_MAX_PIXELS
from hierax.processing.image import HieraImageProcessor
from hierax.processing.processor import resolve_fast
from hierax.processing.video import HieraVideoProcessor
from hierax.transformers_arguments import token_of, without_foreign

if TYPE_CHECKING:
    from hierax.checkpoint.opened import Checkpoint


class AutoImageProcessor:
    """Finds the processor of a checkpoint. The name of this class is that of transformers."""

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | Checkpoint,
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        fast: bool | None = None,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        **overrides: Any,
    ) -> HieraImageProcessor | HieraVideoProcessor:
        """The processor of a checkpoint: a `HieraVideoProcessor` if the checkpoint is for clips, otherwise a
        `HieraImageProcessor`. For arguments and errors, see `HieraImageProcessor.from_pretrained`.
        """
        from hierax.checkpoint import load_preprocessing

        token = token_of(overrides, token)
        fast = resolve_fast(overrides, fast)
        overrides = without_foreign(overrides)
        record = load_preprocessing(
            source, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only
        )
        if record.replace(**overrides).num_frames is not None:
            return HieraVideoProcessor(record, fast=fast, **overrides)
        return HieraImageProcessor(record, fast=fast, max_pixels=max_pixels, **overrides)
