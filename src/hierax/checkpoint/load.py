"""Loads a source of any format into a model of any task, with a report."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import torch

from hierax.checkpoint.adaptation import read_overrides, record_for_channels
from hierax.checkpoint.filling import CopyOptions, fill
from hierax.checkpoint.hub import HubOptions
from hierax.checkpoint.opened import Checkpoint, as_checkpoint
from hierax.checkpoint.preprocessing import resize_record
from hierax.checkpoint.report import LoadingReport
from hierax.checkpoint.windowed import changed_fields, with_windows
from hierax.model.config import HieraConfig
from hierax.model.pretrained import require_config
from hierax.model.registry import TASKS, TaskSpec, task_named, task_of, task_of_parts
from hierax.transformers_arguments import token_of

if TYPE_CHECKING:
    from hierax.model.pretrained import Pretrained
    from hierax.model.segmentation import HieraForSemanticSegmentation
    from hierax.model.tasks import (
        HieraBackbone,
        HieraForImageClassification,
        HieraForPreTraining,
        HieraForVideoClassification,
        HieraModel,
    )
    from hierax.processing import Preprocessing

    Model = TypeVar("Model", bound=Pretrained)

Source = str | os.PathLike[str] | Checkpoint


def load_model(
    cls: "type[Model]",
    source: Source,
    *,
    variant: str | None = None,
    num_labels: int | None = None,
    reinit: Collection[str] = (),
    image_size: int | Sequence[int] | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    part: str | None = None,
    config: HieraConfig | None = None,
    base: Source | None = None,
    ignore_mismatched_sizes: bool = False,
    windows: str | None = None,
    hub: HubOptions | None = None,
    overrides: Mapping[str, Any] = MappingProxyType({}),
    copy: bool = True,
) -> "Model":
    """See `Pretrained.from_pretrained`.

    Args:
        source: the source; an open checkpoint is not read again.
        overrides: fields of the configuration, and arguments of the constructor.
        copy: a model of an open checkpoint gets a copy of the tensors, because the checkpoint may be used again.
    """
    if config is not None:
        require_config(config)
    others = dict(overrides)
    reinit = others.pop("new", reinit)  # its former name
    built_with = {name: others.pop(name) for name in cls.constructor_arguments if name in others}
    hub = hub or HubOptions()
    hub = replace(hub, token=token_of(others, hub.token))
    asked = read_overrides(others, dtype=dtype, device=device)
    reinitialized = {reinit} if isinstance(reinit, str) else set(reinit)
    given = asked.fields
    if num_labels is not None:
        given["num_labels"] = num_labels
    if image_size is not None:
        given["image_size"] = image_size
    read = as_checkpoint(source, hub, variant, part=part, config=config, base=base)
    checkpoint = read if windows is None else with_windows(read, windows)
    task = task_of(cls)
    if given.get("num_labels") is not None:
        head = task.reinitialized_for_labels(checkpoint.parts, checkpoint.config, given)
        if not _has_head(checkpoint, task, head, given["num_labels"]):
            reinitialized.add(head)
        if task.labels and {*reinitialized} & {task.part, task.classifier}:
            given.setdefault("problem_type", None)  # it was that of the former labels
    report = LoadingReport(
        checkpoint.name,
        checkpoint.dialect.name,
        checkpoint.part,
        list(checkpoint.others),
        checkpoint.prefix,
        unexpected=list(checkpoint.unexpected),
        base=checkpoint.base,
        changed=changed_fields(read.config, checkpoint.config),
        left_out=list(checkpoint.left_out),
    )
    made = _task_config(task, checkpoint, report, given)
    model = _built(cls, made, checkpoint, built_with)
    copied = (copy and read is source) or _may_be_overwritten(read.source.weights)
    copying = CopyOptions(asked.dtype, asked.device, ignore_mismatched_sizes, copy=copied)
    fill(model, task, checkpoint, report, reinitialized, copying)
    for name, value in asked.outputs.items():
        setattr(model.config, name, value)
    model.loading_report = report
    model.preprocessing = _preprocessing_for(made, checkpoint)
    return model.eval()


def _has_head(opened: Checkpoint, task: TaskSpec, head: str, labels: int) -> bool:
    """Whether the checkpoint has the last layer of a head with this number of labels, and `head` names this layer."""
    last = [tensor for name, tensor in opened.tensors.items() if name.startswith(f"{head}.")]
    return task.labels and head == task.classifier and bool(last) and all(t.shape[:1] == (labels,) for t in last)


def _may_be_overwritten(weights: Path | None) -> bool:
    """Whether tensors that are mapped from a file must be copied. `torch.save` writes into the file that it replaces,
    so a script that saves a model to the file it was read from would lose both, and be killed (SIGBUS). Writers of
    safetensors make a new file.
    """
    return weights is not None and weights.is_file() and ".safetensors" not in weights.name


def _preprocessing_for(config: HieraConfig, opened: Checkpoint) -> "Preprocessing | None":
    """The checkpoint's record, for the channels and the size of the model."""
    record = opened.preprocessing
    if record and config.num_channels != opened.config.num_channels:
        record = record_for_channels(record, config.num_channels)
    return record and resize_record(record, opened.config, config)


