"""Reconstructions of the same few held-out images, or frames of videos, during training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hierax.atomic import atomic_write
from hierax.console import quantity
from hierax.data.view import EvaluationView, Example
from hierax.model.config import HieraConfig
from hierax.model.tasks import HieraForPreTraining
from hierax.processing import Preprocessing
from hierax.train.objective import Objective
from hierax.train.predictions import fixed_noise
from hierax.viz.fonts import drawable_names
from hierax.viz.maps import to_image
from hierax.viz.reconstruction import draw_units, reconstruct_pixels, statistics_note
from hierax.viz.sheets import Tile, sheet

IMAGES = 4
_TRIED = 64  # in case some of these cannot be read


def is_due(epoch: int, epochs: int) -> bool:
    """Whether reconstructions are drawn after an epoch: often at first, then ten times in the run, and at its end."""
    return epoch & (epoch - 1) == 0 or epoch % max(epochs // 10, 1) == 0 or epoch == epochs


def spread_examples(view: EvaluationView, number: int) -> list[Example]:
    """A number of readable samples spread over a dataset, because neighboring samples are often of one class."""
    found: list[Example] = []
    count = len(view.dataset)
    spread = [count * place // number for place in range(number)]
    for index in [*dict.fromkeys(spread), *(i for i in range(min(count, _TRIED)) if i not in spread)]:
        item = view[index]
        if isinstance(item, Example):
            found.append(item)
        if len(found) == number:
            break
    return found


class ReconstructionSheet:
    """Draws `reconstructions/step-N.png` in a run's folder: the image, what is visible, the reconstruction."""

    def __init__(self, folder: Path, view: EvaluationView, record: Preprocessing) -> None:
        self.folder, self.record = folder / "reconstructions", record
        self.examples = spread_examples(view, IMAGES)
        self.names = drawable_names([Path(item.name).name for item in self.examples])

    @torch.no_grad()
    def draw(self, objective: Objective, step: int) -> Path | None:
        """Draws the sheet for a model in eval mode; None if no image can be read."""
        if not self.examples:
            return None
        device, config = objective.model.device, objective.config
        pixels = torch.stack([torch.from_numpy(item.pixels) for item in self.examples]).to(device)
        inputs = objective.normalize(pixels)
        noise = fixed_noise(objective, torch.tensor([item.index for item in self.examples]))
        assert isinstance(objective.model, HieraForPreTraining)
        kept, _ = objective.model.visible(inputs, keep=None, noise=noise)
        out = objective.model(inputs, noise=noise)
        reconstructed = reconstruct_pixels(inputs, out.logits, out.bool_masked_pos, config=config)
        units = noise.shape[1]
        rows: list[tuple[Tile, ...]] = []
        for row, name in enumerate(self.names):
            keep = torch.zeros(units, dtype=torch.bool).scatter(0, kept[row].cpu(), True).numpy()
            pixels_in, pixels_out = inputs[row], reconstructed[row]
            if config.is_video:  # the middle one of the predicted frames
                pixels_in, pixels_out, keep = _frame(pixels_in, pixels_out, keep, config)
            image = to_image(pixels_in, record=self.record)
            masked = draw_units(image, unit=config.unit_pixels[-2:], keep=keep)
            drawn = to_image(pixels_out, record=self.record)
            rows.append((Tile(image, name), Tile(masked, "visible"), Tile(drawn, "reconstruction")))
        path, note = self.folder / f"step-{step}.png", statistics_note(config, "visible")
        with atomic_write(path) as part:
            sheet(rows, heading=f"After {quantity(step, 'step')}", note=f"Held-out images; {note}").save(part)
        return path


def _frame(
    pixels_in: Tensor, pixels_out: Tensor, keep: np.ndarray, config: HieraConfig
) -> tuple[Tensor, Tensor, np.ndarray]:
    """One frame `[C, H, W]` of a clip and of its reconstruction, and its visible mask units."""
    number = pixels_out.shape[1] // 2
    times = config.unit_grid(pixels_in.shape[1:])[0]
    unit = number * times // pixels_out.shape[1]
    return (
        pixels_in[:, number * pixels_in.shape[1] // pixels_out.shape[1]],
        pixels_out[:, number],
        keep.reshape(times, -1)[unit],
    )
