"""Opens a source of any format: its tensors under our names, and their configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from hierax.checkpoint.dialect import Dialect
from hierax.checkpoint.files import Source, TensorFile, locate, read_tensors
from hierax.checkpoint.hub import HubOptions
from hierax.checkpoint.official import Official
from hierax.checkpoint.own import Own
from hierax.checkpoint.parts import SAM_2, is_sam2
from hierax.checkpoint.shapes import check_ranks
from hierax.checkpoint.timm import Timm
from hierax.checkpoint.transformers import Transformers
from hierax.config import HieraConfig
from hierax.labels import load_labels
from hierax.notices import notify

DIALECTS: Mapping[str, Dialect] = {d.name: d for d in (Transformers(), Timm(), Official())}
"""Those that are written; `model.state_dict()` in a file is read besides."""
_READ = (Own(), *DIALECTS.values())
_LABELS = {(1000, 2): "imagenet-1k", (400, 3): "kinetics-400"}


@dataclass
class Opened:
    """A checkpoint that was read.

    Attributes:
        tensors: under our names, as the file has them (in its precision, mapped from disk where possible).
        theirs: the names that they have in the file.
        unexpected: names in the file that are not tensors of Hiera.
        notes: what hierax left in the tensor file beside the tensors.
        part, others: the container or prefix that the tensors were in, and those of other models in the file.
        prefix: what was removed from the start of all tensor names.
    """

    source: Source
    dialect: Dialect
    config: HieraConfig
    tensors: dict[str, Tensor]
    theirs: dict[str, str]
    unexpected: list[str]
    notes: Mapping[str, Any]
    part: str = ""
    others: tuple[str, ...] = field(default=())
    prefix: str = ""

    @property
    def parts(self) -> set[str]:
        """First parts of the tensors' names: "encoder", "norm", "head", …"""
        return {name.split(".")[0] for name in self.tensors}


def open_checkpoint(
    source: str | Path,
    hub: HubOptions,
    variant: str | None = None,
    *,
    part: str | None = None,
    config: HieraConfig | None = None,
    any_of_them: bool = False,
) -> Opened:
    """Reads tensors and configuration of any format.

    Args:
        part: which model to read if the file holds several. Without it, a moving average is preferred, with a notice.
        config: the configuration to use instead of the source's.
        any_of_them: if the file holds several models, read the first.

    Raises:
        ValueError: the file is not a Hiera, is corrupt, fits no known variant, or holds several models; names the
            file.
        OSError: the file or the Hub cannot be reached.
    """
    found = locate(source, hub)
    assert found.weights is not None
    read = read_tensors(found.weights, part, any_of_them=any_of_them)
    keys = tuple(read.tensors)
    dialect = next((d for d in _READ if d.recognises(keys, found.values)), None)
    if is_sam2(keys):
        raise ValueError(f"{found.weights}: {SAM_2}")
    if dialect is None:
        raise ValueError(f"{found.weights}: no Hiera weights; its tensors begin with {', '.join(keys[:3])}")
    if read.others and part is None and not any_of_them:
        notify(
            f"{found.weights}: {read.part!r} was read; the file also holds {' and '.join(map(repr, read.others))}, "
            f"which part={read.others[0]!r} reads (hierax convert --part)"
        )
    tensors, theirs, unexpected = _renamed(dialect, read, found)
    try:
        check_ranks({name: tuple(tensor.shape) for name, tensor in tensors.items()}, theirs)
    except ValueError as error:
        raise ValueError(f"{found.weights}: {error}") from None
    if config is None:
        config = _config(dialect, found, tensors, read.notes, variant)
    unexpected += read.beside
    return Opened(found, dialect, config, tensors, theirs, unexpected, read.notes, read.part, read.others, read.prefix)


def _renamed(dialect: Dialect, read: TensorFile, source: Source) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """The tensors by our names, the file's names by our names, and the unknown names."""
    depths = dialect.depths(tuple(read.tensors))
    ours = {key: dialect.ours(key, depths) for key in read.tensors}
    theirs: dict[str, str] = {}
    for key, name in ours.items():
        if name is not None and theirs.setdefault(name, key) != key:
            raise ValueError(f"{source.weights}: {theirs[name]} and {key} are one and the same tensor of Hiera")
    tensors = dialect.settle({name: read.tensors[key] for name, key in theirs.items()}, source.values)
    theirs |= {name: dialect.theirs(name, depths) for name in tensors if name not in theirs}
    return tensors, theirs, [key for key, name in ours.items() if name is None]


def _config(
    dialect: Dialect,
    source: Source,
    tensors: Mapping[str, Tensor],
    notes: Mapping[str, Any],
    variant: str | None,
) -> HieraConfig:
    """The configuration of a checkpoint, from its `config.json`, our notes, or the shapes of its tensors."""
    shapes: dict[str, Sequence[int]] = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    try:
        if variant is None and source.values is None and notes:
            config = HieraConfig.from_dict(notes["config"])
        else:
            config = dialect.config(source.values, shapes, variant)
            if variant is None and source.values is not None and notes:
                config = _with_notes(config, dialect, source.values, notes["config"], head="head.weight" in shapes)
    except ValueError as error:
        path = source.config.path if source.config is not None and variant is None else source.weights
        raise ValueError(f"{path}: {error}") from None
    if config.license is None and source.record is not None:
        config = config.replace(license=source.record.license)
    return _with_names(config, source, notes) if "head.weight" in tensors else config


def _with_notes(
    config: HieraConfig, dialect: Dialect, values: Mapping[str, Any], notes: Mapping[str, Any], *, head: bool
) -> HieraConfig:
    """The configuration of a `config.json`. Fields that its format does not have come from our notes."""
    stated = dialect.states(values)
    if stated is None:
        return config
    noted = {name: value for name, value in notes.items() if name not in stated}
    labels = noted.pop("id2label", None)
    if isinstance(labels, dict) and (len(labels) == config.num_labels or not head):
        noted["id2label"] = labels  # else the head was replaced since
    return HieraConfig.from_dict({**config.to_dict(), **noted})


def _with_names(config: HieraConfig, source: Source, notes: Mapping[str, Any]) -> HieraConfig:
    """The configuration, with the packaged class names if the checkpoint has none of its own."""
    stated = bool(notes) or "id2label" in (source.values or {})
    unnamed = config.id2label == {i: f"LABEL_{i}" for i in range(config.num_labels)}
    names = _LABELS.get((config.num_labels, config.axes))
    if stated or not unnamed or names is None:
        return config
    return config.replace(id2label=dict(enumerate(load_labels(names))))
