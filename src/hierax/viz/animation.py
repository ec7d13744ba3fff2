"""Draws results for clips: animated reconstructions and feature maps, and strips of all frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hierax.atomic import atomic_write

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image

    from hierax.model.config import HieraConfig
    from hierax.predict.features import StageMaps
    from hierax.processing import Preprocessing
    from hierax.viz.reconstruction import Statistics
    from hierax.viz.sheets import Tile


@dataclass(frozen=True)
class Animation:
    """An animation with columns: images `frames[time][column]` of one size, a title and a note for each column, and
    the seconds for which each frame is shown.
    """

    frames: Sequence[Sequence[Image.Image]]
    captions: Sequence[tuple[str, str]]
    seconds: float

    def tiles(self, number: int) -> list[Tile]:
        """A frame with its captions; the last frame if `number` is past the end."""
        from hierax.viz.sheets import Tile

        frame = self.frames[min(number, len(self.frames) - 1)]
        return [Tile(image, *caption) for image, caption in zip(frame, self.captions, strict=True)]


def reconstructed_clip(
    pixels: torch.Tensor,
    made: torch.Tensor,
    keep: torch.Tensor,
    *,
    config: HieraConfig,
    record: Preprocessing,
    statistics: Statistics,
    seconds: float,
    title: str,
) -> Animation:
    """Three columns for a clip `pixels` `[1, C, T, H, W]`: original, visible part, and reconstruction `made` `[C,
    frames, H, W]`. The frames are those that a model predicts (the first of every token). In `keep` `[1, U]`, True is
    a visible mask unit; `seconds` is the length of the clip, `title` its name.
    """
    from hierax.viz.maps import to_image
    from hierax.viz.reconstruction import draw_units

    units = config.unit_grid(pixels.shape[2:])
    shown = keep[0].view(units[0], -1).cpu().numpy()
    every, each = pixels.shape[2] // made.shape[1], made.shape[1] // units[0]
    frames = []
    for number in range(made.shape[1]):
        image = to_image(pixels[0, :, number * every], record=record)
        seen = draw_units(image, unit=config.unit_pixels[1:], keep=shown[number // each])
        frames.append((image, seen, to_image(made[:, number], record=record)))
    captions = reconstruction_captions(config, pixels.shape[2:], keep[0].cpu().numpy(), statistics, title=title)
    return Animation(frames, captions, seconds / len(frames))


def reconstruction_captions(
    config: HieraConfig, size: Sequence[int], keep: np.ndarray, statistics: Statistics, *, title: str
) -> tuple[tuple[str, str], tuple[str, str], tuple[str, str]]:
    """Titles and notes of the three columns of a reconstruction: the image, its visible part, and the reconstruction.

    Args:
        size: pixels per axis.
        keep: which mask units are visible.
        title: the name of the image.
    """
    from hierax.viz.reconstruction import statistics_note

    pixels = " x ".join(str(n) for n in reversed(size[1:] if config.is_video else size))
    return (
        (title, f"{size[0]} frames of {pixels} pixels" if config.is_video else f"{pixels} pixels"),
        ("visible", f"{keep.sum()} of {keep.size} mask units"),
        ("reconstruction", statistics_note(config, statistics)),
    )


def featured_clip(
    found: StageMaps, pixels: torch.Tensor, *, record: Preprocessing, seconds: float, title: str
) -> Animation:
    """A clip `[C, T, H, W]` and the maps of its stages. The colors of a map are its first three principal components
    over all of its frames. So a color has the same meaning in all frames.
    """
    import numpy as np
    from PIL import Image

    from hierax.viz.maps import enlarge, principal_components, robust_scale, to_image

    config, size = found.config, found.size
    columns, captions = [], [(title, f"{_times(size)} pixels")]
    for name, values in found.maps.items():
        channels, times, height, width = values.shape
        colors = robust_scale(principal_components(values.reshape(channels, times * height, width)))
        cells = np.rint(colors * 255).astype(np.uint8).reshape(times, height, width, 3)
        stride = config.stage_stride(config.feature_stage(name))[1:]
        captions.append((name.replace("stage", "stage "), f"{_times((times, height, width))}, {channels} channels"))
        columns.append([Image.fromarray(enlarge(frame, stride=stride, size=size[1:])) for frame in cells])
    every = pixels.shape[1] // len(columns[0])
    images = [to_image(pixels[:, number * every], record=record) for number in range(len(columns[0]))]
    return Animation(list(zip(images, *columns, strict=True)), captions, seconds / len(images))


def _times(size: Sequence[int]) -> str:
    """The text `16 frames of 224 x 224`."""
    return f"{size[0]} frames of {size[2]} x {size[1]}"


def write_animation(clips: Sequence[Animation], path: Path, *, heading: str, note: str) -> None:
    """Writes the clips below each other, with their captions, as an animation; the suffix says whether as GIF, PNG or
    WebP. Shorter clips show their last frame until the longest ends.
    """
    from hierax.viz.sheets import sheet

    length = max(len(clip.frames) for clip in clips)
    pages = [sheet([clip.tiles(number) for clip in clips], heading=heading, note=note) for number in range(length)]
    milliseconds = max(round(1000 * clips[0].seconds), 20)
    with atomic_write(path) as part:
        pages[0].save(part, save_all=True, append_images=pages[1:], duration=milliseconds, loop=0)


def write_strip(clips: Sequence[Animation], path: Path, *, heading: str, note: str) -> None:
    """All frames side by side with their times. Each column of a clip becomes a row; clips are below each other."""
    from hierax.viz.sheets import Tile, sheet

    rows = []
    for clip in clips:
        for (title, _), row in zip(clip.captions, zip(*clip.frames, strict=True), strict=True):
            times = [f"{number * clip.seconds:.2f} s" for number in range(len(row))]
            rows.append([Tile(image, "" if i else title, times[i]) for i, image in enumerate(row)])
    with atomic_write(path) as part:
        sheet(rows, heading=heading, note=note, widths=(112, 512)).save(part)
