"""Video files: what they hold, and their frames by time, decoded by PyAV (FFmpeg)."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from hierax.processing.errors import ImageError
from hierax.processing.reading import source_name

_FAR = Fraction(3)  # seconds: a gap that is worth a seek
_BACK = (Fraction(0), Fraction(2), Fraction(10))  # seconds before a moment that a seek aims at, until it lands there
_BEFORE = Fraction(-10)  # where a seek aims that must not miss the first key frame, as in MPEG-TS
_LATE = Fraction(1, 20)  # how much after a moment a frame may begin to be its frame, at the most
_NO_VIDEO = "not a video (MP4, WebM, MKV, MOV, AVI, … are read), or cut off before its table of contents"
_UNKNOWN_RATE = Fraction(30)  # of a file that does not say its own


class VideoError(ImageError):
    """A video that cannot be read or used: `source` says which, `problem` why."""


class Shot(NamedTuple):
    """A frame: when it begins, in seconds from the first, and its pixels, upright, uint8 `[height, width, 3]`."""

    time: Fraction
    pixels: np.ndarray


@dataclass(frozen=True)
class VideoInfo:
    """What a video says of itself.

    Attributes:
        width, height: of an upright frame, in square pixels.
        rate: frames per second, on average.
        duration: seconds; None where only reading it all would tell.
        rotation: degrees by which frames are turned counterclockwise to be upright.
    """

    width: int
    height: int
    rate: Fraction
    duration: Fraction | None
    rotation: int


class VideoFile:
    """A video file, opened: `info`, and frames by time. A context manager; not for several threads at once.

    Times are exact, in seconds from the beginning of the video stream. A file that is cut off or damaged ends where
    nothing more can be decoded; `ended` says when, once that was come to.

    Args:
        source: a path, the bytes of a file, or a file opened to read bytes, which can be sought in and stays open.
        name: what errors call it; None takes the path.

    Raises:
        VideoError: no such file, no video in it, or one that cannot be decoded; names it.
        ModuleNotFoundError: PyAV is missing; names the extra.
    """

    def __init__(self, source: str | os.PathLike[str] | bytes | BinaryIO, *, name: str | None = None) -> None:
        self._av = import_av()
        self.name = name or source_name(source, default="video")
        self.ended: Fraction | None = None
        self._now: Any = None
        self._ahead: Any = None
        self._frames: Any = None
        self._container: Any = self._opened(source)
        try:
            self._stream: Any = self._video_stream()
            self._tick = Fraction(self._stream.time_base or Fraction(1, 1000))
            self._zero = (self._stream.start_time or 0) * self._tick
            rate = self._stream.average_rate or self._stream.guessed_rate
            self._rate = Fraction(rate) if rate else _UNKNOWN_RATE
            self._frames = self._decoded()
            self._now = self._pull()
            if self._now is None:
                raise VideoError(self.name, "no frame of it can be decoded: cut off, damaged, or without any")
            self._ahead = self._pull()
            self.info = self._described(self._now)
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives back the file, and the decoder with its threads: a process that is forked has none of these, and hangs
        when it is to end them.
        """
        if self._container is None:
            return
        self._frames.close()  # it refers to this object, which refers to it: without this, both would stay
        self._now = self._ahead = None
        self._container.close()
        self._stream = self._container = None

    def frames(self, times: Iterable[Fraction]) -> Iterator[Shot]:
        """The frame on display at each of `times`; before the first frame and after the last one, that one.

        A frame that begins up to half a frame later, at most a twentieth of a second, is taken as well, so that rates
        which do not divide each other are sampled evenly. Decoding begins at the key frame before the first time and
        ends at the last; what lies in large gaps is skipped. Rising times are fastest.
        """
        late = min(1 / self._rate / 2, _LATE)
        shown: Any = None
        shot: Shot | None = None
        for time in times:
            self._show(time, late)
            if shot is None or self._now is not shown:
                shown, shot = self._now, self._shot(self._now)
            yield shot

    def walk(self) -> Iterator[Shot]:
        """All frames, in their order."""
        self._seek(Fraction(0))
        while True:
            yield self._shot(self._now)
            if self._ahead is None:
                return
            self._step()

    def duration(self) -> Fraction:
        """Seconds: what the file says, or, where it says nothing, the end of its last packet."""
        if self.info.duration is not None:
            return self.info.duration
        self._rewind(_BEFORE)
        last = Fraction(0)
        with contextlib.suppress(self._av.FFmpegError):
            for packet in self._container.demux(self._stream):
                if packet.pts is not None:
                    length = packet.duration * self._tick if packet.duration else 1 / self._rate
                    last = max(last, packet.pts * self._tick - self._zero + length)
        self._seek(Fraction(0))
        return last

    # -- finding a moment ----------------------------------------------------------------------------------------------

    def _show(self, time: Fraction, late: Fraction) -> None:
        """Makes `_now` the frame on display at `time`."""
        now = self._time(self._now)
        if time < now or (time - now > _FAR and self._ahead is not None):
            self._seek(time)
        while self._ahead is not None and self._time(self._ahead) < time + late:
            self._step()

    def _step(self) -> None:
        self._now, self._ahead = self._ahead, self._pull()

    def _seek(self, time: Fraction) -> None:
        """Makes `_now` a frame at or before `time`, where there is one."""
        for back in (*_BACK, None):
            aim = time - back if back is not None and back < time else _BEFORE
            self._rewind(aim)
            self._now = self._pull()
            if self._now is not None and (aim == _BEFORE or self._time(self._now) <= time):
                break
        if self._now is None:
            raise VideoError(self.name, "can be decoded only once from its beginning: damaged")
        self._ahead = self._pull()

    def _rewind(self, aim: Fraction) -> None:
        with self._told("cannot be sought in"):
            self._container.seek(int((aim + self._zero) / self._tick), stream=self._stream)
        self._frames, self._now, self._ahead = self._decoded(), None, None

    def _decoded(self) -> Iterator[Any]:
        """Frames in the order of display; packets that cannot be decoded are passed over."""
        try:
            for packet in self._container.demux(self._stream):
                try:
                    frames = packet.decode()
                except self._av.FFmpegError:
                    continue
                yield from frames
        except self._av.FFmpegError:  # the end of what is left of a file
            return

    def _pull(self) -> Any:
        """The next whole frame that has a time; None at the end."""
        last = self._ahead or self._now
        for frame in self._frames:
            if (frame.pts is not None or frame.dts is not None) and not frame.is_corrupt:
                return frame
        if last is not None:
            length = frame_length(last) or 1 / self._rate
            self.ended = self._time(last) + length
        return None

    def _time(self, frame: Any) -> Fraction:
        stamp = frame.pts if frame.pts is not None else frame.dts
        return stamp * Fraction(frame.time_base or self._tick) - self._zero

    # -- pixels and facts ----------------------------------------------------------------------------------------------

    def _shot(self, frame: Any) -> Shot:
        wide = self._square_width(frame)
        with self._told("a frame cannot be converted"):
            pixels = frame.to_ndarray(format="rgb24", **({"width": wide} if wide != frame.width else {}))
        turns = round(frame.rotation / 90) % 4
        return Shot(self._time(frame), np.rot90(pixels, turns) if turns else pixels)

    def _square_width(self, frame: Any) -> int:
        """Width of a frame in pixels as wide as they are high."""
        ratio = self._stream.sample_aspect_ratio
        return max(round(frame.width * Fraction(ratio)), 1) if ratio and ratio > 0 else frame.width

    def _described(self, frame: Any) -> VideoInfo:
        stream, turns = self._stream, round(frame.rotation / 90) % 4
        duration = None
        if stream.duration is not None:
            duration = stream.duration * self._tick
        elif self._container.duration is not None:
            duration = Fraction(self._container.duration, self._av.time_base)
        sides = (self._square_width(frame), frame.height)
        width, height = sides[::-1] if turns % 2 else sides
        return VideoInfo(width, height, self._rate, duration if duration and duration > 0 else None, 90 * turns)

    def _opened(self, source: str | os.PathLike[str] | bytes | BinaryIO) -> Any:
        if isinstance(source, (bytes, bytearray, memoryview)):
            source = io.BytesIO(source)
        if isinstance(source, (str, os.PathLike)):
            size, there = self._size_of(source), os.fspath(source)
        else:
            there = source
            with self._told("cannot be sought in"):
                size = source.seek(0, os.SEEK_END)
                source.seek(0)
        if size == 0:
            raise VideoError(self.name, "is empty")
        with self._told(_NO_VIDEO):
            return self._av.open(there, metadata_errors="replace")

    def _size_of(self, path: str | os.PathLike[str]) -> int:
        if os.path.isdir(path):
            raise VideoError(self.name, "is a folder")
        try:
            return os.stat(path).st_size
        except OSError as error:
            raise VideoError(self.name, (error.strerror or str(error)).lower()) from None

    def _video_stream(self) -> Any:
        attached = self._av.stream.Disposition.attached_pic
        streams = [s for s in self._container.streams.video if not s.disposition & attached]
        if not streams:
            sound = " (only sound)" if self._container.streams.audio else ""
            raise VideoError(self.name, f"no video in this file{sound}")
        stream = streams[0]
        if stream.codec_context is None:
            raise VideoError(self.name, "its codec is not known to this build of FFmpeg")
        stream.thread_type = "AUTO"
        return stream

    @contextlib.contextmanager
    def _told(self, problem: str) -> Iterator[None]:
        """Errors of FFmpeg as `VideoError`."""
        try:
            yield
        except (self._av.FFmpegError, OSError, ValueError) as error:
            if isinstance(error, VideoError):
                raise
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise VideoError(self.name, f"{problem} ({reason})") from None


def frame_length(frame: Any) -> Fraction | None:
    """Seconds that a frame says it is on display."""
    return frame.duration * Fraction(frame.time_base) if frame.duration and frame.time_base else None


def import_av() -> ModuleType:
    """PyAV, quiet.

    Raises:
        ModuleNotFoundError: it is missing; names the extra.
    """
    from hierax.extras import load

    load("a video", "av.logging").set_level(None)
    return load("a video", "av")
