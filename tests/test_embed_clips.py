"""Collections of videos: a row for each window, whenever it was interrupted."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import hierax
from hierax.collection import source as embed_source
from hierax.collection.index import Index
from hierax.collection.mapped import RowInfo
from hierax.collection.originals import CHANGED, GONE, Original, originals
from hierax.collection.page_files import rows_of
from hierax.collection.source import file_hash
from hierax.collection.store import unreadable_of
from hierax.embedding import update
from hierax.embedding.extractor import vectors
from hierax.embedding.run import Progress
from hierax.notices import Notice
from hierax.processing import KINETICS, HieraVideoProcessor
from small import video_config
from videos import number_of, only_sound, video

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)
RECORD = KINETICS.replace(size=72, crop_size=64, num_frames=8)
SPAN = 32 / 30


@pytest.fixture(scope="module")
def model() -> hierax.HieraModel:
    torch.manual_seed(0)
    found = hierax.HieraModel(video_config(num_labels=None)).eval()
    found.preprocessing = RECORD
    return found


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Three windows, one, and a file without a picture."""
    folder = tmp_path / "films"
    folder.mkdir()
    (folder / "long.mp4").write_bytes(video(90))
    (folder / "short.mkv").write_bytes(video(20, container="matroska"))
    (folder / "sound.mp4").write_bytes(only_sound())
    return folder


def embedded(films: Any, out: Path, model: Any, **settings: Any) -> hierax.EmbedReport:
    how = {"backend": "torch", "precision": "fp32", "device": "cpu", "workers": 0, "batch_size": 2, "block_size": 2}
    return hierax.embed(films, out, model=model, **{**how, **settings})


def table(out: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(file) for file in sorted((out / "data").glob("*.parquet"))])


def test_every_window_is_a_row_with_its_times(films: Path, tmp_path: Path, model: hierax.HieraModel) -> None:
    report = embedded(films, tmp_path / "out", model)
    rows = table(tmp_path / "out").to_pylist()
    assert (report.rows, report.errors) == (4, 1)
    assert [Path(row["path"]).name for row in rows] == [
        "long.mp4#t=0", "long.mp4#t=1.067", "long.mp4#t=2.133", "short.mkv#t=0",
    ]  # fmt: skip
    assert [row["start"] for row in rows] == pytest.approx([0, SPAN, 2 * SPAN, 0])
    assert [row["end"] for row in rows] == pytest.approx([SPAN, 2 * SPAN, 3, 0.667], abs=2e-3)
    assert [(row["width"], row["height"]) for row in rows] == [(64, 48)] * 4
    (bad,) = (item for shard in (tmp_path / "out" / "data").iterdir() for item in unreadable_of(shard))
    assert (bad.path, bad.error) == (f"{films}/sound.mp4#t=0", "no video in this file (only sound)")


def test_rows_are_what_the_model_says_of_the_windows(films: Path, tmp_path: Path, model: hierax.HieraModel) -> None:
    embedded(films, tmp_path / "out", model)
    clips = list(HieraVideoProcessor(RECORD).windows(films / "long.mp4"))
    with torch.no_grad():
        wanted = model(torch.from_numpy(np.stack([clip.pixels for clip in clips]))).pooler_output.numpy()
    found = np.array(table(tmp_path / "out").column("embedding").to_pylist())[:3]
    assert np.abs(found - wanted).max() < 1e-4


def test_stages_and_maps_have_an_axis_of_time(films: Path, tmp_path: Path, model: hierax.HieraModel) -> None:
    embedded(films, tmp_path / "out", model, layers=("stage2", "stage4_map"))
    found = table(tmp_path / "out")
    assert found.schema.field("stage2").type.list_size == 16
    assert found.schema.field("stage4_map").type.list_size == 64 * 4 * 2 * 2


class Stop(Exception):
    """As of a process that is gone."""


def test_what_was_interrupted_goes_on_to_the_same_bytes(films: Path, tmp_path: Path, model: hierax.HieraModel) -> None:
    embedded(films, tmp_path / "whole", model)

    def stop(progress: Progress) -> None:
        if progress.done >= 2:
            raise Stop

    with pytest.raises(Stop):
        embedded(films, tmp_path / "parts", model, on_progress=stop)
    assert len(list((tmp_path / "parts" / "data").iterdir())) == 1
    embedded([], tmp_path / "parts", model)
    for file in sorted((tmp_path / "whole" / "data").iterdir()):
        assert (tmp_path / "parts" / "data" / file.name).read_bytes() == file.read_bytes()


def test_with_processes_that_decode_it_is_the_same(films: Path, tmp_path: Path, model: hierax.HieraModel) -> None:
    embedded(films, tmp_path / "here", model)
    embedded(films, tmp_path / "there", model, workers=2)
    for file in (tmp_path / "here" / "data").iterdir():
        assert (tmp_path / "there" / "data" / file.name).read_bytes() == file.read_bytes()


