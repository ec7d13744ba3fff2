"""Opens a source of any format: reads its tensors by their names in hierax, and their configuration."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hierax.checkpoint.class_names import load_labels
from hierax.checkpoint.dialects.dialect import Dialect
from hierax.checkpoint.dialects.official import Official
from hierax.checkpoint.dialects.own import Own
from hierax.checkpoint.dialects.sam2 import SAM_2
from hierax.checkpoint.dialects.shapes import check_ranks
from hierax.checkpoint.dialects.timm import Timm
from hierax.checkpoint.dialects.transformers import Transformers
from hierax.checkpoint.files import ADAPTER_CONFIG, Source, TensorFile, is_adapter, locate, read_tensors, with_weights
from hierax.checkpoint.hub import HubOptions
from hierax.model.config import HieraConfig
from hierax.notices import notify
from hierax.reprs.text import never_raises

if TYPE_CHECKING:
    from hierax.model.pretrained import Pretrained
    from hierax.processing import Preprocessing

DIALECTS: Mapping[str, Dialect] = {d.name: d for d in (Transformers(), Timm(), Official())}
"""The formats that can be written. Files with `model.state_dict()` can also be read."""
READ = (Own(), *SAM_2.values(), *DIALECTS.values())
"""The formats that can be read."""
_LABELS = {(1000, 2): "imagenet-1k", (400, 3): "kinetics-400"}


@dataclass
class Checkpoint:
    """An open checkpoint, which creates models. `hierax.open_checkpoint` opens one.

    Every function that takes the source of a checkpoint also takes an open checkpoint. It is not read again.

    Attributes:
        source: its files.
        dialect: the format of its tensor names.
        config: the `HieraConfig` that fits its tensors.
        tensors: the tensors by their names in hierax, in the precision of the file, memory-mapped if possible.
        theirs: the names of the tensors in the file, by their names in hierax.
        unexpected: names in the file that are not tensors of Hiera.
        notes: the metadata that hierax wrote into the file.
        part, others: the container or prefix of the tensors, and those of other models in the file.
        prefix: the common prefix that was removed from all names.
        base: of an adapter, the base model that its tensors were added to.
        left_out: names in the file of parts that no Hiera has: the memory, the prompts and the masks of SAM 2.
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
    base: str = ""
    left_out: list[str] = field(default_factory=list)

    @never_raises
    def __repr__(self) -> str:
        facts = (self.task, f"{len(self.tensors):,} tensors", f"{self.dialect.name} format")
        return f"Checkpoint({self.name!r}, {', '.join(facts)}, {self.license or 'no license stated'})"

    @property
    def parts(self) -> set[str]:
        """The first parts of the names of the tensors: "encoder", "norm", "head", …"""
        return {name.split(".")[0] for name in self.tensors}

    @property
    def name(self) -> str:
        """The source that the user passed: a Hub id, a folder or a file."""
        return self.source.name

    @property
    def task(self) -> str:
        """Its task: "features", "backbone", "classification", "video-classification", "segmentation" or "mae"."""
        from hierax.checkpoint.load import detect_task

        return detect_task(self).name

    @property
    def preprocessing(self) -> "Preprocessing | None":
        """The preprocessing record of the checkpoint, or the published record for its kind; None if there
        is neither.
        """
        from hierax.checkpoint.preprocessing import preprocessing_of

        return preprocessing_of(self)

    @property
    def license(self) -> str | None:
        """The license of the weights (an SPDX name); None if it is not stated."""
        return self.config.license

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its classes, in order; empty without a head."""
        from hierax.model.registry import TASKS

        return tuple(self.config.id2label.values()) if TASKS[self.task].labels else ()

    def model(self, task: str | None = None, **changes: Any) -> "Pretrained":
        """Creates a new model with these weights. The arguments are those of `hierax.load`. Models share no memory."""
        from hierax.checkpoint.load import load

        return load(self, task=task, **changes)


def open_checkpoint(
    source: str | os.PathLike[str] | Checkpoint,
    *,
    variant: str | None = None,
    part: str | None = None,
    config: HieraConfig | None = None,
    base: "str | os.PathLike[str] | Checkpoint | None" = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """Opens a checkpoint of any format, without creating a model.

    Args:
        source: a Hub id, a folder, or a file. An open checkpoint is returned unchanged.
        variant: name of the architecture, for a tensor file with ambiguous shapes.
        part: which model to read if the file contains several; None: a moving average is preferred, with a notice.
        config: the configuration to use instead of that of the source.
        base: the base model of an adapter; None is the one that the adapter names.
        revision, cache_dir, token, local_files_only: passed to the client of the Hub.

    Raises:
        ValueError: the file is not a Hiera, or is corrupt, or fits no known variant, or contains several models; the
            message names the file. Or an open checkpoint is passed with another argument.
        OSError: the file, the base model or the Hub cannot be reached.
    """
    hub = HubOptions(revision, cache_dir, token, local_files_only)
    return as_checkpoint(source, hub, variant, part=part, config=config, base=base)


def as_checkpoint(
    source: str | os.PathLike[str] | Checkpoint,
    hub: HubOptions,
    variant: str | None = None,
    *,
    part: str | None = None,
    config: HieraConfig | None = None,
    base: "str | os.PathLike[str] | Checkpoint | None" = None,
) -> Checkpoint:
    """Like `open_checkpoint`, with the options for the Hub in one object."""
    if not isinstance(source, Checkpoint):
        return read_checkpoint(source, hub, variant, part=part, config=config, base=base)
    chosen = {"variant": variant, "part": part, "config": config, "base": base, "revision": hub.revision}
    for name, value in chosen.items():
        if value is not None:
            raise ValueError(f"{name} is {value!r:.80}, but {source.name} is open; expected it in open_checkpoint")
    return source


def read_checkpoint(
    source: str | os.PathLike[str] | Source,
    hub: HubOptions,
    variant: str | None = None,
    *,
    part: str | None = None,
    config: HieraConfig | None = None,
    base: "str | os.PathLike[str] | Checkpoint | None" = None,
    any_of_them: bool = False,
) -> Checkpoint:
    """Reads the tensors and the configuration of a checkpoint that is not open yet.

    Args:
        source: a Hub id, a folder, a file, or the result of `locate`.
        hub, variant, part, config, base: see `open_checkpoint`.
        any_of_them: if the file contains several models, read the first.

    Raises:
        ValueError: the file is not a Hiera, or is corrupt, or fits no known variant, or contains several models; the
            message names the file.
        OSError: the file or the Hub cannot be reached.
    """
    found = with_weights(source) if isinstance(source, Source) else locate(source, hub)
    assert found.weights is not None
    if is_adapter(found.weights):
        from hierax.checkpoint.adapters import open_adapter

        return open_adapter(found, hub, base, variant=variant, part=part, config=config)
    if (found.weights.parent / ADAPTER_CONFIG).is_file():
        notify(f"{found.weights.parent}: also holds an adapter, which is not applied to the model in it")
    if base is not None:
        raise ValueError(f"base is {base!s:.80}, but {found.name} is a whole model; expected base= for an adapter only")
    read = read_tensors(found.weights, part, any_of_them=any_of_them)
    keys = tuple(read.tensors)
    dialect = next((d for d in READ if d.recognizes(keys, found.values)), None)
    if dialect is None:
        raise ValueError(f"{found.weights}: no Hiera weights; its tensors begin with {', '.join(keys[:3])}")
    if read.others and part is None and not any_of_them:
        notify(
            f"{found.weights}: {read.part!r} was read; the file also holds {' and '.join(map(repr, read.others))}, "
            f"which part={read.others[0]!r} reads (hierax convert --part)"
        )
    tensors, theirs, unexpected = _rename_tensors(dialect, read, found)
    try:
        check_ranks({name: tuple(tensor.shape) for name, tensor in tensors.items()}, theirs)
    except ValueError as error:
        raise ValueError(f"{found.weights}: {error}") from None
    if config is None:
        config = _config(dialect, found, tensors, read.notes, variant)
    unexpected += read.beside
    left_out = [key for key in unexpected if dialect.is_foreign(key)]
    return Checkpoint(
        found,
        dialect,
        config,
        tensors,
        theirs,
        [key for key in unexpected if key not in {*left_out}],
        read.notes,
        read.part,
        read.others,
        read.prefix,
        left_out=left_out,
    )


def _rename_tensors(
    dialect: Dialect, read: TensorFile, source: Source
) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """The tensors by their names in hierax, the names of the file by the names in hierax, and the unknown names."""
    depths = dialect.depths(tuple(read.tensors))
    ours = {key: dialect.ours(key, depths) for key in read.tensors}
    theirs: dict[str, str] = {}
    for key, name in ours.items():
        if name is not None and theirs.setdefault(name, key) != key:
            raise ValueError(f"{source.weights}: {theirs[name]} and {key} are the same tensor of Hiera")
    tensors = dialect.resolve_ambiguous({name: read.tensors[key] for name, key in theirs.items()}, source.values)
    theirs |= {name: dialect.theirs(name, depths) for name in tensors if name not in theirs}
    return tensors, theirs, [key for key, name in ours.items() if name is None]


def _config(
    dialect: Dialect,
    source: Source,
    tensors: Mapping[str, Tensor],
    notes: Mapping[str, Any],
    variant: str | None,
) -> HieraConfig:
    """The configuration of a checkpoint, from its `config.json`, the metadata of hierax, or the shapes of
    its tensors.
    """
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
    """The configuration of a `config.json`. Fields that its format does not have are read from the metadata."""
    stated = dialect.states(values)
    if stated is None:
        return config
    noted = {name: value for name, value in notes.items() if name not in stated}
    labels = noted.pop("id2label", None)
    if isinstance(labels, dict) and (len(labels) == config.num_labels or not head):
        noted["id2label"] = labels  # otherwise, the head was replaced later
    return HieraConfig.from_dict({**config.to_dict(), **noted})


def _with_names(config: HieraConfig, source: Source, notes: Mapping[str, Any]) -> HieraConfig:
    """The configuration, with the class names of hierax if the checkpoint has no class names."""
    stated = bool(notes) or "id2label" in (source.values or {})
    unnamed = config.id2label == {i: f"LABEL_{i}" for i in range(config.num_labels)}
    names = _LABELS.get((config.num_labels, config.axes))
    if stated or not unnamed or names is None:
        return config
    return config.replace(id2label=dict(enumerate(load_labels(names))))
