"""Opens adapters: folders that PEFT writes, with small matrices that change a base model (LoRA).

The base model is opened too, and the matrices are added to its weights. So an opened adapter is a checkpoint as any
other. PEFT is not needed.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hierax.checkpoint.bundled import bundled_folder
from hierax.checkpoint.dialects.dialect import Dialect
from hierax.checkpoint.files import ADAPTER_CONFIG, PROCESSOR, Source, is_adapter, locate, read_json, read_named
from hierax.checkpoint.filling import fit_channels, part_of, resize_positions
from hierax.checkpoint.hub import HubOptions
from hierax.checkpoint.inflation import inflate_for_videos
from hierax.checkpoint.lora import Adapter, adapter_of, add_layer
from hierax.checkpoint.opened import READ, Checkpoint, read_checkpoint
from hierax.checkpoint.report import LoadingReport
from hierax.digests import tensors_digest
from hierax.model.config import HieraConfig
from hierax.model.registry import TASKS

ROOT = "base_model.model."
"""What PEFT writes before all names."""
_BASE = "base_model_name_or_path"
_OTHER_KINDS = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "arrow_config": "Arrow",
    "alora_invocation_tokens": "aLoRA",
    "layer_replication": "replicated layers",
    "trainable_token_indices": "trained tokens",
    "target_parameters": "adapted parameters",
}
"""Fields of PEFT's configuration, and what they switch on."""
_KEEPS_BASE = (True, False, "gaussian", "eva", "orthogonal", None)
"""Kinds of initialization that leave the base model as it is."""
_NAME = re.compile(r"\^?[\w.]+")


@dataclass(frozen=True)
class _Settings:
    """What `adapter_config.json` states.

    Attributes:
        path: the file.
        base, revision: the base model, and its revision on the Hub.
        alpha, alphas: the numerator of the scale, and other values for some layers.
        by_root: whether the denominator is the root of the rank.
    """

    path: Path
    base: str | None
    revision: str | None
    alpha: float
    alphas: Mapping[str, float]
    by_root: bool

    def scale(self, layer: str, rank: int) -> float:
        """The scale of a layer, by its name in the file."""
        fits = (alpha for name, alpha in self.alphas.items() if _is_named(layer, name))
        return next(fits, self.alpha) / (math.sqrt(rank) if self.by_root else rank)


def _is_named(layer: str, pattern: str) -> bool:
    """Whether a name in `alpha_pattern` means this layer: the end of its name, or with ^ the whole name."""
    return layer == pattern.removeprefix("^") or (pattern[0] != "^" and layer.endswith(f".{pattern}"))


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _read_settings(folder: Path) -> _Settings:
    """The settings of the adapter in a folder.

    Raises:
        ValueError: the file is missing or damaged, or the adapter is of another kind than LoRA; the message names it.
    """
    path = folder / ADAPTER_CONFIG
    file = read_json(path)
    if file is None:
        raise ValueError(f"{path}: is missing; it states the scale of the adapter and its base model")
    values = file.values
    kind = str(values.get("peft_type"))
    others = [text for name, text in _OTHER_KINDS.items() if values.get(name)]
    if values.get("init_lora_weights", True) not in _KEEPS_BASE:
        others.append(f"init_lora_weights {values['init_lora_weights']!r}, which changes the base model")
    if kind != "LORA" or others:
        what = ", ".join(others) if kind == "LORA" else f"peft_type {kind!r}"
        raise ValueError(
            f"{path}: the adapter has {what}; hierax opens plain LoRA, so merge it with merge_and_unload of peft first"
        )
    alphas, base, revision = values.get("alpha_pattern") or {}, values.get(_BASE), values.get("revision")
    alpha = values.get("lora_alpha", 8)
    if not _number(alpha):
        raise ValueError(f"{path}: lora_alpha is {alpha!r:.80}; expected a number")
    if not isinstance(alphas, dict) or not all(_NAME.fullmatch(k) and _number(v) for k, v in alphas.items()):
        raise ValueError(f"{path}: alpha_pattern is {alphas!r:.80}; expected names of layers with a number each")
    for name, text in ((_BASE, base), ("revision", revision)):
        if text is not None and not isinstance(text, str):
            raise ValueError(f"{path}: {name} is {text!r:.80}; expected a text")
    return _Settings(path, base or None, revision, float(alpha), alphas, bool(values.get("use_rslora")))


