"""The tensor names of hierax, as in `model.state_dict()`, which scripts may save."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hierax.checkpoint.dialects.dialect import Dialect, Shapes
from hierax.checkpoint.dialects.shapes import config_from_shapes
from hierax.checkpoint.parts import OURS
from hierax.model.config import HieraConfig
from hierax.model.registry import TaskSpec


class Own(Dialect):
    """Names like `encoder.blocks.10.attn.qkv.weight`. They can be read, but are never written to a checkpoint."""

    name = "hierax"
    parts = {}
    own_parts = True
    layer = {}
    their_block = re.compile(r"(?!)")

    def recognizes(self, keys: Sequence[str], values: Mapping[str, Any] | None) -> bool:
        """See the base class."""
        return "encoder.patch_embed.proj.weight" in keys and any(table in keys for table in OURS)

    def config(self, values: Mapping[str, Any] | None, shapes: Shapes, variant: str | None) -> HieraConfig:
        """See the base class."""
        if values is None or variant is not None:
            return config_from_shapes(shapes, variant)
        return HieraConfig.from_dict(values)

    def config_values(self, config: HieraConfig, task: TaskSpec) -> dict[str, Any]:
        """See the base class."""
        raise NotImplementedError

    def theirs(self, key: str, depths: Sequence[int]) -> str:
        """See the base class."""
        return key

    def _block_name(self, which: str, index: int, depths: Sequence[int]) -> str:
        raise NotImplementedError

    def _our_block(self, match: re.Match[str], depths: Sequence[int]) -> str:
        raise NotImplementedError