def test_an_update_takes_in_what_changed_and_marks_what_went(
    films: Path, tmp_path: Path, model: hierax.HieraModel
) -> None:
    embedded(films, tmp_path / "out", model)
    (films / "short.mkv").unlink()
    (films / "long.mp4").write_bytes(video(60))
    report = embedded(films, tmp_path / "out", model, update=True)
    assert (report.rows, report.gone, report.replaced) == (2, 2, 2)


def test_pages_show_a_frame_of_each_window(films: Path, tmp_path: Path, model: hierax.HieraModel) -> None:
    embedded(films, tmp_path / "out", model)
    found = rows_of(Index(tmp_path / "out"), [f"{films}/long.mp4#t=0", f"{films}/long.mp4#t=2.133"])
    rows = [*found.values(), RowInfo("x", f"{films}/gone.mp4#t=0", "")]
    first, last, gone = originals([tmp_path / "out"], rows, side=64)
    assert gone == GONE
    assert isinstance(first, Original)
    assert isinstance(last, Original)
    assert (number_of(np.asarray(first.image)), number_of(np.asarray(last.image))) == (0, 64)


def test_a_window_of_a_video_that_has_changed_is_not_shown(
    films: Path, tmp_path: Path, model: hierax.HieraModel
) -> None:
    embedded(films, tmp_path / "out", model)
    rows = list(rows_of(Index(tmp_path / "out"), [f"{films}/long.mp4#t=0"]).values())
    (films / "long.mp4").write_bytes(video(60))
    assert list(originals([tmp_path / "out"], rows, side=64)) == [CHANGED]


def test_a_video_is_a_query(films: Path, tmp_path: Path, model: hierax.HieraModel) -> None:
    embedded(films, tmp_path / "out", model)
    extractor = hierax.FeatureExtractor(model, backend="torch", precision="fp32", device="cpu")
    found, problems = vectors([films / "short.mkv", films / "sound.mp4"], extractor, "embedding")
    assert [name for name, _ in problems] == [str(films / "sound.mp4")]
    (hits,) = hierax.Index(tmp_path / "out").search(found, 1)
    assert Path(hits[0].path).name == "short.mkv#t=0"


def test_pictures_and_videos_are_told_apart(films: Path, tmp_path: Path, model: hierax.HieraModel) -> None:
    with pytest.raises(ValueError, match=r"long.mp4 is a video and this model takes images"):
        embedded(films / "long.mp4", tmp_path / "out", "hierax/femto")
    (films / "a.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"a.png is an image and this model takes clips"):
        embedded(films / "a.png", tmp_path / "out", model)


def test_what_is_no_video_is_left_out_and_counted(films: Path, tmp_path: Path, model: hierax.HieraModel) -> None:
    (films / "notes.txt").write_text("none\n")
    with pytest.warns(Notice, match=r"films: 1 file left out: 1 \.txt"):
        report = embedded(films, tmp_path / "out", model)
    assert (report.rows, report.errors) == (4, 1)


def test_a_folder_without_videos_is_named(tmp_path: Path, model: hierax.HieraModel) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"none: no videos in this folder \(MP4, WebM, MKV, … are read\)"):
        embedded(tmp_path / "none", tmp_path / "out", model)


@pytest.fixture
def shard(films: Path) -> Path:
    """The same films in a shard, after something that is passed over."""
    with tarfile.open(films.parent / "films.tar", "w") as out:
        out.addfile(tarfile.TarInfo("notes.txt"))
        for path in (films / "long.mp4", films / "short.mkv", films / "sound.mp4"):
            out.add(path, path.name)
    return films.parent / "films.tar"


def test_shards_and_urls_give_what_files_give(
    films: Path, shard: Path, tmp_path: Path, model: hierax.HieraModel
) -> None:
    far = fsspec.filesystem("memory")
    for name in ("long.mp4", "short.mkv", "sound.mp4"):
        far.pipe(f"/films/{name}", (films / name).read_bytes())
    given = {"files": films, "shard": shard, "urls": "memory://films"}
    for name, source in given.items():
        embedded(source, tmp_path / name, model)
        assert embedded(source, tmp_path / name, model, update=True).rows == 4
    rows = {name: table(tmp_path / name).to_pylist() for name in given}
    starts = {"files": f"{films}/", "shard": f"{shard}::", "urls": "memory:///films/"}
    for name, start in starts.items():
        assert [row["path"].removeprefix(start) for row in rows[name]] == [
            "long.mp4#t=0", "long.mp4#t=1.067", "long.mp4#t=2.133", "short.mkv#t=0"
        ]  # fmt: skip
        for key in ("hash", "start", "end", "embedding", "width"):
            assert [row[key] for row in rows[name]] == [row[key] for row in rows["files"]], (name, key)
        errors = pq.read_table(tmp_path / name / "errors.parquet").column("path").to_pylist()
        assert [path.removeprefix(start) for path in errors] == ["sound.mp4#t=0"]


