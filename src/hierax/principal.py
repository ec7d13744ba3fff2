"""Principal components, for maps of features and for collections of vectors."""

from __future__ import annotations

import numpy as np


def principal_scores(vectors: np.ndarray, *, count: int) -> np.ndarray:
    """float32 `[N, count]`: scores of finite vectors `[N, D]` on their first principal components.

    Components whose variance is below 1e-9 of the largest are rounding errors: their scores are 0, like those of
    components that are missing. The sign of a component is arbitrary; it is chosen so that its largest weight is
    positive. So the same vectors always get the same scores.
    """
    wide = vectors.astype(np.float64) - (vectors.mean(0, dtype=np.float64) if len(vectors) else 0)
    rows, width = wide.shape
    if width <= rows:
        values, axes = np.linalg.eigh(wide.T @ wide)
    else:  # the same axes, from the smaller product
        values, weights = np.linalg.eigh(wide @ wide.T)
        axes = wide.T @ weights / np.sqrt(np.maximum(values, 1e-12))
    found = axes[:, ::-1][:, :count] * (values[::-1][:count] > 1e-9 * max(float(values.max(initial=0)), 1e-12))
    if found.size:
        found = found * np.where(found[np.abs(found).argmax(0), np.arange(found.shape[1])] < 0, -1, 1)
    scores = np.zeros((rows, count), np.float32)
    scores[:, : found.shape[1]] = wide @ found
    return scores
