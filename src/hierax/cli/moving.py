"""What the commands make of clips: reconstructions and feature maps that move, and strips that hold still."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hierax.cli.writing import written

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from hierax.encoder import Features
    from hierax.models import HieraForPreTraining
    from hierax.processing import Preprocessing
    from hierax.viz import Statistics

MOVING = (".gif", ".png", ".webp")
"""Suffixes of pictures that can move."""
_GAP, _PAPER = 6, (255, 255, 255)


@dataclass(frozen=True)
class Moving:
    """Rows of pictures by frame: `frames[time][column]`, all of one size, and how long each frame is shown."""

    frames: Sequence[Sequence[Image.Image]]
    seconds: float


def reconstructed_clip(
    mae: HieraForPreTraining,
    pixels: torch.Tensor,
    keep: torch.Tensor,
    *,
    record: Preprocessing,
    statistics: Statistics,
    seconds: float,
) -> Moving:
    """The frames of `pixels` `[1, C, T, H, W]` that the model predicts (of every token the first), as they are, as far
    as they are seen, and as they are made; `keep` `[1, U]` shows True mask units, `seconds` is the length of the clip.
    """
    import torch

    from hierax.viz import draw_units, reconstruct_pixels, to_picture

    config = mae.config
    with torch.inference_mode():
        out = mae(pixels, keep=keep)
        made = reconstruct_pixels(pixels, out.logits, out.bool_masked_pos, config=config, statistics=statistics)[0]
    units = config.unit_grid(pixels.shape[2:])
    shown = keep[0].view(units[0], -1).cpu().numpy()
    every, each = pixels.shape[2] // made.shape[1], made.shape[1] // units[0]
    frames = []
    for number in range(made.shape[1]):
        picture = to_picture(pixels[0, :, number * every], record=record)
        seen = draw_units(picture, unit=config.unit_pixels[1:], keep=shown[number // each])
        frames.append((picture, seen, to_picture(made[:, number], record=record)))
    return Moving(frames, seconds / len(frames))


def featured_clip(found: Features, pixels: torch.Tensor, *, record: Preprocessing, seconds: float) -> Moving:
    """A clip `[C, T, H, W]` and the maps of its stages: colours are each map's first three principal components over
    all of its frames, so that a colour means the same in all of them.
    """
    import numpy as np
    from PIL import Image

    from hierax.viz import enlarge, principal_components, robust_scale, to_picture

    config, size = found.config, found.size
    columns = []
    for stage in range(1, config.stages + 1):
        values = found.map(stage)[0]
        channels, times, height, width = values.shape
        colours = robust_scale(principal_components(values.reshape(channels, times * height, width)))
        cells = np.rint(colours * 255).astype(np.uint8).reshape(times, height, width, 3)
        stride = config.stage_stride(stage - 1)[1:]
        columns.append([Image.fromarray(enlarge(frame, stride=stride, size=size[1:])) for frame in cells])
    every = pixels.shape[1] // len(columns[0])
    pictures = [to_picture(pixels[:, number * every], record=record) for number in range(len(columns[0]))]
    return Moving(list(zip(pictures, *columns, strict=True)), seconds / len(pictures))


def write_animation(clips: Sequence[Moving], path: Path) -> None:
    """The clips below each other, moving at once: GIF, animated PNG or WebP, by the suffix. Shorter ones hold."""
    length = max(len(clip.frames) for clip in clips)
    pages = [_page([clip.frames[min(number, len(clip.frames) - 1)] for clip in clips]) for number in range(length)]
    milliseconds = max(round(1000 * clips[0].seconds), 20)
    with written(path) as part:
        pages[0].save(part, save_all=True, append_images=pages[1:], duration=milliseconds, loop=0)


def write_strip(clips: Sequence[Moving], path: Path) -> None:
    """All frames side by side, a row for each column of a clip, clips below each other."""
    rows = [row for clip in clips for row in zip(*clip.frames, strict=True)]
    with written(path) as part:
        _page(rows).save(part)


def _page(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Pictures in rows on white."""
    from PIL import Image

    widths = [sum(picture.width + _GAP for picture in row) + _GAP for row in rows]
    tops = [_GAP]
    for row in rows:
        tops.append(tops[-1] + max(picture.height for picture in row) + _GAP)
    page = Image.new("RGB", (max(widths), tops[-1]), _PAPER)
    for row, top in zip(rows, tops, strict=False):
        left = _GAP
        for picture in row:
            page.paste(picture, (left, top))
            left += picture.width + _GAP
    return page
