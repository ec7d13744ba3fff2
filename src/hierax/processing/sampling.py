"""The times of a video, and the parts of its frames, that a model of clips gets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from hierax.processing.record import Preprocessing
from hierax.processing.resize import Geometry, geometry

Short = Literal["hold", "loop"]
"""How a video shorter than a window is extended: its last frame is repeated, or the video restarts."""

_RATE_STEPS = 1_000_000  # denominators of frame rates given as floats


@dataclass(frozen=True)
class Sampling:
    """A window's frames: `count` of them, `step` seconds apart."""

    count: int
    step: Fraction

    @property
    def span(self) -> Fraction:
        """Seconds from the beginning of the first frame to the end of the last."""
        return self.count * self.step

    def times(self, start: Fraction) -> list[Fraction]:
        """The moments of a window that begins at `start`, in seconds."""
        return [start + number * self.step for number in range(self.count)]


def sampling_of(record: Preprocessing) -> Sampling:
    """What a record of clips says: `num_frames`, every `sampling_rate`-th of `fps` a second.

    Raises:
        ValueError: a record of images, which says nothing of frames.
    """
    if record.num_frames is None:
        raise ValueError("the preprocessing has no num_frames: it is for images, not for clips")
    rate = Fraction(record.fps or 30.0).limit_denominator(_RATE_STEPS)
    return Sampling(record.num_frames, (record.sampling_rate or 1) / rate)


def starts(duration: Fraction, span: Fraction, count: int) -> list[Fraction]:
    """Where `count` windows of `span` seconds begin, spread over `duration` from end to end; one is at the center.

    All are 0 where the video is the shorter.
    """
    room = max(duration - span, Fraction(0))
    if count == 1:
        return [room / 2]
    return [room * number / (count - 1) for number in range(count)]


def consecutive(hop: Fraction) -> Iterator[Fraction]:
    """Where windows begin that follow one another for ever, `hop` seconds apart."""
    return (number * hop for number in itertools.count())


def moment(time: Fraction, duration: Fraction, short: Short) -> Fraction:
    """The moment of a video that stands for `time`, which may lie behind its end."""
    return time % duration if short == "loop" and duration > 0 else time


def check_short(short: str) -> None:
    """Raises `ValueError` for what is no `Short`."""
    if short not in get_args(Short):
        raise ValueError(f"short is {short!r}; expected one of {', '.join(map(repr, get_args(Short)))}")


def crops(record: Preprocessing, *, height: int, width: int, count: int) -> list[Geometry]:
    """`count` crops of the record's size, spread along the longer side of the resized frame; one is at the center.

    Raises:
        ValueError: several crops by a record that does not crop.
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
