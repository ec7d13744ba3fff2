"""Reads the packets of a video file: selects the stream, and finds where decoding can begin."""

from __future__ import annotations

import bisect
import codecs
import contextlib
import io
import os
import stat
from collections.abc import Iterator
from fractions import Fraction
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

from hierax.processing.errors import ImageError

# In these formats, the index or the time stamps lead exactly to a frame. Other formats are read from the beginning:
# MPEG-PS states the times of only some frames, FLV has no index, and streams without a container have no times.
_SEEKABLE = frozenset(["mov", "matroska", "avi"])
# The formats that are read, by their names in FFmpeg. Lists of files (HLS, DASH, concat) and of addresses (SDP) are
# missing, because they would open other files. They are texts, and are refused before FFmpeg opens them.
_FORMATS = """
    mov matroska avi flv live_flv mpegts mpeg mpegvideo asf asf_o ogg nut mxf gxf dv rm ivf gif apng wtv nsv swf pva ty
    lmlm4 yuv4mpegpipe mjpeg mjpeg_2000 m4v h261 h263 h264 hevc vvc av1 obu evc vc1 vc1test cavsvideo dirac dnxhd avs2
    avs3 bink smk roq flic film_cpk filmstrip ea 4xm idcin ipmovie psxstr thp vmd xmv wc3movie mv
"""
_TEXT = frozenset(b"\t\n\f\r" + bytes(range(32, 127)))
_BEGINNING = 256  # number of first bytes that are checked: only the format of raw frames begins with text
_RAW_FRAMES = b"YUV4MPEG2"
_TRANSPORT = "mpegts"  # can be seeked, unless its time stamps jump
_DECODING_TIMES = frozenset(["avi", "asf"])  # formats that state when a frame is decoded, not when it is displayed
_JUMP_BACK, _JUMP_AHEAD = Fraction(1, 10), Fraction(10)  # seconds between packets that count as a jump of time
_KEYS_APART = Fraction(1, 2)  # minimum seconds between the key frames that are stored, which limits the memory
_END = 1 << 40  # later than every time stamp
_NO_VIDEO = "not a video (MP4, WebM, MKV, MOV, AVI, … are read), or truncated before its index"
_UNKNOWN_RATE = Fraction(30)  # frames per second of a file that states no rate
_STILLS = frozenset(["mjpeg", "png", "bmp", "webp", "tiff", "jpeg2000"])  # codecs of images
_PICTURES = ("attached_pic", "timed_thumbnails", "still_image", "dependent")


class VideoError(ImageError):
    """A video that cannot be read or used. `source` names it, and `problem` says why."""


class Scan(NamedTuple):
    """A summary of all packets of a file.

    Attributes:
        last: time stamp and length of the packet that is displayed last.
        keys: the key frames: time stamp and packet number.
        regular: whether time stamps lead exactly to a frame.
    """

    last: tuple[int, int]
    keys: list[tuple[int, int]]
    regular: bool


