"""Loading: a source of any dialect into a model of any task, with a report of what was found."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from hierax.checkpoint.dialect import PARTS, Dialect
from hierax.checkpoint.files import HubOptions, Source, locate, read_tensors
from hierax.checkpoint.official import Official
from hierax.checkpoint.timm import KEPT, Timm, untrained_norm
from hierax.checkpoint.transformers import ARCHITECTURES, Transformers
from hierax.config import HieraConfig
from hierax.labels import load_labels
from hierax.positions import DecoderPosition, position_embedding

if TYPE_CHECKING:
    from hierax.pretrained import Pretrained
    from hierax.processing import Preprocessing

    Model = TypeVar("Model", bound=Pretrained)

DIALECTS: Mapping[str, Dialect] = {d.name: d for d in (Transformers(), Timm(), Official())}
_BUILDING: ContextVar[Mapping[str, Any]] = ContextVar("building", default={})  # noqa: B039  (never mutated)


@dataclass
class LoadingReport:
    """What loading found.

    Attributes:
        source, dialect: where the weights came from, and whose names they had.
        missing: our names of tensors that the file lacks; they belong to parts in `renewed`.
        unexpected: names in the file that belong to no part of Hiera.
        ignored: parts in the file that this class does not have.
        resized: position embeddings that were resized, each with its grids.
        renewed: parts that start anew.
        changed: configuration fields set differently from the record, each with both values.
    """

    source: str
    dialect: str
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    renewed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.source} ({self.dialect})"]
        for name in ("missing", "unexpected", "ignored", "resized", "renewed", "changed"):
            entries: list[str] = getattr(self, name)
            if entries:
                shown = ", ".join(entries[:8]) + (f", and {len(entries) - 8} more" if len(entries) > 8 else "")
                lines.append(f"  {name}: {shown}")
        return "\n".join(lines)


@dataclass
class Opened:
    """A checkpoint that was read: its tensors under our names, and its configuration."""

    source: Source
    dialect: Dialect
    config: HieraConfig
    tensors: dict[str, Tensor]
    unexpected: list[str]


@contextmanager
def building(**arguments: Any) -> Iterator[None]:
    """Arguments for the constructor of the model that `load_model` builds inside this context."""
    token = _BUILDING.set(arguments)
    try:
        yield
    finally:
        _BUILDING.reset(token)


def open_checkpoint(source: str | Path, hub: HubOptions, variant: str | None = None) -> Opened:
    """Reads tensors and configuration of any dialect.

    Raises:
        ValueError: not Hiera, corrupt, or of no known variant; names the file.
        OSError: the file or the Hub cannot be reached.
    """
    found = locate(source, hub)
    assert found.weights is not None
    raw = read_tensors(found.weights)
    keys = tuple(raw)
    dialect = next((d for d in DIALECTS.values() if d.recognises(keys)), None)
    if dialect is None:
        raise ValueError(f"{found.weights}: no Hiera weights; its tensors begin with {', '.join(keys[:3])}")
    tensors, unexpected = {}, []
    depths = dialect.depths(keys)
    for key, tensor in raw.items():
        ours = dialect.ours(key, depths)
        if ours == "encoder.pos_embed.weight" and tensor.ndim > 3:
            ours = "encoder.pos_embed.whole"
        if ours is None:
            unexpected.append(key)
        else:
            tensors[ours] = tensor
    if dialect.name == "timm" and untrained_norm(found.config, keys):
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("norm.")}
    try:
        config = dialect.config(found.config, {name: tuple(t.shape) for name, t in tensors.items()}, variant)
    except ValueError as error:
        raise ValueError(f"{found.weights}: {error}") from None
    return Opened(found, dialect, _with_record(config, found, tensors), tensors, unexpected)


def _with_record(config: HieraConfig, source: Source, tensors: Mapping[str, Tensor]) -> HieraConfig:
    """The configuration with the licence of the published record, and the names of the classes where it has none."""
    if config.license is None and source.record is not None:
        config = config.replace(license=source.record.license)
    unnamed = config.id2label == {i: f"LABEL_{i}" for i in range(config.num_labels)}
    stated = source.config is not None and "id2label" in source.config
    if "head.weight" in tensors and unnamed and not stated:
        names = {(1000, 2): "imagenet-1k", (400, 3): "kinetics-400"}.get((config.num_labels, config.axes))
        if names:
            config = config.replace(id2label=dict(enumerate(load_labels(names))))
    return config


def load_model(
    cls: "type[Model]",
    source: str | Path,
    *,
    variant: str | None = None,
    num_labels: int | None = None,
    new: Collection[str] = (),
    image_size: int | Sequence[int] | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    hub: HubOptions | None = None,
    overrides: Mapping[str, Any] | None = None,
    opened: Opened | None = None,
) -> "Model":
    """`Pretrained.from_pretrained`, which see; `opened` saves reading the source again."""
    opened = opened or open_checkpoint(source, hub or HubOptions(), variant)
    report = LoadingReport(opened.source.name, opened.dialect.name, unexpected=opened.unexpected)
    renewed = {new} if isinstance(new, str) else set(new)
    renewed |= {"head"} if num_labels is not None else set()
    unknown = renewed - set(PARTS)
    if unknown:
        raise ValueError(f"new names {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}")
    config = _task_config(cls, opened.config, report, overrides or {}, num_labels, image_size)
    with torch.device("meta"):
        model = cls(config, **_BUILDING.get())
    _fill(model, opened, report, renewed, _precision(dtype), device or "cpu")
    model.loading_report = report
    model.preprocessing = _preprocessing(opened)
    return model.eval()


def _precision(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The dtype asked for; None for that of the file."""
    if dtype == "auto":
        return None
    if dtype is None:
        return torch.float32
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype is {dtype!r}; expected a floating-point dtype, its name, or 'auto'")
    return found


