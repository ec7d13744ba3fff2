"""Videos on the command line: every format, and what is drawn of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import hierax
from small import video_config
from videos import video

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)
FORMATS = [("avi", "libx264"), ("flv", "libx264"), ("mpeg", "mpeg2video"), ("webm", "libvpx")]


@pytest.fixture(scope="module")
def clip_mae(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("clip_mae")
    hierax.HieraForPreTraining(video_config(num_query_pool=2, mask_ratio=0.75, decoder_depth=1)).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("container", "codec"), FORMATS)
@pytest.mark.parametrize("frames", [20, 90])
def test_every_format_is_classified(
    run: Run, tmp_path: Path, clips: str, container: str, codec: str, frames: int
) -> None:
    """Also a video that is shorter than a window."""
    (tmp_path / "a.film").write_bytes(video(frames, container=container, codec=codec))
    code, out, err = run("classify", "a.film", "--model", clips, "--views", "3x1", "--per-view", "--json")
    assert code == 0, err
    views = json.loads(out)["views"]
    assert [view["start"] for view in views] == sorted(view["start"] for view in views)
    assert all(0 <= view["start"] < view["end"] <= frames / 30 + 0.04 for view in views)


def test_a_pipe_among_videos_is_named_and_the_others_are_classified(run: Run, tmp_path: Path, clips: str) -> None:
    (tmp_path / "films").mkdir()
    os.mkfifo(tmp_path / "films" / "a.mp4")
    (tmp_path / "films" / "b.mp4").write_bytes(video(20))
    (tmp_path / "films" / "c.mp4").write_bytes(b"")
    code, out, err = run("classify", "films", "--model", clips)
    assert (code, len(out.splitlines()), "b.mp4" in out) == (3, 1, True)
    assert "a.mp4: not a regular file" in err
    assert "c.mp4: is empty" in err


def captions_of(page: Image.Image, tops: tuple[int, int]) -> bool:
    """Whether there are dark letters on white between two rows."""
    return bool((np.asarray(page.convert("L"))[tops[0] : tops[1]] < 128).any())


def test_moving_features_have_captions_in_every_frame(run: Run, tmp_path: Path, clips: str) -> None:
    (tmp_path / "a.mp4").write_bytes(video(90))
    code, _, err = run("features", "a.mp4", "-o", "maps", "--model", clips)
    assert code == 0, err
    with Image.open(tmp_path / "maps" / "a.gif") as moving:
        assert moving.n_frames == 4  # type: ignore[attr-defined]
        for number in range(4):
            moving.seek(number)
            page = moving.convert("RGB")
            assert captions_of(page, (0, 60))  # the name of the file
            assert captions_of(page, (page.height - 50, page.height))  # of each column


def test_moving_reconstructions_have_captions_and_a_strip(run: Run, tmp_path: Path, clip_mae: str) -> None:
    (tmp_path / "a.mp4").write_bytes(video(90))
    code, out, err = run("reconstruct", "a.mp4", "-o", "made.gif", "--model", clip_mae)
    assert code == 0, err
    assert "made-strip.png: 1 video" in out
    with Image.open(tmp_path / "made.gif") as moving:
        assert moving.n_frames == 4  # type: ignore[attr-defined]
        assert captions_of(moving, (moving.height - 60, moving.height))
    (tmp_path / "made.gif").unlink()
    (tmp_path / "made-strip.png").write_bytes(b"mine")
    code, _, err = run("reconstruct", "a.mp4", "-o", "made.gif", "--model", clip_mae)
    assert (code, "made-strip.png would be replaced" in err) == (2, True)
    assert (tmp_path / "made-strip.png").read_bytes() == b"mine"


def test_reconstructions_of_clips_have_the_columns_of_those_of_images(clip_mae: str, tmp_path: Path) -> None:
    from hierax.predict.reconstruct import reconstruct

    (tmp_path / "a.mp4").write_bytes(video(90))
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "a.png")
    (clip,) = reconstruct([tmp_path / "a.mp4"], model=clip_mae)
    (image,) = reconstruct([tmp_path / "a.png"], model="hierax/femto.mae")
    assert clip.animation is not None
    assert [title for title, _ in clip.animation.captions] == ["a.mp4", "visible", "reconstruction"]
    assert [tile.title for tile in image.tiles] == ["a.png", "visible", "reconstruction"]
