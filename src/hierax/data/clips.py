"""Selects the frames of a video, or of a segment of a video, for training and evaluation."""

from __future__ import annotations

import copy
from fractions import Fraction

import numpy as np
from PIL import Image

from hierax.data.augment import center_crop, erase, rand_augment, random_crop
from hierax.data.dataset import Sample, VideoSegment
from hierax.data.partial_decode import resize
from hierax.processing import HieraVideoProcessor, VideoError
from hierax.processing.sampling import Sampling
from hierax.processing.video_file import Frame, VideoFile

_FINE = 1_000_000  # resolution of the random start of a clip


# -- training ----------------------------------------------------------------------------------------------------------


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
    """A random clip of a segment of a video, uint8 `[3, T, H, W]`. All its frames are cropped, mirrored and augmented
    in the same way.

    Raises:
        VideoError: the video cannot be read, or is too short for the segment.
    """
    frames_read = _read_frames(sample, random.random(), sampling)
    rows, columns = frames_read[0].pixels.shape[:2]
    aspect = size[1] / size[0]
    if crop_scale is None:
        top, left, height, width = center_crop(rows, columns, aspect=aspect)
    else:
        ratio = (3 / 4 * aspect, 4 / 3 * aspect)
        top, left, height, width = random_crop(random, rows, columns, scale=crop_scale, ratio=ratio)
    frames = [resize(frame.pixels[top : top + height, left : left + width], size) for frame in frames_read]
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


def _read_frames(sample: Sample, place: float, sampling: Sampling) -> list[Frame]:
    """The frames of a clip; `place` (0 to 1) is its position in the segment of the video."""
    extract: VideoSegment = sample.content
    with VideoFile(extract.video, name=sample.name) as file:
        first, last = segment_bounds(extract, file)
        share = Fraction(int(place * _FINE), _FINE)
        frames_read = list(file.frames(_frame_times(first, last, share, sampling)))
        if file.actual_end is not None and file.actual_end < last:  # the file is shorter than it states
            if file.actual_end <= first:
                raise VideoError(sample.name, f"the video ends at {float(file.actual_end):g} s")
            frames_read = list(file.frames(_frame_times(first, file.actual_end, share, sampling)))
        return frames_read


def segment_bounds(extract: VideoSegment, file: VideoFile) -> tuple[Fraction, Fraction]:
    """Start and end of the segment, in seconds.

    Raises:
        VideoError: the segment starts after the end of the video.
    """
    duration = file.duration()
    first = extract.start or Fraction(0)
    last = min(extract.end, duration) if extract.end is not None else duration
    if first > 0 and first >= last:
        raise VideoError(file.name, f"the video ends at {float(duration):g} s")
    return first, last


def _frame_times(first: Fraction, last: Fraction, share: Fraction, sampling: Sampling) -> list[Fraction]:
    """Times of the frames of a clip; if the segment is shorter than the clip, its last frame is repeated."""
    room = max(last - first - sampling.span, Fraction(0))
    latest = max(last - sampling.step / 4, first)
    return [min(time, latest) for time in sampling.times(first + room * share)]


# -- evaluation --------------------------------------------------------------------------------------------------------


def evaluation_clips(sample: Sample, processor: HieraVideoProcessor, *, views: tuple[int, int]) -> np.ndarray:
    """The views of a segment, uint8 `[views, 3, T, H, W]`: clips that are evenly spaced over the segment, and crops of
    each clip, according to the record.

    Raises:
        VideoError: the video cannot be read, or is too short for the segment.
    """
    extract: VideoSegment = sample.content
    clips = processor.clips(extract.video, views=views, name=sample.name, part=(extract.start, extract.end))
    return np.stack([np.rint(clip.pixels).astype(np.uint8) for clip in clips])
