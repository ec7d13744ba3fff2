"""The processor that fits a checkpoint."""

from __future__ import annotations

import os
from typing import Any

from hierax.processing.decode import DEFAULT_MAX_PIXELS
from hierax.processing.image import HieraImageProcessor
from hierax.processing.video import HieraVideoProcessor


class AutoImageProcessor:
    """Finds the processor of a checkpoint; the name that users of transformers know."""

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        fast: bool | None = None,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        **overrides: Any,
    ) -> Any:
        """A `HieraImageProcessor`, as its own `from_pretrained` makes it; of a checkpoint of clips, a
        `HieraVideoProcessor`.
        """
        from hierax.checkpoint import load_preprocessing

        record = load_preprocessing(
            source, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only
        )
        if record.replace(**overrides).num_frames is not None:
            return HieraVideoProcessor(record, fast=fast is not False, **overrides)
        return HieraImageProcessor(record, fast=bool(fast), max_pixels=max_pixels, **overrides)
