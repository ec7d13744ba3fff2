"""Decoding: frames by time, exact against what was encoded, and files that are not as they should be."""

from __future__ import annotations

import gc
import io
import itertools
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hierax.processing import VideoError
from hierax.processing.video_file import VideoFile
from videos import number_of, numbered, only_sound, video

STEP = Fraction(4, 30)
TIMES = [number * STEP for number in range(16)]


def numbers_at(content: bytes, times: list[Fraction]) -> list[int]:
    with VideoFile(content) as file:
        return [number_of(shot.pixels) for shot in file.frames(times)]


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_every_frame_comes_in_its_order_and_at_its_time(codec: str, container: str) -> None:
    with VideoFile(video(50, codec=codec, container=container)) as file:
        shots = list(file.walk())
        again = list(file.walk())
    assert [number_of(shot.pixels) for shot in shots] == list(range(50)) == [number_of(s.pixels) for s in again]
    assert all(abs(shot.time - Fraction(i, 30)) <= Fraction(1, 1000) for i, shot in enumerate(shots))
    if container == "mp4":
        assert [shot.time for shot in shots] == [Fraction(i, 30) for i in range(50)]


@pytest.mark.parametrize(
    ("rate", "wanted"),
    [
        (30, [4 * k for k in range(16)]),
        (60, [8 * k for k in range(16)]),
        (Fraction(30000, 1001), [4 * k for k in range(16)]),
        (24, [0, 3, 6, 10, 13, 16, 19, 22, 26, 29, 32, 35, 38, 42, 45, 48]),
        (15, [2 * k for k in range(16)]),
        (10, [0, 1, 3, 4, 5, 7, 8, 9, 11, 12, 13, 15, 16, 17, 19, 20]),
    ],
)
def test_other_rates_are_sampled_by_time(rate: Any, wanted: list[int]) -> None:
    """The nearest frame to every fourth of 30 a second."""
    assert numbers_at(video(140, rate=rate), TIMES) == wanted


def test_times_may_be_asked_for_in_any_order() -> None:
    times = [Fraction(2), Fraction(1, 2), Fraction(1, 2), Fraction(29, 10), Fraction(0)]
    assert numbers_at(video(90), times) == [60, 15, 15, 87, 0]


def test_before_the_first_frame_and_behind_the_last_that_frame_is_shown() -> None:
    with VideoFile(video(30)) as file:
        shots = list(file.frames([Fraction(-1), Fraction(5)]))
        assert ([number_of(shot.pixels) for shot in shots], file.actual_end) == ([0, 29], Fraction(1))


