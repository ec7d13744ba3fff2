"""Loading: a source of any dialect into a model of any task, with a report of what was found."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from hierax.checkpoint.dialect import PARTS
from hierax.checkpoint.hub import HubOptions
from hierax.checkpoint.opened import Opened, open_checkpoint
from hierax.checkpoint.preprocessing import preprocessing_of, resized
from hierax.checkpoint.shapes import PATCH
from hierax.checkpoint.transformers import ARCHITECTURES
from hierax.config import HieraConfig
from hierax.devices import find_device
from hierax.positions import DecoderPosition, position_embedding

if TYPE_CHECKING:
    from hierax.pretrained import Pretrained

    Model = TypeVar("Model", bound=Pretrained)

_BUILDING: ContextVar[Mapping[str, Any]] = ContextVar("building", default={})  # noqa: B039  (never mutated)


@dataclass
class LoadingReport:
    """What loading found.

    Attributes:
        source, dialect: where the weights came from, and whose names they had.
        missing: our names of tensors that the file lacks; they belong to parts in `renewed`.
        unexpected: names in the file that belong to no part of Hiera.
        ignored: parts in the file that this model does not have, also blocks after a backbone's last map.
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
                lines.append(f"  {name}: {_listed(entries, 8)}")
        return "\n".join(lines)


