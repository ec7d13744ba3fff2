"""What a server tells about itself: `GET /v1/model`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hierax.model.registry import TASKS
from hierax.viz.segmentation import palette

if TYPE_CHECKING:
    from hierax.serve.service import Service


def describe(service: Service) -> dict[str, Any]:
    """The tasks of a service, and its models: names, licenses, sizes, labels and how they run."""
    models, engine = service.models, service.engine
    config = models.config
    labels = list(config.id2label.values()) if TASKS[engine.task].labels else []
    return {
        "tasks": service.tasks,
        "model": {
            "source": models.source_of(models.main),
            "license": config.license,
            "image_size": list(service.record("view").output_size or config.image_size),
            "labels": labels,
            "precision": engine.precision,
            "backend": engine.backend,
            "device": engine.device.type,
            "stages": config.stages,
        },
        "mae": _mae(service),
        "segmentation": _segmentation(service),
        "collection": None if service.collection is None else service.collection.describe(),
    }


def _mae(service: Service) -> dict[str, Any] | None:
    if "mae" not in service.models.roles:
        return None
    facts = service.models.facts("mae")
    config, size = facts.config, facts.record.output_size or facts.config.image_size
    return {
        "source": service.models.source_of("mae"),
        "license": facts.license,
        "image_size": list(size),
        "unit": list(config.unit_pixels),
        "units": list(config.unit_grid(size)),
        "mask_ratio": config.mask_ratio,
    }


def _segmentation(service: Service) -> dict[str, Any] | None:
    if "segmentation" not in service.models.roles:
        return None
    config = service.models.facts("segmentation").config
    labels = list(config.id2label.values())
    return {
        "source": service.models.source_of("segmentation"),
        "license": config.license,
        "labels": labels,
        "colors": palette(len(labels)).tolist(),
    }
