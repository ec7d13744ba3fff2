"""The files of a segmentation: the mask, an overlay with a legend, and the areas of the classes."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hierax.atomic import atomic_write
from hierax.predict.features import output_names
from hierax.predict.inputs import Overwrite, check_outputs, without_written
from hierax.reprs.text import short_repr
from hierax.viz.segmentation import paint, with_legend

_LONGEST_SIDE = 8192  # of an overlay in pixels; JPEG ends at 65,500, and programs that show images end before


@short_repr()
@dataclass(frozen=True)
class SegmentationFiles:
    """The paths of the files of an image: the mask (PNG), the overlay (JPEG) and the areas (JSON)."""

    mask: Path
    overlay: Path
    areas: Path

    def __iter__(self) -> Iterator[Path]:
        return iter((self.mask, self.overlay, self.areas))


def files_in(folder: str | os.PathLike[str], name: str) -> SegmentationFiles:
    """The files of the image of this name. Those of two names are never the same, because their suffixes differ."""
    stem = os.path.join(folder, name)
    return SegmentationFiles(Path(f"{stem}.png"), Path(f"{stem}-overlay.jpg"), Path(f"{stem}.json"))


def segmentation_files(
    images: Sequence[Path], output: str | os.PathLike[str], *, overwrite: Overwrite = False
) -> list[SegmentationFiles]:
    """The files that `hierax segment` writes for each image.

    Raises:
        ValueError: see `hierax.predict.inputs.check_outputs`.
    """
    files = [files_in(output, name) for name in output_names(images)]
    check_outputs([file for one in files for file in one], images, overwrite=overwrite)
    return files


def without_results(images: Sequence[Path], named: Collection[str]) -> list[Path]:
    """The images that are not masks or overlays of an earlier `hierax segment`, see `without_written`."""
    return without_written(images, named, _is_result, "masks and overlays that hierax segment wrote")


def _is_result(path: Path) -> bool:
    """Whether an image is the mask or the overlay beside the other files of its image."""
    name = path.name
    for end in ("-overlay.jpg", ".png"):
        if name.endswith(end) and name != end:
            return all(file.is_file() for file in files_in(path.parent, name.removesuffix(end)))
    return False


def write_files(
    files: SegmentationFiles,
    mask: np.ndarray,
    drawn: Image.Image,
    legend: Sequence[tuple[str, tuple[int, int, int]]],
    values: Mapping[str, Any],
) -> None:
    """Writes the files, each completely or not at all. An overlay that is very large is made smaller.

    Raises:
        OSError: a file cannot be written.
    """
    with atomic_write(files.mask, sync=False) as part:
        paint(mask).save(part)
    if max(drawn.size) > _LONGEST_SIDE:
        scale = _LONGEST_SIDE / max(drawn.size)
        width, height = (max(1, round(side * scale)) for side in drawn.size)
        drawn = drawn.resize((width, height), Image.Resampling.BOX)
    with atomic_write(files.overlay, sync=False) as part:
        with_legend(drawn, legend).save(part, quality=90)
    with atomic_write(files.areas, sync=False) as part:
        part.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
