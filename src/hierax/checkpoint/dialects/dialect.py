"""The base class of a format: the names of tensors in another library, and its configuration file."""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from hierax.model.config import HieraConfig
from hierax.model.registry import TaskSpec, known_parts

Shapes = Mapping[str, Sequence[int]]
"""The shapes of tensors by their names in hierax: `encoder.…`, `norm`, `head`, `fusion`, `decoder`, …"""

_OUR_BLOCK = re.compile(r"(encoder|decoder)\.blocks\.(\d+)\.(.+)")


def _swap(key: str, table: Mapping[str, str]) -> str | None:
    """`key` with its longest prefix in `table` replaced; None if there is no such prefix. Prefixes end at dots."""
    for prefix in sorted(table, key=len, reverse=True):
        if key == prefix or key.startswith(prefix + "."):
            return table[prefix] + key[len(prefix) :]
    return None


class Dialect(ABC):
    """Translates tensor names and configurations. There is one instance per format, each in its own file."""

    name: str
    container = "model_state"
    """The key of the tensors in a file of torch.save."""
    parts: Mapping[str, str]
    """The prefix in hierax -> the prefix in this format, outside of blocks."""
    own_parts: bool = False
    """Whether parts of tasks that are not in `parts` are stored with their names in hierax."""
    layer: Mapping[str, str]
    """The name inside a block in hierax -> the name in this format."""
    their_block: re.Pattern[str]
    """Matches names of blocks in this format. `_our_block` gets the match; its last group is the name
    inside the block.
    """

    @abstractmethod
    def recognizes(self, keys: Sequence[str], values: Mapping[str, Any] | None) -> bool:
        """Whether a file with these tensor names, and a `config.json` with these `values`, has this format."""

    @abstractmethod
    def config(self, values: Mapping[str, Any] | None, shapes: Shapes, variant: str | None) -> HieraConfig:
        """The configuration of a `config.json`; if there is none, it follows from the shapes of the tensors."""

    def states(self, values: Mapping[str, Any]) -> Collection[str] | None:
        """The fields of `HieraConfig` that a `config.json` with these `values` states; None: all fields.

        The other fields are in the metadata of the tensor file, if hierax wrote it.
        """
        return None

    @abstractmethod
    def config_values(self, config: HieraConfig, task: TaskSpec) -> dict[str, Any]:
        """The values of `config.json` in this format. Raises `ValueError` if it cannot express the configuration."""

    @abstractmethod
    def _block_name(self, which: str, index: int, depths: Sequence[int]) -> str:
        """The prefix in this format, with a final dot, of block `index` of the "encoder" or "decoder"."""

    @abstractmethod
    def _our_block(self, match: re.Match[str], depths: Sequence[int]) -> str:
        """The prefix in hierax, with a final dot, of a matched block."""

    def resolve_ambiguous(self, tensors: dict[str, Tensor], values: Mapping[str, Any] | None) -> dict[str, Tensor]:
        """Resolves ambiguous names, and adapts shapes, of tensors that have their names in hierax."""
        return tensors

    def stored(self, name: str, tensor: Tensor, config: HieraConfig) -> Tensor:
        """A tensor in the shape that it has in a file of this format."""
        return tensor

    def completed(self, tensors: dict[str, Tensor], config: HieraConfig) -> dict[str, Tensor]:
        """The tensors of a file of this format, from those with the names of `theirs`."""
        return tensors

    def is_foreign(self, key: str) -> bool:
        """Whether a tensor belongs to a part of the whole model that no Hiera has, as published files contain it."""
        return False

    def depths(self, keys: Sequence[str]) -> tuple[int, ...]:
        """The number of blocks per stage, from the names. It is only needed if names depend on stages."""
        return ()

    def ours(self, key: str, depths: Sequence[int]) -> str | None:
        """The name in hierax of a tensor of this format; None if it is unknown."""
        match = self.their_block.fullmatch(key)
        if match:
            inner = _swap(match.groups()[-1], {theirs: ours for ours, theirs in self.layer.items()})
            return None if inner is None else self._our_block(match, depths) + inner
        return _swap(key, {theirs: ours for ours, theirs in self.parts.items()}) or self._own(key)

    def _own(self, key: str) -> str | None:
        """The name itself, if it belongs to a part of a task that is stored with its name in hierax; otherwise None."""
        part = key.split(".")[0]
        stored = self.own_parts and part in known_parts()
        return key if stored and not any(prefix.split(".")[0] == part for prefix in self.parts) else None

    def theirs(self, key: str, depths: Sequence[int]) -> str:
        """The name in this format of a tensor of hierax.

        Raises:
            ValueError: the format has no name for it.
        """
        match = _OUR_BLOCK.fullmatch(key)
        if match:
            which, index, inner = match.groups()
            swapped = _swap(inner, self.layer)
            name = None if swapped is None else self._block_name(which, int(index), depths) + swapped
        else:
            name = _swap(key, self.parts) or self._own(key)
        if name is None:
            raise ValueError(f"the {self.name} format has no name for the tensor {key}")
        return name
