"""An image of what a segmentation model predicts for a few held-out images, beside their masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hierax.atomic import atomic_write
from hierax.console import quantity
from hierax.data.view import EvaluationView
from hierax.model.class_map import class_map
from hierax.model.segmentation import HieraForSemanticSegmentation
from hierax.processing import Preprocessing
from hierax.train.objective import Objective
from hierax.train.reconstructions import spread_examples
from hierax.viz.fonts import drawable_names
from hierax.viz.maps import to_image
from hierax.viz.segmentation import overlay, palette, with_legend
from hierax.viz.sheets import Tile, sheet

OVERLAYS = "overlays.png"
_IMAGES, _SIDE = 4, 360  # a side is at most this long
_LISTED = 20  # classes in the legend


class OverlaySheet:
    """Draws `overlays.png` in a run's folder, with the weights of the last evaluation whose weights are kept.

    Args:
        folder: the folder of the run.
        view: the held-out samples.
        record: their preprocessing.
        labels: names of the classes.
        colors: red, green and blue of each class; None: those of Pascal VOC.
    """

    def __init__(
        self,
        folder: Path,
        view: EvaluationView,
        record: Preprocessing,
        labels: Sequence[str],
        colors: np.ndarray | None = None,
    ) -> None:
        self.path, self.record = folder / OVERLAYS, record
        self.examples = [example for example in spread_examples(view, _IMAGES) if example.target is not None]
        self.names = drawable_names([Path(example.name).name for example in self.examples])
        self.labels = labels
        self.colors = palette(len(labels)) if colors is None else np.asarray(colors)[: len(labels)]

    @torch.no_grad()
    def draw(self, objective: Objective, step: int) -> Path | None:
        """Draws the sheet for a model in eval mode; None if no image can be read."""
        if not self.examples:
            return None
        assert isinstance(objective.model, HieraForSemanticSegmentation)
        rows: list[tuple[Tile, ...]] = []
        seen = np.zeros(len(self.labels), bool)
        for example, name in zip(self.examples, self.names, strict=True):
            assert example.target is not None
            pixels = objective.normalize(torch.from_numpy(example.pixels)[None].to(objective.model.device))
            size = pixels.shape[2:]
            stride = objective.config.stage_stride(0)
            found = class_map(objective.model.coarse_logits(pixels)[0], pixels=size, stride=stride).numpy()
            wanted = _resized(torch.from_numpy(np.asarray(example.target, np.int64)), size)
            image = _shrunk(to_image(pixels[0], record=self.record))
            tiles = [Tile(image, name)]
            for mask, title in ((wanted, "mask"), (found, "prediction")):
                tiles.append(Tile(overlay(image, _fitted(mask, image), self.colors), title))
                seen[np.unique(mask[mask < len(self.labels)])] = True
            rows.append(tuple(tiles))
        drawn = sheet(
            rows, heading=f"After {quantity(step, 'step')}", note="Held-out images; pixels without color are ignored"
        )
        names = drawable_names(self.labels, kind="class", first=0)
        entries = [(names[i], self.colors[i].tolist()) for i in np.flatnonzero(seen)[:_LISTED]]
        with atomic_write(self.path) as part:
            with_legend(drawn, entries).save(part)
        return self.path


def _resized(target: Tensor, size: Sequence[int]) -> np.ndarray:
    """A mask at another size, by the nearest pixel."""
    resized = torch.nn.functional.interpolate(target[None, None].double(), tuple(size), mode="nearest-exact")
    return resized[0, 0].long().numpy()


def _shrunk(image: Image.Image) -> Image.Image:
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    return image


def _fitted(mask: np.ndarray, image: Image.Image) -> np.ndarray:
    """A class map at the size of an image."""
    return _resized(torch.from_numpy(mask.astype(np.int64)), (image.height, image.width))
