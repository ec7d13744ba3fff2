"""Copies the tensors of a file into a model, and reports tensors that are missing, new or of another shape."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hierax.advice import did_you_mean
from hierax.checkpoint.adaptation import for_channels
from hierax.checkpoint.dialects.shapes import PATCH
from hierax.checkpoint.opened import Checkpoint
from hierax.checkpoint.report import LoadingReport, join_names
from hierax.checkpoint.values import check_values
from hierax.model.config import HieraConfig
from hierax.model.layers import init_weights
from hierax.model.positions import DecoderPosition, position_embedding
from hierax.model.registry import TaskSpec, known_parts

if TYPE_CHECKING:
    from hierax.model.pretrained import Pretrained


@dataclass(frozen=True)
class CopyOptions:
    """How tensors are copied into a model.

    Attributes:
        dtype: dtype of the model; None: that of the file.
        device: device of the model.
        ignore_mismatched_sizes: if a tensor has another shape in the file, its module gets random weights.
        copy: copy the tensors, because more models may be made of them, or their file may be overwritten.
    """

    dtype: torch.dtype | None
    device: torch.device
    ignore_mismatched_sizes: bool = False
    copy: bool = False


def part_of(name: str) -> str:
    """The first part of the name of a tensor."""
    return name.split(".")[0]


def fill(
    model: "Pretrained",
    task: TaskSpec,
    opened: Checkpoint,
    report: LoadingReport,
    reinit: Collection[str],
    options: CopyOptions,
) -> None:
    """Fills a model on the meta device with tensors. Parts and modules in `reinit` get random weights."""
    prefix = task.prefix
    wanted = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    reinitialized = _paths(reinit, [*wanted, *opened.tensors])
    tensors = {name: t for name, t in opened.tensors.items() if not _is_below(name, reinitialized)}
    tensors |= resize_positions(opened, model.config, tensors, options.dtype, report)
    tensors |= fit_channels(opened, model.config, tensors, report)
    _report_ignored(model, opened, wanted, reinitialized, report)
    absent = [name for name in wanted if name not in tensors]
    report.missing = [name for name in absent if name not in opened.tensors]
    lacking = [name for name in report.missing if not _is_below(name, {*reinitialized, "norms"})]
    if lacking:
        raise ValueError(_lacking(opened, lacking, task))
    if options.ignore_mismatched_sizes:
        absent += _mismatched(tensors, wanted, absent)
    drawn = sorted(_modules(absent, wanted))
    report.reinitialized = list(dict.fromkeys("norms" if part_of(path) == "norms" else path for path in drawn))
    own = opened.tensors[PATCH].dtype  # new tensors get the precision of the file
    filled: dict[str, Tensor] = {}
    for name, target in wanted.items():
        tensor = None if name in absent else tensors[name]
        if tensor is None:
            tensor = torch.empty_like(target, device=options.device, dtype=options.dtype or own)
        else:
            _check_tensor(opened, name, tensor, target, options.device, task)
        filled[name.removeprefix(prefix)] = _place(tensor, options)
    read = {name: tensors[name] for name in wanted if name not in absent}
    placed = {name: filled[name.removeprefix(prefix)] for name in read}
    check_values(opened.source.weights, placed, read, opened.theirs)
    model.load_state_dict(filled, assign=True)
    _renew(model, [path.removeprefix(prefix) for path in drawn])


def _place(tensor: Tensor, options: CopyOptions) -> Tensor:
    """The tensor on the device and in the dtype of the model.

    Raises:
        ValueError: PyTorch cannot use the device on this machine; the message names it.
    """
    try:
        return tensor.to(device=options.device, dtype=options.dtype or tensor.dtype, copy=options.copy)
    except (AssertionError, NotImplementedError) as error:  # PyTorch was built without this device
        raise ValueError(f"device is {str(options.device)!r}; {str(error).splitlines()[0]}") from None


def _paths(reinit: Collection[str], names: Collection[str]) -> set[str]:
    """The parts and modules that `reinit` names, as full paths.

    Raises:
        ValueError: the model has no part or module with this name; the message lists the parts.
    """
    found: set[str] = set()
    parts = known_parts()
    for entry in reinit:
        fits = [p for p in (entry, f"encoder.{entry}") if p in parts or any(_is_below(name, {p}) for name in names)]
        if not fits:
            near = did_you_mean(entry, {*parts, *(name.rpartition(".")[0] for name in names)})
            raise ValueError(
                f"reinit names {entry}{near}; expected {', '.join(parts)}, or a module in them, such as 'patch_embed'"
            )
        found.add(fits[0])
    return found


def _is_below(name: str, paths: Collection[str]) -> bool:
    """Whether the name of a tensor is one of these paths, or is inside one of these parts or modules."""
    return any(name == path or name.startswith(f"{path}.") for path in paths)


def _modules(absent: Sequence[str], wanted: Mapping[str, Tensor]) -> set[str]:
    """The parts and modules that get random weights: a whole part if the file has none of its tensors, else modules."""
    gone = set(absent)
    kept = {part_of(name) for name in wanted if name not in gone}
    return {part_of(name) if part_of(name) not in kept else name.rpartition(".")[0] for name in absent}


def _mismatched(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], absent: Sequence[str]) -> list[str]:
    """The tensors of modules in which at least one tensor has another shape in the file."""
    gone = set(absent)
    odd = {n.rpartition(".")[0] for n, t in wanted.items() if n not in gone and tensors[n].shape != t.shape}
    return [name for name in wanted if name.rpartition(".")[0] in odd and name not in gone]


def _report_ignored(
    model: "Pretrained",
    opened: Checkpoint,
    wanted: Mapping[str, Tensor],
    reinitialized: Collection[str],
    report: LoadingReport,
) -> None:
    """Reports tensors of parts that the model does not have. An unknown tensor in a part that it has is an error."""
    has = {part_of(name) for name in wanted}
    unbuilt = {".".join(name.split(".")[:3]) for name in opened.tensors if model.leaves_out(name)}
    report.ignored = sorted(opened.parts - has) + sorted(unbuilt, key=lambda name: int(name.split(".")[-1]))
    known = [name for name in opened.tensors if not model.leaves_out(name) and part_of(name) in has - {"norms"}]
    over = [opened.theirs[name] for name in known if name not in wanted and not _is_below(name, reinitialized)]
    if over:  # the file and its configuration do not belong together
        parts = {part_of(name) for name in known if name not in wanted}
        part = min(parts)
        hint = f"; pass reinit=({part!r},) for random weights" if parts == {part} != {"encoder"} else ""
        raise ValueError(f"{opened.source.weights}: the configuration has no place for {join_names(over, 6)}{hint}")


def _check_tensor(
    opened: Checkpoint, name: str, tensor: Tensor, target: Tensor, device: torch.device, task: TaskSpec
) -> None:
    where = f"{opened.source.weights}: {opened.theirs[name]}"
    if tensor.shape != target.shape:
        module = name.rpartition(".")[0]
        of_labels = task.labels and _is_below(module, {task.classifier})
        hint = f"reinit=({module!r},) gives it random weights"
        if of_labels and tensor.ndim and len(tensor):
            hint = f"num_labels={len(tensor)} loads it, num_labels= with another number gives a new head"
        raise ValueError(f"{where} has shape {list(tensor.shape)}; expected {list(target.shape)}; {hint}")
    if not tensor.is_floating_point():
        raise ValueError(f"{where} has dtype {tensor.dtype}; expected floating-point weights")
    if tensor.layout is not torch.strided or (tensor.is_meta and device.type != "meta"):
        raise ValueError(f"{where} is a {tensor.layout} tensor on {tensor.device}; expected plain weights in memory")


def _lacking(opened: Checkpoint, lacking: Sequence[str], task: TaskSpec) -> str:
    parts = sorted({part_of(name) for name in lacking})
    count = "1 tensor is missing" if len(lacking) == 1 else f"{len(lacking)} tensors are missing"
    message = f"{opened.source.weights}: {count}: {join_names(lacking, 6)}"
    if "encoder" in parts:
        return message
    names = ", ".join(repr(part) for part in parts)
    or_labels = ", or num_labels=" if task.labels and parts == [task.part] else ""
    other = f" (the file is for {opened.task})" if opened.task != task.name else ""
    return f"{message}{other}; pass reinit=({names},) for random weights{or_labels}"


def _renew(model: "Pretrained", paths: Sequence[str]) -> None:
    """Gives these parts and modules random weights."""
    mae = any(name.startswith("decoder.") for name, _ in model.named_parameters())
    for path in paths:
        modules = model.get_submodule(path)
        if part_of(path) == "norms":  # as in transformers
            for norm in modules.modules():
                if isinstance(norm, nn.LayerNorm):
                    nn.init.ones_(norm.weight)
                    nn.init.zeros_(norm.bias)
        else:
            init_weights(modules, model.config, mae=mae, name=path)


def fit_channels(
    opened: Checkpoint, config: HieraConfig, tensors: Mapping[str, Tensor], report: LoadingReport
) -> dict[str, Tensor]:
    """The weight of the patch embedding for the channels of `config`, if the file has another number of channels."""
    own, channels, weight = opened.config.num_channels, config.num_channels, tensors.get(PATCH)
    if own == channels or weight is None or weight.ndim < 3 or weight.shape[1] != own:
        return {}
    report.resized.append(f"{PATCH.rpartition('.')[0]} {own} -> {channels} channels, each the mean")
    return {PATCH: for_channels(weight, channels)}


def resize_positions(
    opened: Checkpoint,
    config: HieraConfig,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None,
    report: LoadingReport,
) -> dict[str, Tensor]:
    """The position embeddings of the file, resized to the native size of `config` if it differs."""
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
            continue  # wrong shapes are reported later; abs-win embeddings fit any size
        table.load_state_dict({name: t.to(dtype or t.dtype) for name, t in own.items()}, assign=True)
        before, after = table.grid, target.grid
        if before == after:
            continue
        table.resize_(after)  # type: ignore[operator]  # AbsolutePosition, SeparablePosition or DecoderPosition
        tables |= {f"{prefix}.{name}": p.detach() for name, p in table.named_parameters()}
        report.resized.append(f"{prefix} {'x'.join(map(str, before))} -> {'x'.join(map(str, after))}")  # type: ignore[arg-type]
    return tables
