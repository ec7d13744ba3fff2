"""Selects the times of a video, and the crops of its frames, that are the input of a video model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from hierax.processing.record import Preprocessing
from hierax.processing.resize import Geometry, geometry

Short = Literal["hold", "loop"]
"""How a video that is shorter than a clip is extended: its last frame is repeated, or the video restarts."""

_RATE_STEPS = 1_000_000  # maximum denominator of a frame rate that is a float


@dataclass(frozen=True)
class Sampling:
    """The frames of a clip: `count` frames with `step` seconds between them."""

    count: int
    step: Fraction

    @property
    def span(self) -> Fraction:
        """Seconds from the start of the first frame to the end of the last frame."""
        return self.count * self.step

    def times(self, start: Fraction) -> list[Fraction]:
        """The times of the frames of a clip that starts at `start`, in seconds."""
        return [start + number * self.step for number in range(self.count)]


def sampling_of(record: Preprocessing) -> Sampling:
    """The sampling of a record for clips: `num_frames` frames, every `sampling_rate`-th frame at `fps` frames per
    second.

    Raises:
        ValueError: the record is for images.
    """
    if record.num_frames is None:
        raise ValueError("the preprocessing has no num_frames: it is for images, not for clips")
    rate = Fraction(record.fps or 30.0).limit_denominator(_RATE_STEPS)
    return Sampling(record.num_frames, (record.sampling_rate or 1) / rate)


def starts(duration: Fraction, span: Fraction, count: int) -> list[Fraction]:
    """The starts of `count` clips of `span` seconds that are evenly spaced from the start to the end of a video.

    A single clip is in the middle. If the video is shorter than a clip, all starts are 0.
    """
    room = max(duration - span, Fraction(0))
    if count == 1:
        return [room / 2]
    return [room * number / (count - 1) for number in range(count)]


def consecutive(hop: Fraction) -> Iterator[Fraction]:
    """Yields the starts of an endless sequence of segments, every `hop` seconds."""
    return (number * hop for number in itertools.count())


def moment(time: Fraction, duration: Fraction, short: Short) -> Fraction:
    """The time of a video that is used for `time`, which may be after its end."""
    return time % duration if short == "loop" and duration > 0 else time


def check_short(short: str) -> None:
    """Raises `ValueError` if the value is not a `Short`."""
    if short not in get_args(Short):
        raise ValueError(f"short is {short!r}; expected one of {', '.join(map(repr, get_args(Short)))}")


def crops(record: Preprocessing, *, height: int, width: int, count: int) -> list[Geometry]:
    """`count` crops of the size of the record, evenly spaced along the longer side of the resized frame. A single crop
    is in the center.

    Raises:
        ValueError: several crops are requested, but the record does not crop.
    """
    plan = geometry(record, height=height, width=width)
    if count == 1:
        return [plan]
    if not record.do_center_crop:
        raise ValueError(f"{count} crops of a frame need a record that crops (do_center_crop)")
    down, right = plan.resized_height - plan.height, plan.resized_width - plan.width
    made = []
    for number in range(count):
        top, left = plan.top, plan.left
        if down > right:
            top = down * number // (count - 1)
        else:
            left = right * number // (count - 1)
        made.append(Geometry(plan.resized_height, plan.resized_width, top, left, plan.height, plan.width))
    return made
