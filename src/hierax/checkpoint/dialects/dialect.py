"""What a format is: another library's names for our tensors, and its way of writing a configuration."""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from hierax.model.config import HieraConfig
from hierax.model.registry import TaskSpec, known_parts

Shapes = Mapping[str, Sequence[int]]
"""Our tensor names (those of the task models: `encoder.…`, `norm`, `head`, `fusion`, `decoder`, …) and their shapes."""

_OUR_BLOCK = re.compile(r"(encoder|decoder)\.blocks\.(\d+)\.(.+)")


def _swap(key: str, table: Mapping[str, str]) -> str | None:
    """`key` with the longest prefix found in `table` exchanged; None when there is none. Prefixes end at dots."""
    for prefix in sorted(table, key=len, reverse=True):
        if key == prefix or key.startswith(prefix + "."):
            return table[prefix] + key[len(prefix) :]
    return None


class Dialect(ABC):
    """Translates tensor names and configurations; one instance per format, in a file of its own."""

    name: str
    parts: Mapping[str, str]
    """Our prefix -> theirs, outside of blocks."""
    own_parts: bool = False
    """Whether the parts of tasks that `parts` does not name are stored under our names."""
    layer: Mapping[str, str]
    """Our name inside a block -> theirs."""
    their_block: re.Pattern[str]
    """Matches their block names; what it captures is for `_our_block`, the last group being the name inside."""

    @abstractmethod
    def recognises(self, keys: Sequence[str], values: Mapping[str, Any] | None) -> bool:
        """Whether a file with these tensor names, beside a `config.json` of these `values`, is of this format."""

    @abstractmethod
    def config(self, values: Mapping[str, Any] | None, shapes: Shapes, variant: str | None) -> HieraConfig:
        """The configuration that a `config.json` states, or where there is none, the shapes of our tensors imply."""

    def states(self, values: Mapping[str, Any]) -> Collection[str] | None:
        """The fields of `HieraConfig` that a `config.json` of these `values` states; None for all of them.

        What it cannot state stands in the notes of the tensor file, if hierax wrote that.
        """
        return None

    @abstractmethod
    def config_values(self, config: HieraConfig, task: TaskSpec) -> dict[str, Any]:
        """The values that this format writes into `config.json`. Raises `ValueError` for what it cannot express."""

    @abstractmethod
    def _block_name(self, which: str, index: int, depths: Sequence[int]) -> str:
        """Their prefix, with a final dot, of block `index` of the "encoder" or "decoder"."""

    @abstractmethod
    def _our_block(self, match: re.Match[str], depths: Sequence[int]) -> str:
        """Our prefix, with a final dot, of a matched block."""

    def resolve_ambiguous(self, tensors: dict[str, Tensor], values: Mapping[str, Any] | None) -> dict[str, Tensor]:
        """Our tensors, from tensors whose names are translated already: adapts shapes and what names do not tell."""
        return tensors

    def stored(self, name: str, tensor: Tensor, config: HieraConfig) -> Tensor:
        """Our tensor in the shape that it has in a file of this format."""
        return tensor

    def depths(self, keys: Sequence[str]) -> tuple[int, ...]:
        """Blocks per stage, as far as the names tell; only needed if the names depend on stages."""
        return ()

    def ours(self, key: str, depths: Sequence[int]) -> str | None:
        """Our name of their tensor, or None when it is unknown."""
        match = self.their_block.fullmatch(key)
        if match:
            inner = _swap(match.groups()[-1], {theirs: ours for ours, theirs in self.layer.items()})
            return None if inner is None else self._our_block(match, depths) + inner
        return _swap(key, {theirs: ours for ours, theirs in self.parts.items()}) or self._own(key)

    def _own(self, key: str) -> str | None:
        """The name itself, if it is of a task's part that is stored under our names; else None."""
        part = key.split(".")[0]
        stored = self.own_parts and part in known_parts()
        return key if stored and not any(prefix.split(".")[0] == part for prefix in self.parts) else None

    def theirs(self, key: str, depths: Sequence[int]) -> str:
        """Their name of our tensor.

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