def _task_config(
    cls: "type[Pretrained]",
    config: HieraConfig,
    report: LoadingReport,
    overrides: Mapping[str, Any],
    num_labels: int | None,
    image_size: int | Sequence[int] | None,
) -> HieraConfig:
    """The file's configuration as this class and the caller want it.

    A classifier has its last stage pooled, a MAE has not: opened from the other kind's record, the number changes.
    """
    changes = dict(overrides)
    if "num_query_pool" not in changes and cls.__name__ in (
        "HieraForImageClassification",
        "HieraForVideoClassification",
    ):
        changes["num_query_pool"] = config.stages - 1
    elif "num_query_pool" not in changes and cls.__name__ == "HieraForPreTraining" and config.stages > 2:
        changes["num_query_pool"] = min(config.num_query_pool, config.stages - 2)
    if num_labels is not None:
        changes["num_labels"] = num_labels
    if image_size is not None:
        changes["image_size"] = image_size
    changed = config.replace(**changes)
    for name in changes:
        before, after = getattr(config, name), getattr(changed, name)
        if before != after and name != "id2label":
            report.changed.append(f"{name} {before} -> {after}")
    return changed


def _fill(
    model: "Pretrained",
    opened: Opened,
    report: LoadingReport,
    renewed: set[str],
    dtype: torch.dtype | None,
    device: torch.device | str,
) -> None:
    """Puts the tensors into a model on the meta device, and draws the parts that start anew."""
    bare = type(model).__name__ == "Hiera"  # the encoder alone: its names have no "encoder." before them
    wanted = {f"encoder.{name}" if bare else name: tensor for name, tensor in model.state_dict().items()}
    tensors = {name: t for name, t in opened.tensors.items() if name.split(".")[0] not in renewed}
    tensors |= _resized_positions(opened, model.config, tensors, report)
    absent_norms = any(n.startswith("norms.") for n in wanted) and not any(n.startswith("norms.") for n in tensors)
    renewed |= {"norms"} if absent_norms else set()  # published files have none; they start at 1 and 0, as there
    has = {name.split(".")[0] for name in wanted}
    report.ignored = sorted({name.split(".")[0] for name in tensors} - has)
    report.missing = [name for name in wanted if name not in tensors]
    report.renewed = sorted({name.split(".")[0] for name in report.missing} & renewed)
    lacking = [name for name in report.missing if name.split(".")[0] not in renewed]
    if lacking:
        raise ValueError(_lacking(opened, lacking))
    filled: dict[str, Tensor] = {}
    for name, target in wanted.items():
        tensor = tensors.get(name)
        if tensor is None:
            tensor = torch.empty_like(target, device=device, dtype=dtype)
        elif tensor.shape != target.shape:
            raise ValueError(
                f"{opened.source.weights}: {opened.dialect.theirs(name, opened.config.depths)} has shape "
                f"{list(tensor.shape)}; expected {list(target.shape)}{_hint(name)}"
            )
        filled[name.removeprefix("encoder.") if bare else name] = tensor.to(device=device, dtype=dtype or tensor.dtype)
    model.load_state_dict(filled, assign=True)
    _renew(model, report.renewed)


def _hint(name: str) -> str:
    return "; num_labels= gives a new head" if name.startswith("head.") else ""


def _lacking(opened: Opened, lacking: Sequence[str]) -> str:
    parts = sorted({name.split(".")[0] for name in lacking})
    shown = ", ".join(lacking[:6]) + (f", and {len(lacking) - 6} more" if len(lacking) > 6 else "")
    names = ", ".join(f'"{part}"' for part in parts)
    hint = "" if "encoder" in parts else f"; pass new=({names},) to start them anew"
    if parts == ["head"]:
        hint += ", or num_labels="
    return f"{opened.source.weights}: {len(lacking)} tensors are missing: {shown}{hint}"


