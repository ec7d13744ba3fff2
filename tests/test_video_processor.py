"""The video processor: which frames, which crops, which values; what stands for a video, and what does not."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hierax
from hierax.processing import KINETICS, HieraImageProcessor, HieraVideoProcessor, VideoError
from hierax.processing.sampling import crops, sampling_of, starts
from hierax.processing.video_file import VideoFile
from small import video_config
from videos import number_of, numbered, video

PLAIN: dict[str, Any] = {
    "size": 48,
    "crop_size": {"height": 48, "width": 64},
    "do_rescale": False,
    "do_normalize": False,
}


def numbers(clip: Any) -> list[int]:
    """The numbers of a clip's frames, in gray levels."""
    return [number_of(frame.transpose(1, 2, 0)) for frame in np.moveaxis(clip.pixels, 1, 0)]


@pytest.fixture
def plain() -> HieraVideoProcessor:
    """As the record of Kinetics, at the size of the numbered frames and in gray levels."""
    return HieraVideoProcessor(**PLAIN)


# -- values ------------------------------------------------------------------------------------------------------------


def test_the_default_is_the_record_of_kinetics() -> None:
    pixels = HieraVideoProcessor()(video(90, size=(240, 320))).pixel_values
    assert (tuple(pixels.shape), pixels.dtype) == ((1, 3, 16, 224, 224), torch.float32)


def test_gray_levels_are_normalized_by_kinetics_mean_and_deviation() -> None:
    white = np.full((1, 240, 320, 3), 255, np.uint8)
    pixels = HieraVideoProcessor()(white).pixel_values
    assert torch.allclose(pixels, torch.full_like(pixels, (1 - 0.45) / 0.225))


def test_a_frame_has_the_pixels_that_the_image_processor_gives_it() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    record = KINETICS.replace(num_frames=1)
    for fast in (True, False):
        ours = HieraVideoProcessor(record, fast=fast)([frame]).pixel_values[:, :, 0]
        assert torch.equal(ours, HieraImageProcessor(record, fast=fast)(frame).pixel_values)


def test_the_aspect_ratio_is_kept() -> None:
    square = np.zeros((240, 480, 3), np.uint8)
    square[70:170, 190:290] = 255
    pixels = HieraVideoProcessor(**{**PLAIN, "size": 120, "crop_size": 100})([square]).pixel_values[0, 0, 0]
    inside = pixels > 127
    assert inside.any(0).sum() == inside.any(1).sum() == 50


# -- which frames ------------------------------------------------------------------------------------------------------


def test_the_window_is_in_the_middle(plain: HieraVideoProcessor) -> None:
    (clip,) = plain.clips(video(120))
    first = round((4 - Fraction(64, 30)) / 2 * 30)
    assert numbers(clip) == [first + 4 * k for k in range(16)]
    assert (clip.start, clip.end) == pytest.approx((first / 30, (first + 64) / 30))


def test_windows_are_spread_from_end_to_end(plain: HieraVideoProcessor) -> None:
    clips = plain.clips(video(184), views=(3, 1))
    assert [numbers(clip)[0] for clip in clips] == [0, 60, 120]
    assert clips[-1].end == pytest.approx(184 / 30)


def test_several_crops_are_spread_along_the_longer_side() -> None:
    frame = np.zeros((48, 96, 3), np.uint8)
    frame[:, 48:] = 255
    wide = HieraVideoProcessor(size=48, crop_size=48, do_rescale=False, do_normalize=False)
    for array, axis in ((frame, 1), (frame.transpose(1, 0, 2), 0)):
        left, middle, right = wide(array[None], views=(1, 3)).pixel_values[:, 0, 0]
        assert (left == 0).all()
        assert (right == 255).all()
        assert middle.float().mean(1 - axis).tolist() == [0.0] * 24 + [255.0] * 24


def test_clips_come_window_by_window(plain: HieraVideoProcessor) -> None:
    clips = plain.clips(video(120), views=(2, 3))
    assert [clip.view for clip in clips] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert plain(video(120), views=(2, 3)).pixel_values.shape[0] == 6


@pytest.mark.parametrize(("short", "after"), [("hold", [19] * 11), ("loop", [0, 4, 8, 12, 16, 0, 4, 8, 12, 16, 0])])
def test_a_short_video_is_held_or_begun_anew(short: Any, after: list[int]) -> None:
    (clip,) = HieraVideoProcessor(short=short, **PLAIN).clips(video(20))
    assert numbers(clip) == [0, 4, 8, 12, 16, *after]
    assert (clip.start, clip.end) == (0, pytest.approx(20 / 30))


def test_a_part_of_a_video_is_looked_at_alone(plain: HieraVideoProcessor) -> None:
    (clip,) = plain.clips(video(200), part=(Fraction(3), Fraction(4)))
    assert numbers(clip) == [90, 94, 98, 102, 106, 110, 114, 118] + [119] * 8
    with pytest.raises(VideoError, match=r"^mine: the video ends at 1 s"):
        plain.clips(video(30), part=(Fraction(3), None), name="mine")