def load_config(source: Source, hub: HubOptions, overrides: Mapping[str, Any]) -> HieraConfig:
    """See `HieraConfig.from_pretrained`."""
    given = dict(overrides)
    hub = replace(hub, token=token_of(given, hub.token))
    asked = read_overrides(given)
    config = as_checkpoint(source, hub).config.replace(**asked.fields)
    for name, value in asked.outputs.items():
        setattr(config, name, value)
    return config


def _built(cls: "type[Model]", config: HieraConfig, opened: Checkpoint, arguments: Mapping[str, Any]) -> "Model":
    """Creates the model without weights. On the meta device, this needs no memory and no random numbers."""
    where = opened.source.config.path if opened.source.config else opened.source.weights
    count = len(opened.tensors)
    for name, blocks in {"depths": sum(config.depths), "decoder_depth": config.decoder_depth}.items():
        if blocks > max(count, 1000) and (
            name == "depths" or "decoder" in opened.parts
        ):  # building these would take forever
            raise ValueError(f"{where}: {name} is {getattr(config, name)}, but the file has only {count} tensors")
    try:
        with torch.device("meta"):
            return cls(config, **arguments)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        line = str(error).splitlines()[0]
        absurd = not isinstance(error, ValueError) or "verflow" in line  # errors of PyTorch for huge sizes
        raise ValueError(f"{where}: {f'impossible sizes ({line})' if absurd else line}") from None


def _task_config(task: TaskSpec, opened: Checkpoint, report: LoadingReport, given: Mapping[str, Any]) -> HieraConfig:
    """The configuration of the file, with the changes that the task and the caller need.

    The last stage of a classifier is pooled, that of an MAE is not. If a checkpoint of the other kind is opened, the
    number of poolings changes.
    """
    before, changes = opened.config, dict(given)
    alike = any(spec.pools_last == task.pools_last and spec.part in opened.parts for spec in TASKS.values())
    if "num_query_pool" not in changes and task.pools_last is not None and not alike:
        fewer = min(before.num_query_pool, max(before.stages - 2, 0))
        changes["num_query_pool"] = _most_poolings(before) if task.pools_last else fewer
    after = before.replace(**changes)
    for name in changes:
        old, new = getattr(before, name), getattr(after, name)
        if old != new and name != "id2label":
            report.changed.append(f"{name} {old} -> {new}")
    return after


def _most_poolings(config: HieraConfig) -> int:
    """The maximum number of poolings that the mask unit allows."""
    units = tuple(zip(config.masked_unit_size, config.query_stride, strict=True))
    return max(n for n in range(config.stages) if all(unit % stride**n == 0 for unit, stride in units))


@overload
def load(source: Source, *, task: Literal["features"], **options: Any) -> "HieraModel": ...


@overload
def load(source: Source, *, task: Literal["backbone"], **options: Any) -> "HieraBackbone": ...


@overload
def load(source: Source, *, task: Literal["classification"], **options: Any) -> "HieraForImageClassification": ...


@overload
def load(source: Source, *, task: Literal["video-classification"], **options: Any) -> "HieraForVideoClassification": ...


@overload
def load(source: Source, *, task: Literal["segmentation"], **options: Any) -> "HieraForSemanticSegmentation": ...


@overload
def load(source: Source, *, task: Literal["mae"], **options: Any) -> "HieraForPreTraining": ...


@overload
def load(source: Source, *, task: str | None = None, **options: Any) -> "Pretrained": ...


def load(
    source: Source,
    *,
    task: str | None = None,
    variant: str | None = None,
    num_labels: int | None = None,
    reinit: Collection[str] = (),
    part: str | None = None,
    config: HieraConfig | None = None,
    base: Source | None = None,
    ignore_mismatched_sizes: bool = False,
    image_size: int | Sequence[int] | None = None,
    windows: str | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    **overrides: Any,
) -> "Pretrained":
    """Loads a checkpoint. The other arguments and the errors are those of `Pretrained.from_pretrained`.

    Args:
        source: a Hub id, a folder, or a file; "hierax/femto" and "hierax/femto.mae" are part of hierax.
        task: "features", "backbone", "classification", "video-classification", "segmentation" or "mae"; None: see
            below.

    Returns:
        The model for the task. Without a task: a classifier if the checkpoint has a head, a segmentation model if it
            has a head for it, an MAE model if it has a decoder, otherwise a `HieraModel`.
    """
    given = None if task is None else task_named(task)  # an unknown task is an error before anything is read
    hub = HubOptions(revision, cache_dir, token_of(overrides, token), local_files_only)
    checkpoint = as_checkpoint(source, hub, variant, part=part, config=config, base=base)
    new_head = num_labels is not None or bool(overrides.get("num_classes"))  # its name in timm
    spec = given or detect_task(checkpoint, new_head=new_head)
    return load_model(
        spec.cls,
        checkpoint,
        num_labels=num_labels,
        reinit=reinit,
        ignore_mismatched_sizes=ignore_mismatched_sizes,
        image_size=image_size,
        windows=windows,
        dtype=dtype,
        device=device,
        overrides={**spec.constructor_arguments(checkpoint.parts), **overrides},
        copy=checkpoint is source,
    )


def detect_task(opened: Checkpoint, *, new_head: bool = False) -> TaskSpec:
    """The task of a checkpoint, from its tensors; if they are ambiguous, from the class in its configuration."""
    has_head = any(spec.labels and spec.part in opened.parts for spec in TASKS.values())
    return task_of_parts({*opened.parts, *(("head",) if new_head and not has_head else ())}, opened.config)
