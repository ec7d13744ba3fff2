"""Videos as samples: lists of parts of them, and what training and evaluation see of one."""

from __future__ import annotations

import copy
import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from hierax.data.augment import centre_crop, erase, rand_augment, random_crop
from hierax.data.dataset import Sample
from hierax.data.picture import resized
from hierax.processing import HieraVideoProcessor, VideoError
from hierax.processing.video_file import Shot, VideoFile
from hierax.processing.windows import Sampling

_PATHS = ("path", "video", "file", "filename", "clip")
_LABELS = ("label", "class", "labels", "action", "target")
_FINE = 1_000_000  # moments are drawn in parts of the room, so many


@dataclass(frozen=True)
class Extract:
    """A part of a video file: from `start` to `end` in seconds; None is the beginning, and the end."""

    path: str
    start: Fraction | None = None
    end: Fraction | None = None


@dataclass(frozen=True, eq=False)
class ClipList:
    """Parts of videos, named by a list."""

    name: str
    extracts: Sequence[Extract]
    targets: Sequence[int] | None
    classes: tuple[str, ...]
    arrays: bool = False
    videos: bool = True

    def __len__(self) -> int:
        return len(self.extracts)

    def sample(self, index: int) -> Sample:
        """See `Dataset`."""
        extract = self.extracts[index]
        part = "" if extract.start is None else f" from {float(extract.start):g} s"
        return Sample(extract.path + part, extract, None if self.targets is None else self.targets[index])

    def labels(self) -> list[int] | None:
        """See `Dataset`."""
        return None if self.targets is None else list(self.targets)


def open_list(path: Path, *, labels: bool = True) -> ClipList:
    """The parts of videos that a `.csv` file names, one a line, under a line with the names of its columns.

    Columns: `path` (or video, file, filename, clip), relative to the list's folder; optionally `start` and `end` in
    seconds, empty for the beginning and the end; and `label` (or class, action, …), the name of its class.

    Raises:
        ValueError: no such columns, no rows, a line that cannot be read; names file and line.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        columns = {name.strip().lower(): name for name in rows.fieldnames or ()}
        place = next((columns[name] for name in _PATHS if name in columns), None)
        if place is None:
            found = ", ".join(columns) or "nothing"
            raise ValueError(f"{path}: its first line is {found}; expected names of columns, with path among them")
        label = next((columns[name] for name in _LABELS if name in columns), None) if labels else None
        extracts: list[Extract] = []
        names: list[str] = []
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if not row[place]:
                raise ValueError(f"{where}: no path")
            start, end = (_seconds(row, columns.get(name), where) for name in ("start", "end"))
            if start is not None and end is not None and end <= start:
                raise ValueError(f"{where}: it ends at {float(end):g} s, but starts at {float(start):g} s")
            extracts.append(Extract(os.path.join(path.parent, row[place]), start, end))
            names.append(row[label] or "" if label else "")
    if not extracts:
        raise ValueError(f"{path}: no rows below the names of the columns")
    if label is None:
        return ClipList(str(path), extracts, None, ())
    if "" in names:
        raise ValueError(f"{path}, row {names.index('') + 1}: no label; expected one in every row, or none at all")
    numeric = all(name.isdecimal() for name in names)
    classes = tuple(sorted(set(names), key=lambda name: (int(name), name) if numeric else (0, name)))
    number = {name: i for i, name in enumerate(classes)}
    return ClipList(str(path), extracts, [number[name] for name in names], classes)


def _seconds(row: dict[str, str], column: str | None, where: str) -> Fraction | None:
    text = (row.get(column) or "").strip() if column else ""
    if not text:
        return None
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(-1)
    if value < 0:
        raise ValueError(f"{where}: {column} is {text!r}; expected seconds, 0 or more")
    return value


# -- what training sees ------------------------------------------------------------------------------------------------


def training_clip(
    sample: Sample,
    random: np.random.Generator,
    *,
    sampling: Sampling,
    size: tuple[int, int],
    crop_scale: tuple[float, float] | None,
    flip: bool,
    augment: tuple[float, float] | None,
    erasing: float,
) -> np.ndarray:
    """uint8 `[3, T, H, W]`: a window anywhere in a part of a video, all of its frames cropped, mirrored and augmented
    alike.

    Raises `VideoError`.
    """
    shots = _window(sample, random.random(), sampling)
    rows, columns = shots[0].pixels.shape[:2]
    aspect = size[1] / size[0]
    if crop_scale is None:
        top, left, height, width = centre_crop(rows, columns, aspect=aspect)
    else:
        ratio = (3 / 4 * aspect, 4 / 3 * aspect)
        top, left, height, width = random_crop(random, rows, columns, scale=crop_scale, ratio=ratio)
    frames = [resized(shot.pixels[top : top + height, left : left + width], size) for shot in shots]
    if flip and random.random() < 0.5:
        frames = [frame[:, ::-1] for frame in frames]
    if augment is not None:
        alike = copy.deepcopy(random)
        frames = [
            np.asarray(rand_augment(_image(f), copy.deepcopy(alike), magnitude=augment[0], std=augment[1]))
            for f in frames
        ]
        random.random()
    if erasing:
        alike = copy.deepcopy(random)
        frames = [erase(frame, copy.deepcopy(alike), probability=erasing) for frame in frames]
    return np.ascontiguousarray(np.stack(frames).transpose(3, 0, 1, 2))


def _image(frame: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(frame))


def _window(sample: Sample, place: float, sampling: Sampling) -> list[Shot]:
    """The frames of a window that lies in the part of the video as `place` (0 to 1) says."""
    extract: Extract = sample.content
    with VideoFile(extract.path, name=sample.name) as file:
        first, last = bounds(extract, file)
        share = Fraction(int(place * _FINE), _FINE)
        shots = list(file.frames(_moments(first, last, share, sampling)))
        if file.ended is not None and file.ended < last:  # the file is shorter than it says
            if file.ended <= first:
                raise VideoError(sample.name, f"the video ends at {float(file.ended):g} s")
            shots = list(file.frames(_moments(first, file.ended, share, sampling)))
        return shots


def bounds(extract: Extract, file: VideoFile) -> tuple[Fraction, Fraction]:
    """Beginning and end of the part, in seconds.

    Raises:
        VideoError: it begins behind the end of the video.
    """
    duration = file.duration()
    first = extract.start or Fraction(0)
    last = min(extract.end, duration) if extract.end is not None else duration
    if first > 0 and first >= last:
        raise VideoError(file.name, f"the video ends at {float(duration):g} s")
    return first, last


def _moments(first: Fraction, last: Fraction, share: Fraction, sampling: Sampling) -> list[Fraction]:
    """Times of a window's frames; where the part is the shorter, its last frame is held."""
    room = max(last - first - sampling.span, Fraction(0))
    latest = max(last - sampling.step / 4, first)
    return [min(time, latest) for time in sampling.times(first + room * share)]


# -- what evaluation sees ----------------------------------------------------------------------------------------------


def evaluation_clips(sample: Sample, processor: HieraVideoProcessor, *, views: tuple[int, int]) -> np.ndarray:
    """uint8 `[views, 3, T, H, W]`: windows spread over the part, and crops of each, as the record says.

    Raises `VideoError`.
    """
    extract: Extract = sample.content
    clips = processor.clips(extract.path, views=views, name=sample.name, part=(extract.start, extract.end))
    return np.stack([np.rint(clip.pixels).astype(np.uint8) for clip in clips])