def open_adapter(
    found: Source,
    hub: HubOptions,
    base: str | os.PathLike[str] | Checkpoint | None = None,
    *,
    variant: str | None = None,
    part: str | None = None,
    config: HieraConfig | None = None,
) -> Checkpoint:
    """The checkpoint of the model that an adapter and its base model are together, in float32.

    Args:
        found: the files of the adapter.
        hub: the options for the Hub, for the base model.
        base: the base model; None is the one that the adapter names.
        variant, part: see `open_checkpoint`; they are for the base model.
        config: the configuration to use instead of that of the adapter or of the base model.

    Raises:
        ValueError: the adapter is damaged, of another kind, or was not made for the base model; names the file.
        OSError: the base model cannot be opened; names it.
    """
    assert found.weights is not None
    path = found.weights
    settings = _read_settings(path.parent)
    tensors, notes = read_named(path)
    try:
        adapter = adapter_of({name.removeprefix(ROOT): tensor for name, tensor in tensors.items()})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    opened = _open_base(found, settings, hub, base, variant, part)
    ours = _our_names(path, adapter, opened)
    replaced = {part_of(ours[name]) for name in adapter.replaced}
    _check_digest(found, opened, notes, replaced)
    config = config or _config(path, opened, notes, adapter, ours)
    begin = inflate_for_videos(opened, config.image_size) if config.axes == 3 else opened
    merged = _fitted(begin, config, replaced)
    for name, tensor in adapter.replaced.items():
        merged[ours[name]] = tensor.float()
    try:
        for layer, matrices in adapter.layers.items():
            add_layer(merged, ours[layer], matrices, settings.scale(layer, matrices.rank))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    processor = found.processor or read_json(path.parent / PROCESSOR) or opened.source.processor
    source = replace(found, config=None, processor=processor, record=opened.source.record)
    theirs = {name: opened.theirs.get(name, name) for name in merged}
    stated = notes or opened.notes
    return Checkpoint(source, opened.dialect, config, merged, theirs, [], stated, base=opened.name)


def _open_base(
    found: Source,
    settings: _Settings,
    hub: HubOptions,
    base: str | os.PathLike[str] | Checkpoint | None,
    variant: str | None,
    part: str | None,
) -> Checkpoint:
    """The base model that was passed, or the one that the adapter names."""
    given = settings.base if base is None else base
    if given is None:
        raise ValueError(f"{settings.path}: {_BASE} does not name the base model; pass base= (hierax convert --base)")
    if isinstance(given, Checkpoint):
        opened = given
    else:
        place = replace(hub, revision=settings.revision if base is None else None)
        try:
            located = locate(given, place)
            if is_adapter(located.weights):
                _refuse(found.name, located.name)
            opened = read_checkpoint(located, place, variant, part=part)
        except OSError as error:
            reason = str(error).removeprefix(f"{given}: ")
            raise FileNotFoundError(
                f"{found.name}: the adapter needs its base model {given}, which cannot be opened ({reason}); pass "
                "base= (hierax convert --base)"
            ) from None
    if opened.base:
        _refuse(found.name, opened.name)
    return opened


def _refuse(name: str, base: str) -> None:
    raise ValueError(
        f"{name}: its base model {base} is an adapter too; hierax convert {base} -o MODEL writes a model of it"
    )


def _our_names(path: Path, adapter: Adapter, base: Checkpoint) -> dict[str, str]:
    """The names in hierax of the layers and tensors of an adapter. They may be those of any format.

    Raises:
        ValueError: the base model does not have a layer or a tensor; names it.
    """
    known = {*base.tensors, "head.weight", "head.bias", "norm.weight", "norm.bias"}
    known |= {name for name in adapter.replaced if part_of(name) == TASKS["segmentation"].part}
    tried = [_named_by(dialect, adapter, base.config.depths) for dialect in READ]
    unknown = [[key for key, name in names.items() if not _holds(known, name)] for names in tried]
    best = min(range(len(tried)), key=lambda i: len(unknown[i]))
    if unknown[best]:
        raise ValueError(f"{path}: has {unknown[best][0]}, which the base model {base.name} does not have")
    if not tried[best]:
        raise ValueError(f"{path}: has no tensors; expected those of an adapter")
    return {key: name for key, name in tried[best].items() if name is not None}


