"""Masks of objects: polygons and run-length encodings of COCO, as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from hierax.extras import load


def _module() -> Any:
    return load("masks of instances", "faster_coco_eval.core.mask")


def encode(mask: np.ndarray) -> dict[str, Any]:
    """The run-length encoding of a mask `[H, W]` of booleans, with the counts as text."""
    encoded = _module().encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = encoded["counts"]
    return {
        "size": [int(n) for n in encoded["size"]],
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }


def decode(segmentation: Any, height: int, width: int) -> np.ndarray:
    """The mask `[height, width]` of booleans that polygons or a run-length encoding describe."""
    module = _module()
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        encoded = module.frPyObjects(segmentation, height, width) if isinstance(counts, list) else segmentation
    else:
        encoded = module.merge(module.frPyObjects(segmentation, height, width))
    return module.decode(encoded).astype(bool)


def box_of(mask: np.ndarray) -> tuple[float, float, float, float] | None:
    """Left, top, width and height of a mask `[H, W]`; None if it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    left, top = float(columns[0]), float(rows[0])
    return left, top, float(columns[-1]) + 1 - left, float(rows[-1]) + 1 - top
