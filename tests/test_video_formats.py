"""Formats: each frame after a seek is the frame that decoding from the beginning gives; lengths are the video's."""

from __future__ import annotations

import functools
import io
import itertools
import os
import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from hierax.processing import HieraVideoProcessor, VideoError, demux
from hierax.processing.video_file import VideoFile
from videos import number_of, numbered, video

CLOSED, OPEN, REFRESH = "", "open-gop=1", "intra-refresh=1"
KINDS: list[tuple[str, str, int, str]] = [
    *itertools.product(["mp4", "matroska", "avi", "flv", "mpegts", "asf"], ["libx264"], [2], [CLOSED, OPEN, REFRESH]),
    *itertools.product(["mp4", "avi", "mpegts", "nut", "m4v"], ["mpeg4"], [2], [CLOSED]),
    *itertools.product(["mpeg", "vob", "dvd", "mpegts", "avi", "mxf"], ["mpeg2video"], [2], [CLOSED]),
    *itertools.product(["mpeg", "mpeg1video"], ["mpeg1video"], [0], [CLOSED]),
    *itertools.product(["webm"], ["libvpx", "libvpx-vp9"], [0], [CLOSED]),
    ("asf", "wmv2", 0, CLOSED), ("flv", "flv", 0, CLOSED), ("avi", "mjpeg", 0, CLOSED), ("avi", "mpeg4", 0, CLOSED),
    ("mp4", "libx265", 2, CLOSED), ("mpegts", "libx265", 2, CLOSED), ("h264", "libx264", 2, CLOSED),
    ("gif", "gif", 0, CLOSED),
]  # fmt: skip
FRAMES = 64


@functools.cache
def made(container: str, codec: str, b_frames: int, options: str) -> bytes:
    """Numbered frames over noise, which shows every frame that was decoded from others than its own."""

    def noisy() -> Iterator[np.ndarray]:
        for number in range(FRAMES):
            frame = numbered(number)
            frame[30:] = np.random.default_rng(number // 3).integers(0, 255, frame[30:].shape)
            yield frame

    settings = {"x265-params": "log-level=none"} if codec == "libx265" else {"x264-params": options} if options else {}
    return video(noisy(), codec=codec, container=container, options=settings, b_frames=b_frames or None)


@pytest.mark.parametrize(("container", "codec", "b_frames", "options"), KINDS)
def test_every_frame_after_a_seek_is_the_one_that_decoding_from_the_beginning_gives(
    container: str, codec: str, b_frames: int, options: str
) -> None:
    content = made(container, codec, b_frames, options)
    with VideoFile(content) as file:
        shots = list(file.walk())
    numbers = [number_of(shot.pixels) for shot in shots]
    assert numbers == list(range(FRAMES))
    mixed = random.Random(0).sample(shots, len(shots))
    with VideoFile(content) as file:
        found = list(file.frames([shot.time for shot in mixed]))
        again = [number_of(shot.pixels) for shot in file.walk()]
    assert [shot.time for shot in found] == [shot.time for shot in mixed]
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(found, mixed, strict=True))
    assert again == numbers


@pytest.mark.parametrize(("container", "codec", "b_frames", "options"), KINDS)
def test_the_last_frame_ends_where_the_duration_says(container: str, codec: str, b_frames: int, options: str) -> None:
    with VideoFile(made(container, codec, b_frames, options)) as file:
        duration = file.duration()
        last = list(file.walk())[-1]
        assert file.actual_end is not None
        assert abs(file.actual_end - duration) < Fraction(1, 20)
        assert abs(duration - last.time - Fraction(1, 30)) < Fraction(1, 20)