def test_an_update_reads_every_video_once(
    shard: Path, tmp_path: Path, model: hierax.HieraModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    embedded(shard, tmp_path / "out", model)
    monkeypatch.setattr(update, "file_hash", lambda source: read.append(source.name) or file_hash(source))
    embedded(shard, tmp_path / "out", model, update=True)
    assert sorted(read) == [f"{shard}::{name}" for name in ("long.mp4", "short.mkv", "sound.mp4")]


def test_a_shard_whose_video_changed_is_embedded_anew(shard: Path, tmp_path: Path, model: hierax.HieraModel) -> None:
    embedded(shard, tmp_path / "out", model)
    with tarfile.open(shard, "w") as out:
        content = video(20)
        member = tarfile.TarInfo("short.mkv")
        member.size = len(content)
        out.addfile(member, io.BytesIO(content))
    report = embedded(shard, tmp_path / "out", model, update=True)
    assert report.rows == 1


def test_pages_show_windows_of_shards(shard: Path, tmp_path: Path, model: hierax.HieraModel) -> None:
    embedded(shard, tmp_path / "out", model)
    rows = list(rows_of(Index(tmp_path / "out"), [f"{shard}::long.mp4#t=1.067"]).values())
    (found,) = originals([tmp_path / "out"], rows, side=64)
    assert isinstance(found, Original)
    assert number_of(np.asarray(found.image)) == 32


def test_rows_of_tables_are_refused(tmp_path: Path, model: hierax.HieraModel) -> None:
    pq.write_table(pa.table({"image": [{"bytes": b"x", "path": None}]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="rows of a table are images; expected video files"):
        embedded(tmp_path / "a.parquet", tmp_path / "out", model)


def test_the_command_says_windows(run: Run, films: Path, clips: str) -> None:
    code, out, err = run(
        "embed", str(films), "-o", "out", "--model", clips, "--backend", "torch", "--precision", "fp32"
    )
    assert (code, out.split(" in ")[0]) == (3, "4 rows")
    assert "5 segments, " in err
    assert "no video in this file (1)" in err


@pytest.mark.parametrize(
    ("suffix", "container", "codec"),
    [
        ("webm", "webm", "libvpx"),
        ("avi", "avi", "libx264"),
        ("flv", "flv", "libx264"),
        ("mpg", "mpeg", "mpeg2video"),
        ("ts", "mpegts", "libx264"),
    ],
)
def test_folders_of_every_format_have_the_windows_that_are_there(
    run: Run, tmp_path: Path, clips: str, suffix: str, container: str, codec: str
) -> None:
    """Also where the sound is longer, and where a seek is refused."""
    (tmp_path / "films").mkdir()
    sound = False if suffix == "mpg" else 6.0
    (tmp_path / "films" / f"a.{suffix}").write_bytes(video(90, container=container, codec=codec, sound=sound))
    (tmp_path / "films" / f"b.{suffix}").write_bytes(video(20, container=container, codec=codec))
    code, out, err = run("embed", "films", "-o", "out", "--model", clips, "--workers", "0", "--backend", "torch")
    assert (code, out.split(" in ")[0]) == (0, "4 rows"), err
    assert "4 segments, " in err


def test_whatever_a_source_raises_is_one_row(
    films: Path, tmp_path: Path, model: hierax.HieraModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As clients of networks, which have exceptions of their own."""

    class Odd(Exception):
        pass

    def fail(url: str, _: Any) -> None:
        raise Odd("the answer was cut short")

    (tmp_path / "list.txt").write_text(f"memory://x/a.mp4\n{films}/short.mkv\n")
    monkeypatch.setattr(embed_source, "copy_url", fail)
    report = embedded(tmp_path / "list.txt", tmp_path / "out", model)
    assert (report.rows, report.errors) == (1, 1)
    errors = pq.read_table(tmp_path / "out" / "errors.parquet").to_pylist()
    assert [(row["path"], row["error"]) for row in errors] == [
        ("memory://x/a.mp4#t=0", "Odd: the answer was cut short")
    ]


def test_a_pipe_is_no_video(films: Path, tmp_path: Path, model: hierax.HieraModel) -> None:
    os.mkfifo(films / "pipe.mp4")
    embedded(films, tmp_path / "out", model)
    errors = pq.read_table(tmp_path / "out" / "errors.parquet").to_pylist()
    assert (f"{films}/pipe.mp4#t=0", "a named pipe, not a regular file") in [
        (row["path"], row["error"]) for row in errors
    ]


def test_links_in_a_shard_are_the_videos_that_they_name(films: Path, tmp_path: Path, model: hierax.HieraModel) -> None:
    with tarfile.open(tmp_path / "films.tar", "w") as out:
        out.add(films / "short.mkv", "short.mkv")
        for name, there in (("again.mkv", "short.mkv"), ("gone.mkv", "nothing.mkv")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, there
            out.addfile(member)
    embedded(tmp_path / "films.tar", tmp_path / "out", model)
    rows = table(tmp_path / "out").to_pylist()
    assert [Path(row["path"]).name.partition("::")[2] for row in rows] == ["short.mkv#t=0", "again.mkv#t=0"]
    assert rows[0]["embedding"] == rows[1]["embedding"]
    (error,) = pq.read_table(tmp_path / "out" / "errors.parquet").column("error").to_pylist()
    assert "a link to a file that is not in the archive" in error