def _listed(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")


def _part(name: str) -> str:
    return name.split(".")[0]


def task_of(cls: type) -> str:
    """The task of a model class or of its nearest base that has one: "features", "classification", "encoder", …"""
    tasks = {name: task for task, name in ARCHITECTURES.items()}
    return next(tasks[base.__name__] for base in cls.__mro__ if base.__name__ in tasks)


@contextmanager
def building(**arguments: Any) -> Iterator[None]:
    """Arguments for the constructor of the model that `load_model` builds inside this context."""
    token = _BUILDING.set(arguments)
    try:
        yield
    finally:
        _BUILDING.reset(token)


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
    precision, target = _precision(dtype), _device(device)
    renewed = {new} if isinstance(new, str) else set(new)
    unknown = renewed - set(PARTS)
    if unknown:
        raise ValueError(f"new names {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}")
    given = dict(overrides or {})
    if num_labels is not None:
        renewed.add("head")
        given["num_labels"] = num_labels
    if image_size is not None:
        given["image_size"] = image_size
    opened = opened or open_checkpoint(source, hub or HubOptions(), variant)
    report = LoadingReport(opened.source.name, opened.dialect.name, unexpected=list(opened.unexpected))
    config = _task_config(task_of(cls), opened, report, given)
    model = _built(cls, config, opened)
    _fill(model, opened, report, renewed, precision, target)
    model.loading_report = report
    record = preprocessing_of(opened)
    model.preprocessing = record and resized(record, opened.config, config)
    return model.eval()


def _built(cls: "type[Model]", config: HieraConfig, opened: Opened) -> "Model":
    """The model without weights: on the meta device nothing is drawn and nothing takes memory."""
    where = opened.source.config.path if opened.source.config else opened.source.weights
    count = len(opened.tensors)
    for name, blocks in {"depths": sum(config.depths), "decoder_depth": config.decoder_depth}.items():
        if blocks > max(count, 1000) and (
            name == "depths" or "decoder" in opened.parts
        ):  # building these would take forever
            raise ValueError(f"{where}: {name} is {getattr(config, name)}, but the file has only {count} tensors")
    try:
        with torch.device("meta"):
            return cls(config, **_BUILDING.get())
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        line = str(error).splitlines()[0]
        absurd = not isinstance(error, ValueError) or "verflow" in line  # PyTorch's ways of saying so
        raise ValueError(f"{where}: {f'sizes beyond all bounds ({line})' if absurd else line}") from None


def _precision(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The dtype asked for; None for that of the file."""
    if dtype is None or dtype == "auto":
        return torch.float32 if dtype is None else None
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype is {dtype!r}; expected a floating-point dtype, its name, or 'auto'")
    return found


def _device(device: torch.device | str | None) -> torch.device:
    return torch.device("meta") if str(device) == "meta" else find_device(device or "cpu")


def _task_config(task: str, opened: Opened, report: LoadingReport, given: Mapping[str, Any]) -> HieraConfig:
    """The file's configuration as the task and the caller want it.

    A classifier's last stage is pooled, a MAE's is not: opened from the other kind's record, the number changes.
    """
    before, parts, changes = opened.config, opened.parts, dict(given)
    if "num_query_pool" not in changes:
        if "classification" in task and "head" not in parts:
            changes["num_query_pool"] = _most_poolings(before)
        elif task == "mae" and "decoder" not in parts:
            changes["num_query_pool"] = min(before.num_query_pool, max(before.stages - 2, 0))
    after = before.replace(**changes)
    for name in changes:
        old, new = getattr(before, name), getattr(after, name)
        if old != new and name != "id2label":
            report.changed.append(f"{name} {old} -> {new}")
    return after


def _most_poolings(config: HieraConfig) -> int:
    """How many stages the mask unit allows to pool."""
    units = tuple(zip(config.masked_unit_size, config.query_stride, strict=True))
    return max(n for n in range(config.stages) if all(unit % stride**n == 0 for unit, stride in units))


def _fill(
    model: "Pretrained",
    opened: Opened,
    report: LoadingReport,
    renewed: set[str],
    dtype: torch.dtype | None,
    device: torch.device,
) -> None:
    """Puts the tensors into a model on the meta device, and draws the parts that start anew."""
    prefix = "encoder." if task_of(type(model)) == "encoder" else ""  # the encoder alone leaves it out
    wanted = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    tensors = {name: t for name, t in opened.tensors.items() if _part(name) not in renewed}
    tensors |= _resized_positions(opened, model.config, tensors, dtype, report)
    has = {_part(name) for name in wanted}
    unbuilt = {".".join(name.split(".")[:3]) for name in opened.tensors if model.leaves_out(name)}
    report.ignored = sorted(opened.parts - has) + sorted(unbuilt, key=lambda name: int(name.split(".")[-1]))
    known = [name for name in opened.tensors if not model.leaves_out(name)]
    over = [opened.theirs[n] for n in known if _part(n) in has - {"norms"} - renewed and n not in wanted]
    if over:  # the file and its configuration do not belong together
        raise ValueError(f"{opened.source.weights}: the configuration has no place for {_listed(over, 6)}")
    absent = [name for name in wanted if name not in tensors]
    report.missing = [name for name in absent if name not in opened.tensors]
    lacking = [name for name in report.missing if _part(name) not in renewed | {"norms"}]
    if lacking:
        raise ValueError(_lacking(opened, lacking))
    report.renewed = sorted({_part(name) for name in absent})
    own = opened.tensors[PATCH].dtype  # what is new gets the precision of the file
    filled: dict[str, Tensor] = {}
    for name, target in wanted.items():
        tensor = tensors.get(name)
        if tensor is None:
            tensor = torch.empty_like(target, device=device, dtype=dtype or own)
        else:
            _check_tensor(opened, name, tensor, target, device)
        filled[name.removeprefix(prefix)] = tensor.to(device=device, dtype=dtype or tensor.dtype)
    model.load_state_dict(filled, assign=True)
    _renew(model, [name.removeprefix(prefix) for name in absent])


def _check_tensor(opened: Opened, name: str, tensor: Tensor, target: Tensor, device: torch.device) -> None:
    hint = "; num_labels= gives a new head" if name.startswith("head.") else ""
    where = f"{opened.source.weights}: {opened.theirs[name]}"
    if tensor.shape != target.shape:
        raise ValueError(f"{where} has shape {list(tensor.shape)}; expected {list(target.shape)}{hint}")
    if not tensor.is_floating_point():
        raise ValueError(f"{where} has dtype {tensor.dtype}; expected floating-point weights")
    if tensor.layout is not torch.strided or (tensor.is_meta and device.type != "meta"):
        raise ValueError(f"{where} is a {tensor.layout} tensor on {tensor.device}; expected plain weights in memory")


def _lacking(opened: Opened, lacking: Sequence[str]) -> str:
    parts = sorted({_part(name) for name in lacking})
    hint = "" if "encoder" in parts else f"; pass new=({', '.join(repr(part) for part in parts)},) to start them anew"
    if parts == ["head"]:
        hint += ", or num_labels="
    return f"{opened.source.weights}: {len(lacking)} tensors are missing: {_listed(lacking, 6)}{hint}"


def _renew(model: "Pretrained", names: Sequence[str]) -> None:
    """Draws the parameters with these names: whole parts, or of a backbone's norms those that no file has."""
    from hierax.init import init_weights

    mae = any(name.startswith("decoder.") for name, _ in model.named_parameters())
    for path in sorted({name.rsplit(".", 1)[0] if _part(name) == "norms" else _part(name) for name in names}):
        module = model.get_submodule(path)
        if isinstance(module, nn.LayerNorm) and _part(path) == "norms":  # as transformers has them
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        else:
            init_weights(module, model.config, mae=mae, name=path)


def _resized_positions(
    opened: Opened,
    config: HieraConfig,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None,
    report: LoadingReport,
) -> dict[str, Tensor]:
    """The file's position embeddings at the native size of `config`, where that is another."""
    native = opened.config
    if native.image_size == config.image_size or native.axes != config.axes:
        return {}
    tables: dict[str, Tensor] = {}
    for prefix, make in (("encoder.pos_embed", position_embedding), ("decoder.pos_embed", DecoderPosition)):
        own = {n[len(prefix) + 1 :]: t for n, t in tensors.items() if n.startswith(prefix + ".")}
        with torch.device("meta"):
            table, target = make(native.replace(position_resize=config.position_resize)), make(config)
        shapes = {name: p.shape for name, p in table.named_parameters()}
        fits = {n: t.shape for n, t in own.items() if t.is_floating_point()} == shapes
        if not fits or "window" in own or type(table) is not type(target):
            continue  # what does not fit is reported with the other shapes; abs-win follows any size by itself
        table.load_state_dict({name: t.to(dtype or t.dtype) for name, t in own.items()}, assign=True)
        before, after = table.grid, target.grid
        if before == after:
            continue
        table.resize_(after)  # type: ignore[operator]  # AbsolutePosition, SeparablePosition or DecoderPosition
        tables |= {f"{prefix}.{name}": p.detach() for name, p in table.named_parameters()}
        report.resized.append(f"{prefix} {'x'.join(map(str, before))} -> {'x'.join(map(str, after))}")  # type: ignore[arg-type]
    return tables


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
        source: a Hub id, a folder, or a file; "hierax/femto" and "hierax/femto.mae" come with hierax.
        task: "features", "backbone", "classification", "video-classification" or "mae" instead.

    The other arguments and the errors are those of `Pretrained.from_pretrained`.
    """
    from hierax.models import TASKS

    if task is not None and task not in TASKS:
        raise ValueError(f"task is {task!r}; expected one of {', '.join(TASKS)}")
    opened = open_checkpoint(source, HubOptions(revision, cache_dir, token, local_files_only), variant)
    found = task or found_task(opened, renewed_head=num_labels is not None)
    with building(**({"norms": "norms" in opened.parts} if found == "backbone" else {})):
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


def found_task(opened: Opened, *, renewed_head: bool = False) -> str:
    """What a checkpoint is, by its tensors; where they leave it open, by the class its configuration names."""
    parts, named = opened.parts, opened.config.extra.get("architectures")
    stated = next((task for task, name in ARCHITECTURES.items() if isinstance(named, list) and named[:1] == [name]), "")
    if "head" in parts or renewed_head:
        of_its_kind = "video-classification" if opened.config.is_video else "classification"
        return stated if "classification" in stated and "head" in parts else of_its_kind
    if "decoder" in parts:
        return "mae"
    return "backbone" if "norms" in parts or (stated == "backbone" and "norm" not in parts) else "features"