def test_a_file_that_is_cut_off_is_looked_at_as_far_as_it_goes(plain: HieraVideoProcessor) -> None:
    whole = video(300, container="matroska")
    found = plain.clips(whole[: len(whole) // 2], views=(2, 1))
    last = max(numbers(found[-1]))
    assert found[-1].end is not None
    assert found[-1].end == pytest.approx((last + 1) / 30, abs=0.14)
    assert len(set(numbers(found[-1]))) == 16


def test_windows_that_follow_each_other_cover_all(plain: HieraVideoProcessor) -> None:
    found = list(plain.windows(video(150)))
    assert [number for clip in found for number in numbers(clip)][:38] == [4 * k for k in range(38)]
    assert [clip.start for clip in found] == pytest.approx([0, 64 / 30, 128 / 30])
    assert [clip.end for clip in found] == pytest.approx([64 / 30, 128 / 30, 5])


def test_windows_may_overlap(plain: HieraVideoProcessor) -> None:
    found = list(plain.windows(video(120), hop=1.07))
    assert [clip.start for clip in found] == pytest.approx([0, 32 / 30, 64 / 30, 96 / 30])
    assert numbers(found[1]) == [32 + 4 * k for k in range(16)]


def test_frames_of_no_known_rate_are_taken_as_they_are(plain: HieraVideoProcessor) -> None:
    frames = np.stack([numbered(n) for n in range(7)])
    assert plain(frames).pixel_values.shape == (1, 3, 7, 48, 64)
    with pytest.raises(ValueError, match=r"pass fps, or views=\(1, …\)"):
        plain(frames, views=(5, 1))


@pytest.mark.parametrize(("rate", "count"), [(25, 100), (60, 200), (1, 3), (3, 8), (7, 20)])
def test_frames_of_a_known_rate_are_sampled_as_a_file_is(plain: HieraVideoProcessor, rate: int, count: int) -> None:
    frames = np.stack([numbered(n) for n in range(count)])
    (clip,) = plain.clips(frames, fps=rate)
    (wanted,) = plain.clips(video(count, rate=rate))
    assert numbers(clip) == numbers(wanted)


# -- what stands for a video -------------------------------------------------------------------------------------------


def test_path_bytes_array_tensor_and_list_are_videos(plain: HieraVideoProcessor, tmp_path: Path) -> None:
    content = video(90)
    (tmp_path / "clip.mp4").write_bytes(content)
    frames = np.stack([numbered(n) for n in range(4)])
    pictures = [Image.fromarray(frame) for frame in frames]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    assert torch.equal(plain(content).pixel_values, plain(tmp_path / "clip.mp4").pixel_values)
    wanted = plain(frames).pixel_values
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for same in (torch.from_numpy(frames), pictures, list(frames), paths, [frames], frames[None]):
        assert torch.equal(plain(same).pixel_values, wanted)
    with (tmp_path / "clip.mp4").open("rb") as stream, VideoFile(content) as opened:
        assert torch.equal(plain(stream).pixel_values, plain(content).pixel_values)
        for _ in range(2):  # what was opened stays open
            assert torch.equal(plain(opened).pixel_values, plain(content).pixel_values)
    several = plain([content, str(tmp_path / "clip.mp4")]).pixel_values
    assert torch.equal(several[0], several[1])
    assert several.shape[0] == 2


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ([], "videos is empty"),
        ([b"x", b"y"], r"videos\[0\]: not a video"),
        (np.zeros((4, 5), np.uint8), r"video: shape \[4, 5\]; expected frames \[time, height, width, channels\]"),
        ([np.zeros((48, 64, 3), np.uint8), np.zeros((40, 64, 3), np.uint8)], "frame 1 has shape"),
        ([np.zeros((2, 48, 64, 3), np.uint8), np.zeros((3, 48, 64, 3), np.uint8)], "one tensor needs one shape"),
    ],
)
def test_what_is_no_video_is_named(plain: HieraVideoProcessor, given: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        plain(given)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: HieraVideoProcessor(num_frames=None), "it is for images, not for clips"),
        (
            lambda: HieraVideoProcessor(short="stop"),  # type: ignore[arg-type]
            "short is 'stop'; expected one of 'hold', 'loop'",
        ),
        (lambda: HieraVideoProcessor()(b"x", views=(0, 1)), r"views is \(0, 1\)"),
        (lambda: HieraVideoProcessor()(np.zeros((1, 8, 8, 3), np.uint8), fps=0), "fps is 0; expected a number above 0"),
        (
            lambda: HieraVideoProcessor()(b"x", return_tensors="tf"),  # type: ignore[arg-type]
            "return_tensors is 'tf'",
        ),
        (lambda: list(HieraVideoProcessor().windows(video(3), hop=-1)), "hop is -1"),
    ],
)
def test_bad_settings_are_named(make: Callable[[], Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make()


# -- records -----------------------------------------------------------------------------------------------------------


def test_starts_of_a_video_that_is_too_short_are_all_0() -> None:
    assert starts(Fraction(1), Fraction(2), 3) == [0, 0, 0]


def test_a_record_that_does_not_crop_has_one_crop() -> None:
    record = KINETICS.replace(do_center_crop=False)
    assert len(crops(record, height=48, width=64, count=1)) == 1
    with pytest.raises(ValueError, match="need a record that crops"):
        crops(record, height=48, width=64, count=3)


def test_the_processor_of_a_checkpoint_of_clips_is_found(saved: Callable[..., Path]) -> None:
    folder = saved(hierax.HieraForVideoClassification, video_config())
    found = hierax.AutoImageProcessor.from_pretrained(folder)
    assert isinstance(found, HieraVideoProcessor)
    assert sampling_of(found.record).count == 8
    pixels = found(video(90)).pixel_values
    model = hierax.HieraForVideoClassification.from_pretrained(folder)
    assert model(pixels).logits.shape == (1, 5)


def test_the_record_is_saved_and_read(tmp_path: Path) -> None:
    HieraVideoProcessor(num_frames=8, sampling_rate=2).save_pretrained(tmp_path)
    found = HieraVideoProcessor.from_pretrained(tmp_path)
    assert (found.record.num_frames, found.record.sampling_rate, found.record.fps) == (8, 2, 30.0)
