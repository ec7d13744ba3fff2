"""The report of loading a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hierax.reprs.text import never_raises, short_repr


@short_repr(changed=True)
@dataclass
class LoadingReport:
    """The report of loading a checkpoint; `str(report)` is a text for people.

    Attributes:
        source, dialect: the source of the weights, and the format of their names.
        part: the container or prefix of the file that was read, such as "model_ema"; "" if there is none.
        others: containers or prefixes of other models in the file; `part=` reads them.
        prefix: the prefix that was removed from all tensor names, such as "module.".
        base: of an adapter, the base model that its tensors were added to.
        missing: names (in hierax) of tensors that the file lacks; they belong to parts in `reinitialized`.
        unexpected: names in the file that are not tensors of Hiera.
        ignored: parts of the file that this model does not have, and blocks after the last map of a backbone.
        resized: position embeddings that were resized, each with both grids.
        reinitialized: parts and modules with new random weights.
        changed: fields of the configuration that differ from the file, each with both values.
        left_out: names in the file of parts that no Hiera has: the memory, the prompts and the masks of SAM 2.
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
    base: str = ""
    left_out: list[str] = field(default_factory=list)

    @property
    def renewed(self) -> list[str]:
        """The former name of `reinitialized`."""
        return self.reinitialized

    @never_raises
    def __str__(self) -> str:
        lines = [f"{self.source} ({self.dialect})"]
        if self.base:
            lines.append(f"  adapter, merged into its base model: {self.base}")
        if self.part:
            also = f"; other parts: {', '.join(self.others)}" if self.others else ""
            lines.append(f"  part: {self.part}{also}")
        if self.prefix:
            lines.append(f"  removed prefix: {self.prefix}")
        for name in ("missing", "unexpected", "ignored", "resized", "reinitialized", "changed"):
            entries: list[str] = getattr(self, name)
            if entries:
                lines.append(
                    f"  {'new (random) layers' if name == 'reinitialized' else name}: {join_names(entries, 8)}"
                )
        if self.left_out:
            count = f"{len(self.left_out)} tensor" + ("s" if len(self.left_out) > 1 else "")
            are = "are" if len(self.left_out) > 1 else "is"
            lines.append(f"  {count} of memory, prompts and masks {are} not part of the image encoder")
        return "\n".join(lines)


def join_names(names: Sequence[str], most: int) -> str:
    """The first `most` names, and the number of the others."""
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")