@pytest.mark.parametrize("cut", [0.5, 0.9])
@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("avi", "libx264"), ("avi", "mpeg4"), ("avi", "mjpeg"), ("flv", "libx264"), ("matroska", "libx264"),
        ("webm", "libvpx"), ("mpegts", "libx264"), ("mpeg", "mpeg2video"), ("asf", "wmv2"), ("gif", "gif"),
    ],
)  # fmt: skip
def test_a_file_that_is_cut_off_is_read_as_far_as_it_goes(container: str, codec: str, cut: float) -> None:
    whole = video(150, codec=codec, container=container)
    content = whole[: int(len(whole) * cut)]
    processor = HieraVideoProcessor(size=48, crop_size=48)
    with VideoFile(content) as file:
        duration = file.duration()
        shots = list(file.walk())
        assert [number_of(shot.pixels) for shot in shots][:-2] == list(range(len(shots) - 2))
        assert [number_of(s.pixels) for s in file.frames([Fraction(1, 2), Fraction(0)])] == [15, 0]
        assert abs(duration - shots[-1].time) < Fraction(1, 5)
    assert len(processor.clips(content, views=(5, 1))) == 5
    last = list(processor.windows(content))[-1]
    assert last.end is not None
    assert abs(last.end - duration) < 0.2


# -- lengths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["mp4", "matroska", "webm", "flv", "asf", "avi", "mpegts"])
def test_sound_that_is_longer_does_not_count(container: str) -> None:
    content = video(60, codec="libvpx" if container == "webm" else "libx264", container=container, sound=6.0)
    with VideoFile(content) as file:
        assert abs(file.duration() - 2) < Fraction(1, 20)
    assert len(list(HieraVideoProcessor(size=48, crop_size=48).windows(content))) == 1