def _renew(model: "Pretrained", parts: Sequence[str]) -> None:
    from hierax.init import init_weights

    mae = any(name.startswith("decoder.") for name, _ in model.named_parameters())
    for part in parts:
        module = model.get_submodule(part)
        init_weights(module, model.config, mae=mae, name=part)
        if part == "norms":
            for norm in module.children():
                torch.nn.init.ones_(norm.get_parameter("weight"))
                torch.nn.init.zeros_(norm.get_parameter("bias"))


def _resized_positions(
    opened: Opened, config: HieraConfig, tensors: Mapping[str, Tensor], report: LoadingReport
) -> dict[str, Tensor]:
    """The file's position embeddings at the native size of `config`, where that is another."""
    native = opened.config
    if native.image_size == config.image_size or native.axes != config.axes:
        return {}
    resized: dict[str, Tensor] = {}
    for prefix, make in (("encoder.pos_embed", position_embedding), ("decoder.pos_embed", DecoderPosition)):
        own = {n[len(prefix) + 1 :]: t for n, t in tensors.items() if n.startswith(prefix + ".")}
        with torch.device("meta"):
            table, target = make(native.replace(position_resize=config.position_resize)), make(config)
        shapes = {name: p.shape for name, p in table.named_parameters()}
        if not own or {name: t.shape for name, t in own.items()} != shapes or "window" in own:
            continue  # what does not fit is reported with the other shapes; abs-win follows any size by itself
        table.load_state_dict(own, assign=True)
        before, after = table.grid, target.grid
        table.resize_(after)  # type: ignore[operator]  # AbsolutePosition, SeparablePosition or DecoderPosition
        resized |= {f"{prefix}.{name}": p.detach() for name, p in table.named_parameters()}
        report.resized.append(f"{prefix} {'x'.join(map(str, before))} -> {'x'.join(map(str, after))}")  # type: ignore[arg-type]
    return resized


def _preprocessing(opened: Opened) -> "Preprocessing":
    """The checkpoint's record; where it has none, that of the published weights of its kind, for its native size."""
    return preprocessing_of(opened.source, opened.config)


def preprocessing_of(source: Source, config: HieraConfig | None) -> "Preprocessing":
    """The record in a checkpoint's files, timm's record, or the convention of its kind of input."""
    from hierax.processing import IMAGENET, KINETICS, Preprocessing

    if source.processor is not None:
        return Preprocessing.from_dict(source.processor)
    record = (source.config or {}).get("pretrained_cfg") or (config.extra.get(KEPT, {}) if config else {}).get(
        "pretrained_cfg"
    )
    if record:
        return Preprocessing.from_timm(record)
    video = config.axes == 3 if config else len((source.config or {}).get("input_size", ())) == 3
    return KINETICS if video else IMAGENET


def load_preprocessing(
    source: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> "Preprocessing":
    """The preprocessing record of a checkpoint: its own, or the published one of its kind.

    Raises:
        OSError: the file or the Hub cannot be reached.
        ValueError: a record with a bad value; names the field.
    """
    found = locate(source, HubOptions(revision, cache_dir, token, local_files_only), weights=False)
    if found.weights is not None and found.processor is None and found.config is None:
        return preprocessing_of(found, open_checkpoint(source, HubOptions()).config)
    return preprocessing_of(found, None)


def load(
    source: str | Path,
    *,
    task: str | None = None,
    variant: str | None = None,
    num_labels: int | None = None,
    new: Collection[str] = (),
    image_size: int | Sequence[int] | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    **overrides: Any,
) -> "Pretrained":
    """A checkpoint as the model it is: a classifier if it has a head, a MAE model if a decoder, else `HieraModel`.

    Args:
        source: a Hub id, a folder, or a file.
        task: "features", "backbone", "classification", "video-classification" or "mae" instead.

    The other arguments and the errors are those of `Pretrained.from_pretrained`.
    """
    from hierax.models import TASKS

    if task is not None and task not in TASKS:
        raise ValueError(f"task is {task!r}; expected one of {', '.join(TASKS)}")
    hub = HubOptions(revision, cache_dir, token, local_files_only)
    opened = open_checkpoint(source, hub, variant)
    found = task or _task_of(opened, renewed_head=num_labels is not None)
    norms = any(name.startswith("norms.") for name in opened.tensors)
    with building(**({"norms": norms} if found == "backbone" else {})):
        return load_model(
            TASKS[found],
            source,
            num_labels=num_labels,
            new=new,
            image_size=image_size,
            dtype=dtype,
            device=device,
            overrides=overrides,
            opened=opened,
        )


def _task_of(opened: Opened, *, renewed_head: bool) -> str:
    """What a checkpoint is, by its tensors; where they leave it open, by the class its configuration names."""
    parts = {name.split(".")[0] for name in opened.tensors}
    if "head" in parts or renewed_head:
        return "video-classification" if opened.config.axes == 3 else "classification"
    if "decoder" in parts:
        return "mae"
    stated = (opened.config.extra.get("architectures") or [None])[0]
    backbone = "norm" not in parts and stated == ARCHITECTURES["backbone"]
    return "backbone" if "norms" in parts or backbone else "features"
