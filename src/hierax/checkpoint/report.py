"""The report of loading, for people to read."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class LoadingReport:
    """The report of loading.

    Attributes:
        source, dialect: where the weights came from, and the format of their names.
        part: the container or prefix of the file that was read, as "model_ema"; "" where there is none.
        others: containers or prefixes of other models in the file; `part=` reads them.
        prefix: what was removed from the start of all tensor names, such as "module.".
        missing: our names of tensors that the file lacks; they belong to parts in `reinitialized`.
        unexpected: names in the file that are not tensors of Hiera.
        ignored: parts in the file that this model does not have, also blocks after a backbone's last map.
        resized: position embeddings that were resized, each with its grids.
        reinitialized: parts and modules with new random weights.
        changed: configuration fields that differ from the file's, each with both values.
    """

    source: str
    dialect: str
    part: str = ""
    others: list[str] = field(default_factory=list)
    prefix: str = ""
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    reinitialized: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    @property
    def renewed(self) -> list[str]:
        """The former name of `reinitialized`."""
        return self.reinitialized

    def __str__(self) -> str:
        lines = [f"{self.source} ({self.dialect})"]
        if self.part:
            also = f"; also there: {', '.join(self.others)}" if self.others else ""
            lines.append(f"  part: {self.part}{also}")
        if self.prefix:
            lines.append(f"  prefix taken off: {self.prefix}")
        for name in ("missing", "unexpected", "ignored", "resized", "reinitialized", "changed"):
            entries: list[str] = getattr(self, name)
            if entries:
                lines.append(
                    f"  {'new (random) layers' if name == 'reinitialized' else name}: {join_names(entries, 8)}"
                )
        return "\n".join(lines)


def join_names(names: Sequence[str], most: int) -> str:
    """The first `most` names, and the number of the others."""
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")