class Packets:
    """The open video stream of a file, as packets in the order of decoding.

    The unit of time stamps is `tick` seconds. If they jump, as in concatenated transport streams, the jump is removed.

    Args:
        source: a path, the bytes of a file, or a seekable binary file object, which stays open.
        name: the name of the file in errors.

    Raises:
        VideoError: the file is missing, or is not a regular file, or has no video.
        ModuleNotFoundError: PyAV is missing; the message names the extra.
    """

    def __init__(self, source: str | os.PathLike[str] | bytes | BinaryIO, *, name: str) -> None:
        self._av = import_av()
        self.name = name
        self._source = io.BytesIO(source) if isinstance(source, (bytes, bytearray, memoryview)) else source
        self._check_source()
        path = self._source if isinstance(self._source, (str, os.PathLike)) else None
        # FFmpeg could treat a name as an address, such as pipe:0
        self._address = self._source if path is None else f"file:{os.path.abspath(path)}"
        self._scan: Scan | None = None
        self._jumped = False
        self.container: Any = None
        self.restart()
        formats = frozenset(self.container.format.name.split(","))
        self.by_decoding = bool(formats & _DECODING_TIMES)
        self._discontinuous = bool(self.container.format.flags & self._av.format.Flags.ts_discont.value)
        self._transport = _TRANSPORT in formats
        self._seekable = bool(formats & _SEEKABLE)
        self.tick = Fraction(self.stream.time_base or Fraction(1, 1000))
        rate = self.stream.average_rate or self.stream.guessed_rate
        self.rate = Fraction(rate) if rate else _UNKNOWN_RATE
        self._back = int(_JUMP_BACK / self.tick)
        self._ahead = int(_JUMP_AHEAD / self.tick)

    # -- opening -------------------------------------------------------------------------------------------------------

    def restart(self) -> None:
        """Opens the file again, at its first packet."""
        self.close()
        if not isinstance(self._source, (str, os.PathLike)):
            with self.explain_errors("is not seekable"):
                self._source.seek(0)
        with self.explain_errors(_NO_VIDEO):
            self.container = self._av.open(self._address, metadata_errors="replace")
        try:
            if not set(_FORMATS.split()) & set(self.container.format.name.split(",")):
                raise VideoError(self.name, _NO_VIDEO)
            self.stream: Any = self._video_stream()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file, and frees the decoder and its threads."""
        if self.container is not None:
            self.container.close()
        self.stream = self.container = None

    def _check_source(self) -> None:
        source = self._source
        if not isinstance(source, (str, os.PathLike)):
            with self.explain_errors("is not seekable"):
                source.seek(0)
                begins = source.read(_BEGINNING)
        else:
            try:
                mode = os.stat(source).st_mode
                if not stat.S_ISREG(mode):
                    raise VideoError(self.name, "is a folder" if stat.S_ISDIR(mode) else "not a regular file")
                with open(source, "rb") as file:
                    begins = file.read(_BEGINNING)
            except OSError as error:
                raise VideoError(self.name, (error.strerror or str(error)).lower()) from None
        if not begins:
            raise VideoError(self.name, "is empty")
        if _TEXT.issuperset(begins.removeprefix(codecs.BOM_UTF8)) and not begins.startswith(_RAW_FRAMES):
            raise VideoError(self.name, _NO_VIDEO)

    def _video_stream(self) -> Any:
        """The video stream to read, which is not a cover image: the default stream, else the largest, else
        the first.
        """
        kinds = [self._av.stream.Disposition[name] for name in _PICTURES]
        streams = [s for s in self.container.streams.video if not any(s.disposition & kind for kind in kinds)]
        if not streams:
            sound = " (only sound)" if self.container.streams.audio else ""
            raise VideoError(self.name, f"no video in this file{sound}")
        known = [s for s in streams if s.codec_context is not None]
        if not known:
            raise VideoError(self.name, "its codec is not known to this build of FFmpeg")
        default = self._av.stream.Disposition.default

        def rank(stream: Any) -> tuple[bool, bool, bool, int]:
            moves = stream.codec_context.name not in _STILLS  # cover images are not always marked as such
            return stream.frames != 1, bool(stream.disposition & default), moves, stream.width * stream.height

        stream = max(known, key=rank)
        stream.thread_type = "AUTO"
        return stream

    # -- reading -------------------------------------------------------------------------------------------------------

    def decode(self, packet: Any) -> list[Any]:
        """The frames that this packet completes; None gives the last frames."""
        try:
            return packet.decode() if packet is not None else self.stream.codec_context.decode(None)
        except self._av.FFmpegError:
            return []

    def packets(self) -> Iterator[Any]:
        """Yields the packets that follow, without jumps of time, and at the end None, which flushes the decoder. A
        truncated file ends where it is truncated.
        """
        shift, expected, damaged = 0, None, None
        try:
            for packet in self.container.demux(self.stream):
                if not packet.size:
                    continue
                if damaged is not None:
                    yield damaged
                if packet.dts is not None:
                    if expected is not None and self._jumps(packet.dts + shift - expected):
                        shift, self._jumped = expected - packet.dts, True
                    packet.dts += shift
                    expected = packet.dts + self.length(packet)
                if packet.pts is not None:
                    packet.pts += shift
                damaged = packet if packet.is_corrupt else None  # the last packet of a truncated file is incomplete
                if damaged is None:
                    yield packet
        except self._av.FFmpegError:  # the end of a truncated file
            pass
        yield None

    def _jumps(self, gap: int) -> bool:
        return gap < -self._back or (self._discontinuous and gap > self._ahead)

    def length(self, packet: Any) -> int:
        """The duration for which a packet is displayed, in ticks."""
        return packet.duration or round(1 / self.rate / self.tick)

    def seek(self, stamp: int) -> bool:
        """Moves to the packet of a key frame at or before a time stamp. Returns False if the format does not allow
        this.
        """
        if not self._seekable and not (self._transport and self.scan().regular):
            return False
        try:
            self.container.seek(stamp, stream=self.stream)
        except (self._av.FFmpegError, OSError, ValueError):
            self._seekable = self._transport = False
            return False
        return True

    def key_before(self, stamp: int) -> int:
        """The packet number of the last key frame at or before a time stamp; 0 if none is known. It reads the whole
        file.
        """
        keys = self.scan().keys
        place = bisect.bisect_right(keys, (stamp, _END)) - 1
        return keys[place][1] if place >= 0 else 0

    # -- all packets ---------------------------------------------------------------------------------------------------

    def last(self) -> tuple[int, int]:
        """The time stamp and length of the packet that is displayed last. Call `restart` or `seek` afterwards."""
        found = None
        if self._scan is None and self._seekable:
            with contextlib.suppress(self._av.FFmpegError, OSError, ValueError):
                self.container.seek(_END, stream=self.stream)
                ends = [(stamp, self.length(p)) for p in self._full_packets() if (stamp := self.stamp(p)) is not None]
                found = max(ends, default=None)
        return self.scan().last if found is None else found

    def scan(self) -> Scan:
        """Reads all packets without decoding them. Call `restart` or `seek` afterwards."""
        if self._scan is None:
            self.restart()
            self._jumped = False
            last, keys, regular, apart = (-_END, 0), [], True, int(_KEYS_APART / self.tick)
            for number, packet in enumerate(self._full_packets()):
                stamp = self.stamp(packet)
                regular = regular and None not in (packet.pts, packet.dts, packet.pos)
                if stamp is None:  # a stream without times
                    stamp = sum(last) if number else 0
                elif packet.is_keyframe and (not keys or stamp >= keys[-1][0] + apart):
                    keys.append((stamp, number))
                last = max(last, (stamp, self.length(packet)))
            self._scan = Scan(last, keys, regular and not self._jumped)
        return self._scan

    def stamp(self, of: Any) -> int | None:
        """The time stamp at which a packet or frame is displayed; in some formats, at which it is decoded."""
        first, second = (of.dts, of.pts) if self.by_decoding else (of.pts, of.dts)
        return second if first is None else first

    def _full_packets(self) -> Iterator[Any]:
        return (packet for packet in self.packets() if packet is not None)

    @contextlib.contextmanager
    def explain_errors(self, problem: str) -> Iterator[None]:
        """Converts errors of FFmpeg, and a lack of memory, to `VideoError`."""
        try:
            yield
        except (self._av.FFmpegError, OSError, ValueError, MemoryError) as error:
            if isinstance(error, VideoError):
                raise
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise VideoError(self.name, f"{problem} ({reason})") from None


def import_av() -> ModuleType:
    """Imports PyAV, and turns off its messages.

    Raises:
        ModuleNotFoundError: PyAV is missing; the message names the extra.
    """
    from hierax.extras import load

    load("a video", "av.logging").set_level(None)
    return load("a video", "av")
