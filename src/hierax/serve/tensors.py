"""The outputs of the main model as named tensors, for the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from hierax.model.registry import TASKS
from hierax.predict.classify import probabilities
from hierax.predict.inputs import joined

if TYPE_CHECKING:
    from torch import Tensor

    from hierax.engine import Engine
    from hierax.serve.service import Service

_LOGITS = {"logits", "probabilities"}


def tensor_shapes(service: Service) -> dict[str, tuple[int, ...]]:
    """The names of the outputs and their shapes for one image; -1 depends on the size of the input."""
    config, roles = service.models.config, service.models.roles
    shapes: dict[str, tuple[int, ...]] = {}
    if service.models.main == "classification":
        shapes |= {"logits": (config.num_labels,), "probabilities": (config.num_labels,)}
    elif service.models.main == "segmentation":
        shapes["logits"] = (config.num_labels, -1, -1)
    if service.models.checkpoint is not None and {"pooled", "stages"} <= roles:
        shapes["pooler_output"] = (config.hidden_size,)
        stages = config.stage_names[1:]
        shapes |= {name: (config.feature_width(name), -1, -1) for name in stages}
    elif service.models.main == "pooled":
        shapes["pooler_output"] = (config.hidden_size,)
    elif service.models.main == "maps":
        shapes |= {name: (config.feature_width(name), -1, -1) for name in config.map_names}
    return shapes


def open_outputs(service: Service, names: Sequence[str]) -> None:
    """Opens what gives the outputs `names`, which takes seconds the first time."""
    if _engine(service, names) is None:
        service.prepare(["joint"])


def _engine(service: Service, names: Sequence[str]) -> Engine | None:
    """The engine of a task that gives all of these outputs; None if only the pass that gives everything does."""
    if set(names) <= _LOGITS or service.models.checkpoint is None:
        return service.engine
    return service.extractor("pooled").engine if set(names) == {"pooler_output"} else None


def named_tensors(service: Service, names: Sequence[str], items: Sequence[Tensor]) -> list[Any]:
    """The tensors `names` of each item, pixels `[1, C, H, W]`, in float32: from the engine of a task that gives all of
    them, or from one pass that gives everything.
    """
    engine = _engine(service, names)
    if engine is None:
        return [_of_joint(names, found) for found in service.joint(items)]
    found: list[Any] = []
    for part in service.in_parts(engine, items):
        out = engine(pixel_values=joined(part))
        found += [{name: _named(name, out, row, engine) for name in names} for row in range(len(part))]
    return found


def _named(name: str, out: Any, row: int, engine: Any) -> Any:
    if name == "probabilities":
        return probabilities(out.logits[row], engine.config).numpy()
    if TASKS[engine.task].maps:
        return out.feature_maps[engine.config.map_names.index(name)][row].float().cpu().numpy()
    return getattr(out, name)[row].float().cpu().numpy()


def _of_joint(names: Sequence[str], found: Any) -> Any:
    """The named parts of an answer of the joint pass, which may be an error."""
    if isinstance(found, Exception):
        return found
    by_name = {"pooler_output": torch.from_numpy(found["embedding"]), **found["maps"]}
    if "logits" in found:
        by_name |= {"logits": found["logits"], "probabilities": found["scores"]}
    return {name: by_name[name].contiguous().numpy() for name in names}
