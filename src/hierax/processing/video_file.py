"""Reads frames of video files by time. PyAV (FFmpeg) decodes them."""

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

_FAR = Fraction(3)  # seconds: for longer gaps, seeking is faster than decoding
_BACK = (
    Fraction(0),
    Fraction(2),
    Fraction(10),
)  # seconds to seek before a time, one after the other, until it succeeds
_REORDERED = Fraction(1)  # maximum seconds of a frame after its key frame, if only times of decoding are stated
_PREDICTED = 2  # the number in FFmpeg for frames that depend on other frames
_NEVER = -1 << 60  # a time stamp before all others
LATE = Fraction(1, 20)  # a frame is used for a time if it starts at most this many seconds after it
_LONGEST = 100 * 86400  # seconds: if a video states more, its time stamps are damaged
MAX_PIXELS = DEFAULT_MAX_PIXELS
"""Maximum number of pixels of a frame, as for images."""


class Frame(NamedTuple):
    """A frame: its start, in seconds after the first frame, and its upright pixels, uint8 `[height, width, 3]`."""

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
        width, height: size of an upright frame, in square pixels.
        rate: average number of frames per second.
        rotation: degrees by which frames are rotated counterclockwise to be upright.
        mirrored: whether frames are also mirrored.
    """

    width: int
    height: int
    rate: Fraction
    rotation: int
    mirrored: bool


class VideoFile:
    """An open video file, which gives frames by time. It is a context manager, and is not thread-safe.

    Times are exact, in seconds after the first frame. A truncated or damaged file ends where no more frames can be
    decoded. `ended` states this time, after decoding has reached it.

    Args:
        source: a path, the bytes of a file, or a seekable binary file object, which stays open.
        name: the name of the file in errors; None: its path.

    Attributes:
        info: the properties of the video.

    Raises:
        VideoError: there is no such file, or it has no video, or the video cannot be decoded; the message names it.
        ModuleNotFoundError: PyAV is missing; the message names the extra.
    """

    def __init__(self, source: str | os.PathLike[str] | bytes | BinaryIO, *, name: str | None = None) -> None:
        self.name = name or source_name(source, default="video")
        self._end: Fraction | None = None
        self._packets = Packets(source, name=self.name)
        self._duration: Fraction | None = None
        self._far = _FAR
        self._final = (_NEVER, 0)  # time stamp and length of the decoded packet that is displayed last
        self._delay: int | None = None  # packets between decoding and display, if only times of decoding are stated
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
        """Closes the file and the decoder with its threads. A forked process does not have these threads, and would
        hang if it closed them.
        """
        self._frames.close()  # this breaks a reference cycle between the generator and this object
        self._now = self._ahead = None
        self._packets.close()

    def frames(self, times: Iterable[Fraction]) -> Iterator[Frame]:
        """Yields the frame that is displayed at each of `times`. Times outside of the video give its first or last
        frame.

        If the next frame is nearer, and starts within a twentieth of a second, it is used. So rates that do not divide
        each other are sampled evenly. Decoding starts at the key frame before the first time, and ends at the last
        time; large gaps are skipped. Times in ascending order are fastest.
        """
        last: _Frame | None = None
        frame: Frame | None = None
        for time in times:
            now = self._show(time)
            if frame is None or now is not last:
                last, frame = now, self._to_frame(now)
            yield frame

    @property
    def actual_end(self) -> Fraction | None:
        """The end of the last frame that can be decoded, in seconds; None until decoding has reached it."""
        return None if self._end is None else self._end - self._zero

    def walk(self) -> Iterator[Frame]:
        """Yields all frames, in order."""
        self._seek(Fraction(0))
        while self._now is not None:
            yield self._to_frame(self._now)
            self._step()

    def duration(self) -> Fraction:
        """Seconds from the first frame to the end of the last frame in the file. The stated duration and the length of
        the sound are not used. Files without an index are read completely.

        Raises:
            VideoError: the time stamps of the file are damaged.
        """
        if self._duration is None:
            self._now = self._ahead = None  # the position in the file changes
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
            if self._now is not None and self._time(self._now) <= before:  # key frames are far apart
                self._far = max(2 * self._far, time - self._time(self._now))
        assert self._now is not None
        while self._ahead is not None and self._time(self._ahead) - time < min(time - self._time(self._now), LATE):
            self._step()
        return self._now

    def _step(self) -> None:
        self._now, self._ahead = self._ahead, None if self._ahead is None else self._pull(self._ahead)

    def _seek(self, time: Fraction) -> None:
        """Makes `_now` a frame at or before `time`, if there is one."""
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
        """Whether decoding starts at or before `time`. It starts at the next key frame."""
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
            stamp, length = self._final  # the length of its packet: decoders confuse the lengths of frames
            known = stamp * self._packets.tick == last.stamp
            self._end = last.stamp + (length * self._packets.tick if known else self._length(last.data))
        return found

    def _decode_from(self, skipped: int, *, key: bool) -> Generator[_Frame, None, None]:
        """Yields complete frames in the order of display. Frames that cannot be decoded are skipped.

        Args:
            skipped: number of packets that are not decoded.
            key: start at a key frame. Frames that are displayed before it are left out, because they may depend on
                frames that are not decoded. If a "key frame" only starts to refresh the image step by step, the frames
                before the next key frame are left out too.
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
                # if only times of decoding are stated, a frame is displayed when the packet that completes it is
                # decoded
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
        """The seconds for which a frame is displayed: the stated duration, otherwise one step of the frame rate."""
        stated = data.duration * Fraction(data.time_base) if data.duration and data.time_base else None
        return stated or 1 / self._packets.rate

    # -- pixels and facts ----------------------------------------------------------------------------------------------

    def _to_frame(self, frame: _Frame) -> Frame:
        width, height = self._square_size()
        with self._packets.explain_errors("a frame cannot be converted"):
            pixels = frame.data.to_ndarray(format="rgb24", width=width, height=height)
        return Frame(self._time(frame), _upright(pixels, self._matrix))

    def _square_size(self) -> tuple[int, int]:
        """Width and height of the first frame in square pixels, before rotation. All frames get this size."""
        width, height = self._first
        ratio = self._packets.stream.sample_aspect_ratio
        return max(round(width * Fraction(ratio)), 1) if ratio and ratio > 0 else width, height

    def _check_size(self) -> None:
        context = self._packets.stream.codec_context
        self._check_pixels(context.width, context.height)

    def _check_pixels(self, width: int, height: int) -> None:
        if width * height > MAX_PIXELS:
            raise VideoError(self.name, f"frames of {width} x {height} pixels; expected at most {MAX_PIXELS:,}")

    def _describe(self, frame: Any) -> VideoInfo:
        width, height = self._square_size()
        self._check_pixels(width, height)
        a, b, c, d = self._matrix
        if abs(b) > abs(a):
            width, height = height, width
        return VideoInfo(width, height, self._packets.rate, 90 * (round(frame.rotation / 90) % 4), a * d < b * c)


def _matrix(frame: Any) -> tuple[int, int, int, int]:
    """The display matrix of frames, without the shift."""
    # A frame and its side data refer to each other. The side data of a copy are used, so that the frame, and the
    # threads of the decoder, can be freed.
    sides = frame.reformat(width=16, height=16, format="gray").side_data.get("DISPLAYMATRIX")
    a, b, _, c, d = struct.unpack("=5i", bytes(sides)[:20]) if sides else (1, 0, 0, 0, 1)
    return (a, b, c, d) if a * d != b * c else (1, 0, 0, 1)


def _upright(pixels: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Rotates and mirrors `pixels` `[height, width, 3]` according to a display matrix, to the nearest right angle."""
    a, b, c, d = matrix
    if abs(b) > abs(a):
        pixels, across, down = pixels.transpose(1, 0, 2), c, b
    else:
        across, down = a, d
    return pixels[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]
