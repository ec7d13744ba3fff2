"""A model in one line, and as a table: what it is, how large it is, and where its weights are."""

import sys
from collections.abc import Iterator
from typing import Any

from torch import nn

from hierax.console import quantity
from hierax.model.config import HieraConfig
from hierax.model.variants import VARIANTS
from hierax.reprs.markup import Cell, card, table

_TELLING: dict[str, Any] = {
    "embed_dim": None, "num_heads": None, "depths": None, "window_sizes": None, "global_blocks": (),
    "position_embedding": "absolute", "pooled_shortcut": False,
}  # fmt: skip
"""The fields by which variants differ, with their defaults."""


def variant_of(config: HieraConfig) -> str | None:
    """The name of the variant with the architecture of `config`, of any native size and task, or None."""
    for name, fields in VARIANTS.items():
        same = all(getattr(config, key) == fields.get(key, default) for key, default in _TELLING.items())
        if same and len(fields.get("image_size", (224, 224))) == config.axes and not name.startswith("mae_"):
            return name
    return None


def within_a_tree() -> bool:
    """Whether the `repr` that asks is called by PyTorch, which prints the tree of a module with this one in it."""
    asking = 3  # frames from here: the `repr`, the guard around it, and its caller
    return sys._getframe(asking).f_globals.get("__name__", "").startswith("torch.nn.modules.")


def model_text(model: Any) -> str:
    """The class, the variant, the source, and the facts of a model in one line."""
    origin = f"{variant_of(model.config) or 'an architecture without a name'}"
    if model.name_or_path:
        origin += f" from {model.name_or_path!r:.200}"
    return f"{type(model).__name__}({', '.join((origin, *(fact for _, fact in _facts(model))))})"


def model_html(model: Any) -> str:
    """A table of the facts, and one of the stages."""
    config: HieraConfig = model.config
    facts: list[tuple[str, Cell]] = [("architecture", variant_of(config) or "without a name")]
    facts += [("source", model.name_or_path)] if model.name_or_path else []
    facts += list(_facts(model))
    if "head" in model._modules or "segmentation" in model._modules:
        names = list(config.id2label.values())
        facts.append(("labels", ", ".join(names[:8]) + (", …" if len(names) > 8 else "")))
    stages = [
        (f"stage {i + 1}", config.depths[i], config.dims[i], config.num_heads[i], _by(config.stage_stride(i)))
        for i in range(config.stages)
    ]
    return card(
        type(model).__name__,
        table((), facts),
        table(("", "blocks", "channels", "heads", "pixels per token"), stages),
        note="print(model) shows its modules",
    )


def _facts(model: nn.Module) -> Iterator[tuple[str, str]]:
    config: HieraConfig = model.config  # type: ignore[assignment]
    parameters = list(model.parameters())
    count, trained = sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)
    some = "" if trained in (0, count) else f", {_number(trained)} of them trained"
    yield "size", f"{_number(count)} parameters{some}"
    yield (
        "input",
        f"{_by(config.image_size)} pixels" + ("" if config.num_channels == 3 else f", {config.num_channels} channels"),
    )
    parts = model._modules
    if "head" in parts or "segmentation" in parts:
        yield "task", quantity(config.num_labels, "class") + (" for each pixel" if "segmentation" in parts else "")
    elif "decoder" in parts:
        yield "task", f"decoder of {config.decoder_depth} blocks, {config.mask_ratio:.0%} masked".replace("%", " %")
    elif "pyramid" in parts or "norms" in parts:
        yield "task", f"maps of {', '.join(config.map_names)}"
    yield "license", getattr(model, "license", None) or "no license stated"
    kinds = {f"{str(p.dtype).removeprefix('torch.')} on {p.device}": None for p in parameters}
    yield "weights", " and ".join(list(kinds)[:3]) or "no weights"
    if model.training:
        yield "mode", "in training mode"


def _number(count: int) -> str:
    return f"{count / 1e6:,.1f} M" if count >= 1e5 else f"{count:,}"


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
