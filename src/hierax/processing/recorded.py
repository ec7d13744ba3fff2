"""What processors of pictures and of videos have in common: the record of a checkpoint, and its file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

from hierax.processing.record import Preprocessing


class Recorded:
    """A processor that does what its `record` says."""

    model_input_names: ClassVar[list[str]] = ["pixel_values"]
    record: Preprocessing

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write `preprocessor_config.json` into `folder` (made if missing), whole or not at all; return its path."""
        return self.record.write(folder)

    def to_dict(self) -> dict[str, Any]:
        """The record as it is saved."""
        return self.record.to_dict()