def _holds(known: set[str], name: str | None) -> bool:
    return name is not None and (name in known or f"{name}.weight" in known)


def _named_by(dialect: Dialect, adapter: Adapter, depths: Sequence[int]) -> dict[str, str | None]:
    """The names in hierax of layers and tensors, if the adapter has the names of this format."""
    names: dict[str, str | None] = {}
    for layer in adapter.layers:
        weight = dialect.ours(f"{layer}.weight", depths)
        names[layer] = weight and weight.removesuffix(".weight")
    return names | {name: dialect.ours(name, depths) for name in adapter.replaced}


def base_digest(opened: Checkpoint, replaced: set[str]) -> str:
    """The digest of the tensors that an adapter takes from its base model: those of encoder and norm, without the parts
    that it replaces. It is the same in every format, and in every precision that holds the values.
    """
    parts = {"encoder", "norm"} - replaced
    return tensors_digest({name: tensor for name, tensor in opened.tensors.items() if part_of(name) in parts})


def _check_digest(found: Source, opened: Checkpoint, notes: Mapping[str, Any], replaced: set[str]) -> None:
    """Raises `ValueError` if the base model is not the one that the adapter was trained on, as far as that is known."""
    stated = notes.get("base")
    expected = stated.get("digest") if isinstance(stated, Mapping) else None
    if expected is None:
        return
    digest = base_digest(opened, replaced)
    if digest != expected:
        raise ValueError(
            f"{found.name}: the adapter was trained on other weights than those of {opened.name} (their digest is "
            f"{digest:.12}, expected {expected:.12})"
        )


def _config(
    path: Path, base: Checkpoint, notes: Mapping[str, Any], adapter: Adapter, ours: Mapping[str, str]
) -> HieraConfig:
    """The configuration that hierax wrote into the adapter, or else that of the base model with the adapter's head."""
    try:
        if notes:
            return HieraConfig.from_dict(notes["config"])
        last = {f"{spec.classifier}.weight" for spec in TASKS.values() if spec.labels}
        heads = [tensor for name, tensor in adapter.replaced.items() if ours[name] in last]
        labels = len(heads[0]) if heads else base.config.num_labels
        if labels == base.config.num_labels:
            return base.config
        beside = read_json(path.parent / "config.json")
        names = (beside.values.get("id2label") if beside else None) or {}
        fits = isinstance(names, dict) and len(names) == labels
        named = {int(i): str(name) for i, name in names.items()} if fits else {i: f"LABEL_{i}" for i in range(labels)}
        return base.config.replace(num_labels=labels, id2label=named)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _fitted(base: Checkpoint, config: HieraConfig, replaced: set[str]) -> dict[str, Tensor]:
    """The tensors of the base model in float32, for the size and the channels of `config`. If the adapter has
    `replaced` the head of a task, the model is for that task: without the decoder of an MAE, or another head.
    """
    report = LoadingReport(base.name, base.dialect.name)
    task = next((spec for spec in TASKS.values() if spec.labels and spec.part in replaced), None)
    parts = base.parts if task is None else {"encoder", *task.parts}
    tensors = {n: t.float() for n, t in base.tensors.items() if part_of(n) in parts}
    tensors |= resize_positions(base, config, tensors, torch.float32, report)
    return tensors | fit_channels(base, config, tensors, report)


def name_of_base(opened: Checkpoint) -> str:
    """The name by which an adapter names its base model: an id, or the absolute path of a folder or file."""
    source = opened.source
    if source.record is not None and bundled_folder(source.record.hub_id) is not None:
        return source.record.hub_id
    if source.repository is not None:
        return source.repository
    assert source.weights is not None
    at = source.weights
    beside = at.name.startswith(("model.safetensors", "pytorch_model.bin")) and source.config is not None
    return os.path.abspath(at.parent if beside else at)
