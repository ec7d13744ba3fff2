"""Video files: their frames by time, decoded by PyAV (FFmpeg)."""

from __future__ import annotations

import bisect
import itertools
import os
import struct
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from hierax.processing.decode import DEFAULT_MAX_PIXELS
from hierax.processing.demux import Packets, VideoError
from hierax.processing.reading import source_name

_FAR = Fraction(3)  # seconds: a gap that is worth a seek
_BACK = (Fraction(0), Fraction(2), Fraction(10))  # seconds before a moment that a seek aims at, until it lands there
_REORDERED = Fraction(1)  # seconds that frames may lie behind a key frame where only times of decoding are stated
_PREDICTED = 2  # FFmpeg's number for frames that are made from others
_NEVER = -1 << 60  # a time stamp before all others
_LATE = Fraction(1, 20)  # seconds that a frame may begin after a moment to be its frame
_LONGEST = 100 * 86400  # seconds: a video that says more has damaged time stamps
MAX_PIXELS = DEFAULT_MAX_PIXELS
"""Pixels of the largest frame that is decoded, as of images."""


class Frame(NamedTuple):
    """A frame: when it begins, in seconds from the first, and its pixels, upright, uint8 `[height, width, 3]`."""

    time: Fraction
    pixels: np.ndarray


class _Frame(NamedTuple):
    """A decoded frame, and its time stamp."""

    stamp: Fraction
    data: Any


@dataclass(frozen=True)
class VideoInfo:
    """The properties of a video, as its file states them.

    Attributes:
        width, height: of an upright frame, in square pixels.
        rate: frames per second, on average.
        rotation: degrees by which frames are turned counterclockwise to be upright.
        mirrored: whether they are also mirrored.
    """

    width: int
    height: int
    rate: Fraction
    rotation: int
    mirrored: bool