def test_frames_that_stay_are_shown_as_long_as_they_stay() -> None:
    """A variable rate: a second of 33 ms frames, a second of nothing new, and so on."""
    times = [number * 33 + (number // 30) * 1000 for number in range(90)]
    content = video(90, times=times, container="matroska")
    assert numbers_at(content, [Fraction(n, 4) for n in range(8)]) == [0, 8, 15, 23, 29, 29, 29, 29]


def test_large_gaps_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = itertools.chain.from_iterable(itertools.repeat(numbered(second), 30) for second in range(60))
    content, pulled = video(frames), []
    pull = VideoFile._pull
    monkeypatch.setattr(VideoFile, "_pull", lambda self, last: pulled.append(1) or pull(self, last))
    assert numbers_at(content, [Fraction(1, 2), Fraction(30), Fraction(59)]) == [0, 30, 59]
    assert len(pulled) < 100


def test_a_seek_that_no_key_frame_answers_is_decoded_through() -> None:
    assert numbers_at(video(200, keys=1000), [Fraction(6), Fraction(1)]) == [180, 30]


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_frames_are_upright(rotation: int) -> None:
    """The red bar at the top goes where the rotation, counterclockwise, takes it."""
    with VideoFile(video(3, rotation=rotation)) as file:
        (shot,) = file.frames([Fraction(0)])
        info = file.info
    height, width = shot.pixels.shape[:2]
    assert (info.height, info.width, info.rotation) == (height, width, rotation % 360)
    assert (height, width) == ((48, 64) if rotation == 180 else (64, 48))
    bars = {90: shot.pixels[:, :4], 180: shot.pixels[-4:], -90: shot.pixels[:, -4:]}
    assert bars[rotation][..., 0].mean() > 200
    assert bars[rotation][..., 1:].mean() < 40


def test_pixels_that_are_not_square_are_made_so() -> None:
    with VideoFile(video(3, aspect=Fraction(2))) as file:
        (shot,) = file.frames([Fraction(0)])
        assert (file.info.width, file.info.height, shot.pixels.shape) == (128, 48, (48, 128, 3))


@pytest.mark.parametrize("size", [(46, 62), (34, 2), (16, 130)])
def test_odd_shapes(size: tuple[int, int]) -> None:
    content = video([np.full((*size, 3), 90, np.uint8)] * 3)
    with VideoFile(content) as file:
        (shot,) = file.frames([Fraction(0)])
    assert shot.pixels.shape == (*size, 3)
    assert abs(int(shot.pixels.mean()) - 90) <= 2


def test_sound_is_passed_over() -> None:
    assert numbers_at(video(90, sound=True), TIMES) == [4 * k for k in range(16)]


def test_one_frame_is_a_video() -> None:
    assert numbers_at(video(1), TIMES) == [0] * 16


def test_a_file_that_is_cut_off_ends_where_it_is_cut() -> None:
    whole = video(300, container="matroska")
    with VideoFile(whole[: len(whole) // 2]) as file:
        shots = list(file.walk())
        assert 30 < len(shots) < 300
        assert file.actual_end is not None
        assert 0 < file.actual_end - shots[-1].time < Fraction(1, 20)
        assert abs(file.duration() - file.actual_end) <= Fraction(1, 20)  # of what is there, not of what was
        assert [number_of(shot.pixels) for shot in shots] == [round(shot.time * 30) % 256 for shot in shots]


def test_a_broken_packet_in_the_middle_loses_only_what_needs_it() -> None:
    content = bytearray(video(300, codec="mpeg4", container="matroska", keys=10))
    middle = len(content) // 2
    content[middle : middle + 40] = b"\xff" * 40
    with VideoFile(bytes(content)) as file:
        assert len(list(file.walk())) > 250


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"a list of things\n" * 50, r"not a video \(MP4, WebM, MKV"),
        (video(90)[:2000], r"not a video \(MP4, WebM, MKV"),
        (only_sound(), r"no video in this file \(only sound\)"),
    ],
    ids=["empty", "text", "cut off", "sound"],
)
def test_what_cannot_be_read_is_named(content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match=rf"^{path}: {problem}"):
        VideoFile(path)
    with pytest.raises(VideoError, match=rf"^mine: {problem}"):
        VideoFile(content, name="mine")


def test_what_cannot_be_sought_in_is_named(tmp_path: Path) -> None:
    class Pipe(io.BytesIO):
        def seek(self, *_: int) -> int:
            raise io.UnsupportedOperation("underlying stream is not seekable")

    with pytest.raises(VideoError, match=r"^video: is not seekable \(underlying stream is not seekable\)"):
        VideoFile(Pipe(video(3)))


def test_a_folder_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="is a folder"):
        VideoFile(tmp_path)
    with pytest.raises(VideoError, match=r"gone\.mp4: no such file"):
        VideoFile(tmp_path / "gone.mp4")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted as Linux lists them")
@pytest.mark.parametrize(
    "use",
    [
        lambda file: None,
        lambda file: list(file.walk()),
        lambda file: next(file.walk()),
        lambda file: [file.duration(), *file.frames([Fraction(2), Fraction(1), Fraction(0)])],
    ],
    ids=["opened", "walked", "begun", "sought"],
)
def test_no_thread_of_a_decoder_stays_behind(use: Callable[[VideoFile], Any]) -> None:
    """Not even until garbage is collected: a process that is forked before that would end threads it lacks."""
    content = video(90, container="avi", codec="mpeg4")
    gc.collect()
    gc.disable()
    try:
        before = len(list(Path("/proc/self/task").iterdir()))
        with VideoFile(content) as file:
            use(file)
        assert len(list(Path("/proc/self/task").iterdir())) == before
    finally:
        gc.enable()


def test_without_pyav_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"needs the package av: pip install 'av>=17\.1' \(part of hierax\[video\]\)"
    ):
        VideoFile(b"x")
