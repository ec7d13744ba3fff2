"""Videos as data: folders and lists of them, and what training and evaluation see."""

from __future__ import annotations

import io
import os
import tarfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hierax.data import open_dataset
from hierax.data.dataset import VideoSegment
from hierax.data.folders import FolderDataset
from hierax.data.order import SampleKey
from hierax.data.stats import dataset_statistics
from hierax.data.view import Augmentation, EvaluationView, Example, TrainingView, Unreadable
from hierax.notices import Notice
from hierax.processing import KINETICS
from hierax.processing.sampling import Sampling
from videos import number_of, numbered, only_sound, video

RECORD = KINETICS.replace(size=48, crop_size={"height": 48, "width": 64}, num_frames=8)
SAMPLING = Sampling(8, Fraction(4, 30))


def numbers(pixels: np.ndarray) -> list[int]:
    """Those of the frames of `[C, T, H, W]`."""
    return [number_of(frame) for frame in pixels.transpose(1, 2, 3, 0)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two class folders with a video of 100 frames each."""
    for name in ("jump", "run"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "a.mp4").write_bytes(video(100))
    return tmp_path / "set"


# -- where they come from ----------------------------------------------------------------------------------------------


def test_class_folders_of_videos_are_a_dataset(folder: Path) -> None:
    found = open_dataset(folder)
    assert (found.videos, found.arrays, found.classes, found.labels()) == (True, False, ("jump", "run"), [0, 1])
    assert found.sample(1).content == VideoSegment(str(folder / "run" / "a.mp4"))


def test_beside_pictures_videos_are_left_out(folder: Path) -> None:
    """As a camera leaves them."""
    for name in ("jump", "run"):
        Image.new("RGB", (8, 8)).save(folder / name / "b.png")
    with pytest.warns(Notice, match=r"left out: \d+ \.mp4"):
        found = open_dataset(folder)
    assert (found.videos, len(found)) == (False, 2)


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as shard:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    return path


def test_shards_hold_videos(tmp_path: Path) -> None:
    members = {"a.mp4": video(100), "a.cls": b"1", "b.mkv": video(40, container="matroska"), "b.cls": b"0"}
    found = open_dataset(tar(tmp_path / "0.tar", members))
    assert (found.videos, found.labels(), found.classes) == (True, [1, 0], ("0", "1"))
    whole = (tmp_path / "a.mp4", found.sample(0))
    whole[0].write_bytes(members["a.mp4"])
    assert whole[1].name == f"{tmp_path}/0.tar:a.mp4"
    single = FolderDataset([str(whole[0])], None, (), videos=True)
    how = Augmentation(size=(8, 48, 64), crop_scale=None, flip=False, sampling=SAMPLING)
    pixels = [seen(TrainingView(data, how, seed=3)[SampleKey(0, 5)]).pixels for data in (found, single)]
    assert (pixels[0] == pixels[1]).all()


def test_pictures_beside_the_videos_of_shards_are_previews(tmp_path: Path) -> None:
    film = video(3)
    assert open_dataset(tar(tmp_path / "0.tar", {"a.mp4": film, "a.jpg": b"x", "b.mp4": film})).videos
    with pytest.warns(Notice, match=r"1 file left out: 1 \.mp4"):
        mixed = open_dataset(tar(tmp_path / "1.tar", {"a.mp4": film, "b.jpg": b"x"}))
    assert (mixed.videos, len(mixed)) == (False, 1)


def test_two_videos_of_one_name_are_two_samples_of_its_label(tmp_path: Path) -> None:
    found = open_dataset(tar(tmp_path / "0.tar", {"a.mp4": b"x", "a.mkv": b"x", "a.cls": b"3"}))
    assert (found.videos, len(found), found.labels()) == (True, 2, [3, 3])


def test_statistics_of_videos_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="holds videos; expected images or arrays"):
        dataset_statistics(folder)


# -- what training sees ------------------------------------------------------------------------------------------------


def view(source: Path, **changes: object) -> TrainingView:
    how = {"size": (8, 48, 64), "crop_scale": None, "flip": False, "sampling": SAMPLING} | changes
    return TrainingView(open_dataset(source), Augmentation(**how), seed=3)  # type: ignore[arg-type]


def seen(found: object) -> Example:
    assert isinstance(found, Example), found
    return found


def test_a_window_is_anywhere_in_the_video_and_always_the_same_for_a_draw(folder: Path) -> None:
    training = view(folder)
    found = [seen(training[SampleKey(0, epoch)]).pixels for epoch in range(12)]
    first = [numbers(pixels)[0] for pixels in found]
    assert all(numbers(pixels) == [start + 4 * k for k in range(8)] for start, pixels in zip(first, found, strict=True))
    assert len(set(first)) > 8
    assert 0 <= min(first) < 20 < 50 < max(first) <= 68
    assert np.array_equal(seen(training[SampleKey(0, 5)]).pixels, found[5])


def test_repeats_see_other_windows(folder: Path) -> None:
    training = view(folder)
    assert not np.array_equal(seen(training[SampleKey(0, 0, 0)]).pixels, seen(training[SampleKey(0, 0, 1)]).pixels)


def test_a_window_stays_in_the_part_that_a_list_names(folder: Path) -> None:
    (folder / "list.csv").write_text("path,start,end\njump/a.mp4,1,2.5\nrun/a.mp4,3,3.1\n")
    training = view(folder / "list.csv")
    shown = {n for epoch in range(12) for n in numbers(seen(training[SampleKey(0, epoch)]).pixels)}
    assert 30 <= min(shown) <= max(shown) < 75
    assert numbers(seen(training[SampleKey(1, 0)]).pixels) == [90] + [92] * 7  # the last of the part is held


def test_all_frames_are_changed_alike(tmp_path: Path) -> None:
    """Of a video in which nothing moves, all frames of what is seen are the same."""
    still = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    (tmp_path / "still.mp4").write_bytes(video([still] * 60, keys=1))
    training = view(
        tmp_path / "still.mp4", crop_scale=(0.3, 0.6), flip=True, rand_augment=(9.0, 0.5), erasing=1.0
    )  # fmt: skip
    for epoch in range(4):
        pixels = seen(training[SampleKey(0, epoch)]).pixels.astype(int)
        assert pixels.shape == (3, 8, 48, 64)
        assert np.abs(pixels - pixels[:, :1]).max() <= 12
        assert pixels.std() > 10


def test_what_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "jump" / "a.mp4").write_bytes(only_sound())
    found = view(folder)[SampleKey(0, 0)]
    assert isinstance(found, Unreadable)
    assert (found.name, found.problem) == (str(folder / "jump" / "a.mp4"), "no video in this file (only sound)")


def test_pictures_for_a_model_of_clips_and_the_reverse_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the data is videos; the model takes 2 axes"):
        view(folder, size=(48, 64))
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="the data is images; the model takes 3 axes"):
        view(tmp_path / "b.png")


@pytest.mark.parametrize(
    ("suffix", "container", "codec"),
    [("avi", "avi", "libx264"), ("flv", "flv", "libx264"), ("mpg", "mpeg", "mpeg2video"), ("webm", "webm", "libvpx")],
)
def test_formats_without_an_index_are_read_alike(tmp_path: Path, suffix: str, container: str, codec: str) -> None:
    """Parts anywhere, and videos that are shorter than a window."""
    (tmp_path / f"a.{suffix}").write_bytes(video(100, container=container, codec=codec))
    (tmp_path / f"b.{suffix}").write_bytes(video(20, container=container, codec=codec))
    (tmp_path / "list.csv").write_text(f"path,start,end\na.{suffix},1,2.5\nb.{suffix},,\n")
    training = view(tmp_path / "list.csv")
    for epoch in range(4):
        shown = numbers(seen(training[SampleKey(0, epoch)]).pixels)
        assert 30 <= shown[0] <= shown[-1] < 75
        assert np.diff(shown).tolist() == [4] * 7
        assert numbers(seen(training[SampleKey(1, epoch)]).pixels)[:5] == [0, 4, 8, 12, 16]
    held = EvaluationView(open_dataset(tmp_path / "list.csv"), RECORD, size=(8, 48, 64), views=(2, 1))
    assert [numbers(one)[0] for one in seen(held[0]).pixels] == [30, 43]
    assert [numbers(one)[0] for one in seen(held[1]).pixels] == [0, 0]


def test_pipes_are_not_waited_for(folder: Path) -> None:
    (folder / "jump" / "a.mp4").unlink()
    os.mkfifo(folder / "jump" / "a.mp4")
    found = view(folder)[SampleKey(0, 0)]
    assert isinstance(found, Unreadable)
    assert found.problem == "not a regular file"


# -- what evaluation sees ----------------------------------------------------------------------------------------------


def test_evaluation_sees_the_middle(folder: Path) -> None:
    found = seen(EvaluationView(open_dataset(folder), RECORD, size=(8, 48, 64))[0])
    assert (found.pixels.dtype, found.pixels.shape) == (np.uint8, (3, 8, 48, 64))
    assert numbers(found.pixels) == [34 + 4 * k for k in range(8)]


def test_evaluation_of_a_part_sees_its_middle(folder: Path) -> None:
    (folder / "list.csv").write_text("path,start,end\njump/a.mp4,0,1.6\n")
    found = seen(EvaluationView(open_dataset(folder / "list.csv"), RECORD, size=(8, 48, 64))[0])
    assert numbers(found.pixels) == [8 + 4 * k for k in range(8)]


def test_evaluation_sees_several_views(folder: Path) -> None:
    found = seen(EvaluationView(open_dataset(folder), RECORD, size=(8, 48, 64), views=(3, 2))[0])
    assert found.pixels.shape == (6, 3, 8, 48, 64)
    assert [numbers(one)[0] for one in found.pixels] == [0, 0, 34, 34, 68, 68]


def test_several_views_of_pictures_are_refused(tmp_path: Path) -> None:
    Image.fromarray(numbered(3)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="views are only for videos; the data is images"):
        EvaluationView(open_dataset(tmp_path / "b.png"), RECORD, size=(48, 64), views=(2, 1))