class VideoFile:
    """A video file, opened: `info`, and frames by time. A context manager; not for several threads at once.

    Times are exact, in seconds from the first frame. A file that is cut off or damaged ends where nothing more can be
    decoded; `ended` says when, after decoding has reached that point.

    Args:
        source: a path, the bytes of a file, or a seekable binary file object, which stays open.
        name: its name in errors; None is the path.

    Raises:
        VideoError: no such file, no video in it, or one that cannot be decoded; names it.
        ModuleNotFoundError: PyAV is missing; names the extra.
    """

    def __init__(self, source: str | os.PathLike[str] | bytes | BinaryIO, *, name: str | None = None) -> None:
        self.name = name or source_name(source, default="video")
        self._end: Fraction | None = None
        self._packets = Packets(source, name=self.name)
        self._duration: Fraction | None = None
        self._far = _FAR
        self._final = (_NEVER, 0)  # time stamp and length of the packet that is displayed last, of those decoded
        self._delay: int | None = None  # packets by which decoding is ahead, where only its times are stated
        try:
            self._check_size()
            self._now, self._ahead = self._begin()
            if self._now is None:
                raise VideoError(self.name, "no frame can be decoded: the file is truncated, damaged or empty")
            self._zero = self._now.stamp
            self._first = self._now.data.width, self._now.data.height
            with self._packets.explain_errors("a frame cannot be converted"):
                self._matrix = _matrix(self._now.data)
            self.info = self._describe(self._now.data)
        except BaseException:
            self._packets.close()
            raise

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives back the file, and the decoder with its threads: a process that is forked has none of these, and hangs
        when it is to end them.
        """
        self._frames.close()  # it refers to this object, which refers to it: without this, both would stay
        self._now = self._ahead = None
        self._packets.close()

    def frames(self, times: Iterable[Fraction]) -> Iterator[Frame]:
        """The frame on display at each of `times`; times outside of the video give its first or last frame.

        Where the next frame is nearer, and begins within a twentieth of a second, it is taken, so that rates which do
        not divide each other are sampled evenly. Decoding begins at the key frame before the first time and
        ends at the last; what lies in large gaps is skipped. Rising times are fastest.
        """
        shown: _Frame | None = None
        shot: Frame | None = None
        for time in times:
            now = self._show(time)
            if shot is None or now is not shown:
                shown, shot = now, self._to_frame(now)
            yield shot

    @property
    def ended(self) -> Fraction | None:
        """The end of the last frame that can be decoded, in seconds; None until decoding has reached it."""
        return None if self._end is None else self._end - self._zero

    def walk(self) -> Iterator[Frame]:
        """All frames, in their order."""
        self._seek(Fraction(0))
        while self._now is not None:
            yield self._to_frame(self._now)
            self._step()

    def duration(self) -> Fraction:
        """Seconds from the first frame to the end of the last one that is in the file, whatever it says of itself and
        however long its sound is. Files without an index are read whole.

        Raises:
            VideoError: its time stamps are damaged.
        """
        if self._duration is None:
            self._now = self._ahead = None  # reading goes elsewhere
            stamp, length = self._packets.last()
            end = stamp + length * (1 + (self._delay or 0))
            self._duration = end * self._packets.tick - self._zero
        if self._duration > _LONGEST:
            raise VideoError(
                self.name, f"its length would be {self._duration // 86400} days: its time stamps are damaged"
            )
        return self._duration

    # -- finding a moment ----------------------------------------------------------------------------------------------

    def _show(self, time: Fraction) -> _Frame:
        """Makes `_now` the frame on display at `time`."""
        if self._now is None:
            self._seek(time)
        elif time < self._time(self._now):
            if self._now.stamp > self._zero:
                self._seek(time)
        elif time - self._time(self._now) > self._far and self._ahead is not None:
            before = self._time(self._now)
            self._seek(time)
            if self._now is not None and self._time(self._now) <= before:  # key frames lie far apart
                self._far = max(2 * self._far, time - self._time(self._now))
        assert self._now is not None
        while self._ahead is not None and self._time(self._ahead) - time < min(time - self._time(self._now), _LATE):
            self._step()
        return self._now

    def _step(self) -> None:
        self._now, self._ahead = self._ahead, None if self._ahead is None else self._pull(self._ahead)

    def _seek(self, time: Fraction) -> None:
        """Makes `_now` a frame at or before `time`, where there is one."""
        packets = self._packets
        aim = time - _REORDERED if packets.by_decoding else time
        for back in _BACK:
            if aim - back <= 0 or not packets.seek(int((aim - back + self._zero) / packets.tick)):
                break
            if self._lands(time):
                return
        number = packets.key_before(int((aim + self._zero) / packets.tick)) if time > _FAR else 0
        packets.restart()
        if number and self._lands(time, skipped=number):
            return
        if number:
            packets.restart()
        self._now, self._ahead = self._begin()
        if self._now is None:
            raise VideoError(self.name, "cannot be decoded a second time: the file is damaged")

    def _lands(self, time: Fraction, *, skipped: int = 0) -> bool:
        """Whether decoding, from the next key frame on, begins at or before `time`."""
        self._now, self._ahead = self._begin(skipped, key=True)
        return self._now is not None and self._time(self._now) <= time

    # -- decoding ------------------------------------------------------------------------------------------------------

    def _begin(self, skipped: int = 0, *, key: bool = False) -> tuple[_Frame | None, _Frame | None]:
        """The next two frames."""
        self._frames = self._decode_from(skipped, key=key)
        now = self._pull(None)
        return now, None if now is None else self._pull(now)

    def _pull(self, last: _Frame | None) -> _Frame | None:
        """The frame after `last`; None at the end."""
        found = next(self._frames, None)
        if found is None and last is not None:
            stamp, length = self._final  # what its packet says: decoders mix up the lengths of frames
            known = stamp * self._packets.tick == last.stamp
            self._end = last.stamp + (length * self._packets.tick if known else self._length(last.data))
        return found

    def _decode_from(self, skipped: int, *, key: bool) -> Generator[_Frame, None, None]:
        """Whole frames in the order of display. What cannot be decoded is passed over.

        Args:
            skipped: packets that are not decoded.
            key: begin at a key frame; frames that are displayed before it are left out, since they may need what is
                not decoded. Where "key frame" means that the image begins to be refreshed, so are those before the
                next one.
        """
        packets = itertools.islice(self._packets.packets(), skipped, None)
        if key:
            packets = itertools.dropwhile(lambda packet: packet is not None and not packet.is_keyframe, packets)
        floor, last, refreshing, by_decoding = None, None, False, self._packets.by_decoding
        begun: list[int] = []
        self._final = (_NEVER, 0)
        for packet in packets:
            stated = None if packet is None else self._packets.stamp(packet)
            if stated is not None:
                self._final = max(self._final, (stated, self._packets.length(packet)))
            if key and floor is None and not by_decoding:
                floor = stated
            if by_decoding and last is None and stated is not None:
                begun.append(stated)
            for data in self._packets.decode(packet):
                # where only times of decoding are stated, that of the packet which completes a frame is that of display
                found = data.dts if by_decoding else self._packets.stamp(data)
                if by_decoding and self._delay is None:
                    self._delay = bisect.bisect_left(begun, found or 0)
                if data.is_corrupt or (found is not None and floor is not None and found < floor):
                    continue
                if key and last is None and not (data.key_frame if refreshing else data.pict_type != _PREDICTED):
                    refreshing = True
                    continue
                if found is not None:
                    stamp = found * Fraction(data.time_base or self._packets.tick)
                    stamp = stamp if last is None else max(stamp, last.stamp)
                elif last is not None:
                    stamp = last.stamp + self._length(last.data)
                elif not key:
                    stamp = Fraction(0)  # a stream without times
                else:
                    continue
                last = _Frame(stamp, data)
                yield last

    def _time(self, frame: _Frame) -> Fraction:
        return frame.stamp - self._zero

    def _length(self, data: Any) -> Fraction:
        """Seconds that a frame is on display, as far as it says."""
        stated = data.duration * Fraction(data.time_base) if data.duration and data.time_base else None
        return stated or 1 / self._packets.rate

    # -- pixels and facts ----------------------------------------------------------------------------------------------

    def _to_frame(self, frame: _Frame) -> Frame:
        width, height = self._square_size()
        with self._packets.explain_errors("a frame cannot be converted"):
            pixels = frame.data.to_ndarray(format="rgb24", width=width, height=height)
        return Frame(self._time(frame), _upright(pixels, self._matrix))

    def _square_size(self) -> tuple[int, int]:
        """Width and height of all frames, not yet upright, in square pixels: those of the first one."""
        width, height = self._first
        ratio = self._packets.stream.sample_aspect_ratio
        return max(round(width * Fraction(ratio)), 1) if ratio and ratio > 0 else width, height

    def _check_size(self) -> None:
        context = self._packets.stream.codec_context
        self._check_pixels(context.width, context.height)

    def _check_pixels(self, width: int, height: int) -> None:
        if width * height > MAX_PIXELS:
            raise VideoError(self.name, f"frames of {width} x {height} pixels; at most {MAX_PIXELS:,} are decoded")

    def _describe(self, frame: Any) -> VideoInfo:
        width, height = self._square_size()
        self._check_pixels(width, height)
        a, b, c, d = self._matrix
        if abs(b) > abs(a):
            width, height = height, width
        return VideoInfo(width, height, self._packets.rate, 90 * (round(frame.rotation / 90) % 4), a * d < b * c)


def _matrix(frame: Any) -> tuple[int, int, int, int]:
    """How frames are to be shown: their display matrix, without the shift."""
    # a frame and its side data refer to each other: those of a copy, so that the frame and the decoder's threads go
    sides = frame.reformat(width=16, height=16, format="gray").side_data.get("DISPLAYMATRIX")
    a, b, _, c, d = struct.unpack("=5i", bytes(sides)[:20]) if sides else (1, 0, 0, 0, 1)
    return (a, b, c, d) if a * d != b * c else (1, 0, 0, 1)


def _upright(pixels: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """`pixels` `[height, width, 3]` turned and mirrored as a display matrix says, to the nearest right angle."""
    a, b, c, d = matrix
    if abs(b) > abs(a):
        pixels, across, down = pixels.transpose(1, 0, 2), c, b
    else:
        across, down = a, d
    return pixels[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]