@pytest.mark.parametrize("begin", [100, 50_000])
@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "webm"])
def test_a_video_that_begins_late_begins_at_0(container: str, begin: int) -> None:
    times = [1000 * begin + number * 100 // 3 for number in range(60)]
    content = video(60, times=times, codec="libvpx" if container == "webm" else "libx264", container=container)
    with VideoFile(content) as file:
        assert abs(file.duration() - 2) < Fraction(1, 20)
        assert [number_of(shot.pixels) for shot in file.frames([Fraction(1), Fraction(0)])] == [30, 0]


@pytest.mark.parametrize("container", ["mp4", "matroska", "webm", "mpegts", "flv", "nut"])
def test_frames_of_a_changing_rate_are_exact_and_end_where_the_duration_says(container: str) -> None:
    """Gaps of 17 ms to half a second: a frame is never taken for its neighbor."""
    gaps = random.Random(3).choices([17, 33, 33, 100, 500], k=63)
    times = list(itertools.accumulate(gaps, initial=0))
    content = video(64, times=times, codec="libvpx" if container == "webm" else "libx264", container=container)
    with VideoFile(content) as file:
        mixed = random.Random(0).sample(range(64), 64)
        moments = [Fraction(times[number], 1000) for number in mixed]
        assert [number_of(shot.pixels) for shot in file.frames(moments)] == mixed
        assert [number_of(shot.pixels) for shot in file.walk()] == list(range(64))
        assert file.actual_end == file.duration()
        assert 0 < file.duration() - Fraction(times[-1], 1000) < Fraction(6, 10)


def test_a_recording_in_which_the_counter_of_time_overflows_goes_on() -> None:
    """That of transport streams has 33 bits, of 90,000 a second."""
    begin = (1 << 33) // 90 - 2400  # its muxer adds 1.4 seconds
    content = video(64, times=[begin + number * 100 // 3 for number in range(64)], container="mpegts")
    with VideoFile(content) as file:
        assert abs(file.duration() - Fraction(64, 30)) < Fraction(1, 20)
        assert [number_of(s.pixels) for s in file.frames([Fraction(2), Fraction(1, 2)])] == [60, 15]


def test_a_file_of_fragments_that_is_cut_off_is_read_as_far_as_it_goes() -> None:
    whole = video(150, muxer={"movflags": "frag_keyframe+empty_moov"})
    with VideoFile(whole) as file:
        assert abs(file.duration() - 5) < Fraction(1, 20)
    with VideoFile(whole[: len(whole) * 6 // 10]) as file:
        duration, shots = file.duration(), list(file.walk())
        assert [number_of(shot.pixels) for shot in shots] == list(range(len(shots)))
        assert file.actual_end == duration
        assert 2 < duration < 4


def test_time_stamps_that_are_damaged_are_named() -> None:
    content = video(3, times=[0, 33, 1000 * 200 * 86400], container="matroska")
    with (
        VideoFile(content, name="a.mkv") as file,
        pytest.raises(VideoError, match=r"^a.mkv: its length would be 200 days"),
    ):
        file.duration()


@pytest.mark.parametrize(
    ("container", "codec"), [("mpegts", "libx264"), ("mpegts", "mpeg2video"), ("mpeg", "mpeg2video")]
)
def test_files_that_were_put_one_after_the_other_are_one_video(container: str, codec: str) -> None:
    """Their time stamps jump back."""
    first, second = (video(count, codec=codec, container=container) for count in (64, 90))
    with VideoFile(first + second) as file:
        assert abs(file.duration() - Fraction(154, 30)) < Fraction(1, 20)
        shots = list(file.walk())
        assert [number_of(shot.pixels) for shot in shots] == [*range(64), *range(90)]
        assert all(abs(shot.time - Fraction(n, 30)) < Fraction(1, 60) for n, shot in enumerate(shots))
        times = [Fraction(5), Fraction(1), Fraction(3), Fraction(0), Fraction(9, 2)]
        assert [number_of(shot.pixels) for shot in file.frames(times)] == [86, 30, 26, 0, 71]


def test_a_recording_that_begins_in_the_middle_begins_at_its_first_whole_frame() -> None:
    content = video(90, container="mpegts")
    with VideoFile(content[188 * 3 * (len(content) // 188 // 8) :]) as file:
        shots = list(file.walk())
        assert shots[0].time == 0
        assert [number_of(s.pixels) for s in shots] == list(range(number_of(shots[0].pixels), 90))


# -- which stream, which way up ----------------------------------------------------------------------------------------


def several(
    *sizes: tuple[int, int], default: int | None = None, cover: int | None = None, still: int | None = None
) -> bytes:
    """A file with a video of each size (height, width); `default` is the one to show, `cover` an image that is marked
    as one, `still` an image that is not.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4" if cover is not None else "matroska") as out:
        streams: list[Any] = []
        for index, (height, width) in enumerate(sizes):
            stream: Any = out.add_stream("mjpeg" if index in (cover, still) else "libx264", rate=30)
            stream.height, stream.width = height, width
            stream.pix_fmt = "yuvj420p" if index in (cover, still) else "yuv420p"
            shown = Disposition.default if index == default else 0
            stream.disposition = Disposition.attached_pic if index == cover else shown
            streams.append(stream)
        for number in range(3):
            for index, stream in enumerate(streams):
                if index in (cover, still) and number:
                    continue
                frame = av.VideoFrame.from_ndarray(np.zeros((stream.height, stream.width, 3), np.uint8), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 30)
                out.mux(stream.encode(frame))
        for stream in streams:
            out.mux(stream.encode())
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (lambda: several((48, 64), (96, 128), (48, 64)), (128, 96)),
        (lambda: several((48, 64), (96, 128), default=0), (64, 48)),
        (lambda: several((480, 640), (48, 64), cover=0), (64, 48)),
        (lambda: several((480, 640), (48, 64), still=0), (64, 48)),
        (lambda: several((48, 64), (48, 64)), (64, 48)),
    ],
    ids=["largest", "default", "no cover", "no still image", "first"],
)
def test_of_several_streams_the_one_to_be_shown_is_read(content: Callable[[], bytes], wanted: tuple[int, int]) -> None:
    with VideoFile(content()) as file:
        assert (file.info.width, file.info.height) == wanted
        assert len(list(file.walk())) == 3


def test_a_cover_alone_is_no_video() -> None:
    with pytest.raises(VideoError, match="no video in this file"):
        VideoFile(several((48, 64), cover=0))


CORNERS = {
    # what a display matrix (a, b, c, d) makes of the corners (top left, top right, bottom left, bottom right)
    (1, 0, 0, 1): "ABCD", (-1, 0, 0, 1): "BADC", (1, 0, 0, -1): "CDAB", (-1, 0, 0, -1): "DCBA",
    (0, 1, -1, 0): "CADB", (0, -1, 1, 0): "BDAC", (0, 1, 1, 0): "ACBD", (0, -1, -1, 0): "DBCA",
}  # fmt: skip


@pytest.mark.parametrize("matrix", CORNERS, ids=str)
def test_frames_are_turned_and_mirrored_as_the_file_says(matrix: tuple[int, int, int, int]) -> None:
    frame = np.zeros((48, 64, 3), np.uint8)
    grays = {"A": 20, "B": 90, "C": 160, "D": 230}
    frame[:24, :32], frame[:24, 32:], frame[24:, :32], frame[24:, 32:] = grays.values()
    content = bytearray(video([frame] * 3))
    place = content.index(b"tkhd") + 4 + 40  # of a version 0 header: behind times, track, duration, layer and volume
    a, b, c, d = (value << 16 for value in matrix)
    content[place : place + 36] = b"".join(
        value.to_bytes(4, "big", signed=True) for value in (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    )
    with VideoFile(bytes(content)) as file:
        (shot,) = file.frames([Fraction(0)])
        height, width = shot.pixels.shape[:2]
        assert (file.info.width, file.info.height) == (width, height) == ((64, 48) if matrix[0] else (48, 64))
        assert file.info.mirrored == (matrix[0] * matrix[3] < matrix[1] * matrix[2])
    seen = [shot.pixels[y, x].mean() for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    assert "".join(min(grays, key=lambda name: abs(grays[name] - value)) for value in seen) == CORNERS[matrix]


@pytest.mark.parametrize(("aspect", "width"), [(Fraction(12, 11), 70), (Fraction(1, 2), 32), (Fraction(16, 15), 68)])
def test_odd_pixels_are_made_square(aspect: Fraction, width: int) -> None:
    with VideoFile(video(3, aspect=aspect)) as file:
        (shot,) = file.frames([Fraction(0)])
        assert shot.pixels.shape == (48, width, 3)


def test_all_frames_have_the_size_of_the_first() -> None:
    """As where a broadcast changes its resolution."""
    first, second = video(20, container="mpegts"), video(20, container="mpegts", size=(96, 128))
    with VideoFile(first + second) as file:
        shots = list(file.walk())
    assert len(shots) == 40
    assert {shot.pixels.shape for shot in shots} == {(48, 64, 3)}
    assert [number_of(shot.pixels) for shot in shots] == [*range(20), *range(20)]


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    for path in (tmp_path / "a.mp4", Path("/dev/zero")):
        with pytest.raises(VideoError, match=rf"^{path}: not a regular file"):
            VideoFile(path)


@pytest.mark.parametrize("name", ["10:30.mp4", "pipe:0", "http:a.mp4", "file:a.mp4", "a%03d.mp4", "-a.mp4", "ä b.mp4"])
def test_any_name_is_that_of_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where FFmpeg would take it for an address."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(video(20))
    for path in (name, Path(name)):
        with VideoFile(path) as file:
            assert len(list(file.walk())) == 20


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.mp4", "ffconcat version 1.0\nfile other.ts\n"),
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nother.ts\n#EXT-X-ENDLIST\n"),
        ("list.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"
                     "a=rtpmap:96 H264/90000\n"),
    ],
)  # fmt: skip
def test_what_only_names_other_files_or_addresses_is_no_video(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "other.ts").write_bytes(video(30, container="mpegts"))
    (tmp_path / name).write_text(text)
    for source in (tmp_path / name, text.encode()):
        with pytest.raises(VideoError, match="not a video"):
            VideoFile(source)


def test_frames_that_are_too_large_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hierax.processing.video_file.MAX_PIXELS", 48 * 64 - 1)
    with pytest.raises(VideoError, match=r"frames of 64 x 48 pixels; expected at most 3,071"):
        VideoFile(video(3))
    monkeypatch.setattr("hierax.processing.video_file.MAX_PIXELS", 48 * 255)
    with pytest.raises(VideoError, match=r"frames of 256 x 48 pixels"):
        VideoFile(video(3, aspect=Fraction(4)))


def test_a_seek_that_a_format_refuses_opens_the_file_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    content, opened = video(200), []
    restart = demux.Packets.restart
    monkeypatch.setattr(demux.Packets, "restart", lambda self: opened.append(1) or restart(self))
    monkeypatch.setattr(demux.Packets, "seek", lambda self, stamp: False)
    with VideoFile(content) as file:
        found = [number_of(shot.pixels) for shot in file.frames([Fraction(6), Fraction(1), Fraction(0)])]
    assert found == [180, 30, 0]
    assert len(opened) > 3
