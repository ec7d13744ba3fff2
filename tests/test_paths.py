"""Which files an input means, and that only regular files are read."""

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import hierax.engine.export.parity as parity
import hierax.processing.foreign as foreign
from hierax import HieraConfig, HieraImageProcessor, ImageError, load, load_image
from hierax.data import open_dataset
from hierax.data.stats import dataset_statistics
from hierax.embedding.sources import list_sources
from hierax.engine.calibration import images_of
from hierax.notices import LeftOut, Notice
from hierax.processing.inputs import expand
from hierax.processing.paths import IMAGE_SUFFIXES, find_files, opened_regular

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500)
JXL = b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40)


def by_embed(folder: Path) -> list[str]:
    return [source.path for source in list_sources([str(folder)])]


def by_commands(folder: Path) -> list[str]:
    files, problems = expand([folder])
    if problems:
        raise problems[0]
    return [str(file) for file in files]


def by_training(folder: Path) -> list[str]:
    found = open_dataset(folder, labels=False)
    return [found.sample(index).name for index in range(len(found))]


def by_calibration(folder: Path) -> list[str]:
    """Also for the check of an export."""
    return [str(path) for path in images_of(folder, most=1000)]


FINDERS = pytest.mark.parametrize("listed", [by_embed, by_commands, by_training, by_calibration])
EVERY = pytest.mark.parametrize("listed", [by_embed, by_commands, by_training])
Listed = Callable[[Path], list[str]]


def write(path: Path, kind: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), "red").save(path, kind)
    return path


@pytest.mark.parametrize(("count", "most", "expected"), [(5, 5, 5), (6, 5, 3), (5, 1, 1), (9, 200, 9)])
def test_of_many_images_some_are_taken_from_all_over_the_folder(
    tmp_path: Path, count: int, most: int, expected: int
) -> None:
    for number in range(count):
        (tmp_path / f"{number}.png").touch()
    found = [int(path.stem) for path in images_of(tmp_path, most=most)]
    assert (len(found), found[0]) == (expected, 0)
    assert expected == 1 or found[-1] >= count - 2


@FINDERS
def test_every_command_finds_the_same_files_of_a_folder(tmp_path: Path, listed: Listed) -> None:
    photos = tmp_path / "photos"
    for name in ("b.png", "a.JPG", "deep/c.webp", ".hidden.png", ".cache/d.png"):
        write(photos / name)
    write(tmp_path / "elsewhere" / "e.png")
    (photos / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (photos / "deep" / "up").symlink_to(photos, target_is_directory=True)
    (photos / "file.png").symlink_to(photos / "b.png")
    found = sorted(os.path.relpath(path, photos) for path in listed(photos))
    assert found == ["a.JPG", "b.png", "deep/c.webp", "file.png", "link/e.png"]


@FINDERS
@pytest.mark.parametrize(
    "name", ["a b.png", "ä.PNG", "日本.png", "#1[x]*?.png", "100%.JPEG", "q'u\"o.png", "line\nbreak.png"]
)
def test_every_command_finds_files_whatever_their_names(tmp_path: Path, listed: Listed, name: str) -> None:
    write(tmp_path / "in" / name)
    for folder in (".hidden", "__MACOSX", "@eaDir"):
        write(tmp_path / folder / "x.png")
    (tmp_path / "loop").symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "in" / "back").symlink_to(tmp_path / "loop", target_is_directory=True)
    found = sorted(os.path.relpath(path, tmp_path) for path in listed(tmp_path))
    assert found == [f"in/{name}", f"loop/{name}"]


@EVERY
def test_what_is_left_out_of_a_folder_is_counted_and_said_how_to_read(tmp_path: Path, listed: Listed) -> None:
    write(tmp_path / "x" / "a.jpg")
    for number in range(5):
        (tmp_path / "x" / f"IMG_{number}.HEIC").write_bytes(HEIC)
    write(tmp_path / "x" / "large.jpg_large", "JPEG")
    write(tmp_path / "x" / "f", "JPEG")
    message = r"7 files left out: 5 \.heic \(pip install pillow-heif\), 1 \S+( a suffix)?, 1 \S+( a suffix)?$"
    with pytest.warns(Notice, match=message):
        assert len(listed(tmp_path)) == 1


@FINDERS
@pytest.mark.parametrize("inside", [(), ("notes.md",)])
def test_a_folder_without_images_is_told_in_the_same_words(
    tmp_path: Path, listed: Listed, inside: tuple[str, ...]
) -> None:
    for name in inside:
        (tmp_path / name).write_text("text")
    left = re.escape("; 1 file left out: 1 .md" if inside else "")
    pattern = rf"{tmp_path}: no images in this folder \(PNG, JPEG, WebP, … are read\)(, and no \.?[a-z][^;]*)?{left}$"
    with pytest.raises(ValueError, match=pattern):
        listed(tmp_path)


def test_the_check_of_an_export_is_no_check_without_images(tmp_path: Path) -> None:
    config = HieraConfig()
    for given, problem in ((tmp_path, "no images in this folder"), ([], "no images were given for the comparison")):
        with pytest.raises(ValueError, match=problem):
            parity.evaluation_inputs(given, config=config, processor=HieraImageProcessor(), masked=False)


@EVERY
def test_every_format_that_is_read_is_found_in_folders(tmp_path: Path, listed: Listed) -> None:
    for name, kind in (("c.qoi", None), ("d.pbm", "PPM"), ("e.apng", "PNG"), ("f.jfif", "JPEG"), ("g.dib", None),
                       ("h.j2k", "JPEG2000"), ("i.pnm", "PPM"), ("j.sgi", None), ("k.ico", None)):  # fmt: skip
        write(tmp_path / name, kind)
    found = listed(tmp_path)
    assert len(found) == 9
    assert {load_image(path).size for path in found} >= {(40, 30)}  # an icon is of another size


@EVERY
def test_arrays_are_taken_from_a_folder_without_images(tmp_path: Path, listed: Listed) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1, 8, 8)))
    assert [os.path.basename(path) for path in listed(tmp_path)] == ["a.npy"]


def test_arrays_beside_images_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", np.zeros(3))
    left = LeftOut("x")
    assert [Path(path).name for path in find_files(tmp_path, IMAGE_SUFFIXES, otherwise=[".npy"], left=left)] == [
        "a.png"
    ]
    assert left.summary() == "1 file left out: 1 .npy"


def test_classes_of_photos_that_cannot_be_read_say_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.heic").write_bytes(HEIC)
    with pytest.raises(ValueError, match=r"1 file left out: 1 \.heic \(pip install pillow-heif\)"):
        open_dataset(tmp_path)
    assert "1 file left out: 1 .heic (pip install pillow-heif)" in str(expand([tmp_path])[1][0])


def special(folder: Path, kind: str) -> Path:
    path = folder / "b.jpg"
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(path))
    else:
        path.symlink_to("/dev/zero")
    return path


@pytest.mark.parametrize("kind", ["a named pipe", "a socket", "a device"])
def test_what_is_no_regular_file_is_an_error_and_no_wait(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    path = special(Path(), kind)
    with pytest.raises(ImageError, match=f"{kind}, not a regular file"):
        load_image(path)
    with pytest.raises(ImageError, match="not a regular file"):
        HieraImageProcessor(fast=True)([str(path)])
    with pytest.raises(ValueError, match="not a regular file"):
        next(iter(list_sources([str(path)]))).read()
    write(tmp_path / "a.png")
    assert dataset_statistics(tmp_path, workers=0).unreadable == [
        (str(tmp_path / "b.jpg"), f"{kind}, not a regular file")
    ]


def test_a_pipe_of_arrays_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(ValueError, match="not a regular file"):
        open_dataset(tmp_path / "a.npy")


def test_a_pipe_that_came_after_the_look_is_no_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    monkeypatch.setattr("hierax.processing.paths.check_regular", lambda path: None)
    with pytest.raises(ValueError, match="a named pipe"), opened_regular(tmp_path / "a.jpg"):
        pass


def test_files_of_the_kernel_are_empty() -> None:
    """Reading /proc/kmsg waits; it says that it has no bytes."""
    with pytest.raises(ImageError, match="an empty file"):
        load_image("/proc/self/status")


@pytest.mark.parametrize("given", ["", b""])
def test_an_empty_input_is_an_error(given: Any) -> None:
    if isinstance(given, str):
        assert "an empty name" in str(expand([given])[1][0])
        with pytest.raises(ValueError, match="empty"):
            open_dataset(given)
        with pytest.raises(ValueError, match="empty"):
            list(list_sources([given]))
    with pytest.raises(ImageError):
        load_image(given)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(HEIC, "a HEIF image, .* pip install pillow-heif"), (JXL, "a JPEG XL image, .* pip install pillow-jxl-plugin")],
)
def test_a_format_that_another_package_reads_is_named(
    content: bytes, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "is_installed", lambda module: False)
    with pytest.raises(ImageError, match=problem):
        load_image(content)


def test_an_opener_that_was_registered_with_pillow_is_used_for_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import PpmImagePlugin

    class Mine(PpmImagePlugin.PpmImageFile):
        format = "MINE"

        def _open(self) -> None:
            assert self.fp is not None
            self._size, self._mode, self.tile = (1, 1), "RGB", []

        def load(self) -> Any:
            self.im = Image.new("RGB", (1, 1), "red").im

    monkeypatch.setattr(Image, "OPEN", Image.OPEN | {"MINE": (Mine, lambda start: start.startswith(b"MINE"))})
    (tmp_path / "a.mine").write_bytes(b"MINE and more bytes than that")
    assert load_image(tmp_path / "a.mine").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("suffix", ["csv", "jpg", "npy", "tar", "parquet", "mp4", "pth", "safetensors"])
def test_a_pipe_is_no_data_and_no_checkpoint_and_says_that_it_is_a_pipe(tmp_path: Path, suffix: str) -> None:
    pipe = tmp_path / f"a.{suffix}"
    os.mkfifo(pipe)
    said = rf"a\.{suffix}: a named pipe, not a regular file"
    with pytest.raises(ValueError, match=said):
        load(pipe)
    with pytest.raises(ValueError, match=said):
        open_dataset(pipe)


def by_pattern_of_embed(pattern: str) -> list[str]:
    return [source.path for source in list_sources([pattern])]


def by_pattern_of_commands(pattern: str) -> list[str]:
    files, problems = expand([pattern])
    assert problems == []
    return [os.path.abspath(file) for file in files]


def by_pattern_of_training(pattern: str) -> list[str]:
    found = open_dataset(pattern, labels=False)
    return [os.path.abspath(found.sample(index).name) for index in range(len(found))]


def test_a_collection_in_a_subfolder_is_left_out(tmp_path: Path) -> None:
    for name in ("a.npy", "features/index/part-0000.npy", "features/listings/0000.parquet", "features/manifest.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert expand([tmp_path]) == ([tmp_path / "a.npy"], [])
    assert by_embed(tmp_path) == [str(tmp_path / "a.npy")]
    for pattern in ("*", "**", "**/*"):
        assert by_pattern_of_commands(str(tmp_path / pattern)) == [str(tmp_path / "a.npy")]
        assert by_pattern_of_embed(str(tmp_path / pattern)) == [str(tmp_path / "a.npy")]


def test_a_name_that_the_system_refuses_does_not_stop_the_other_inputs(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    found, problems = expand(["b" * 300, tmp_path / "a.jpg"])
    assert found == [tmp_path / "a.jpg"]
    assert [(problem.source, problem.problem) for problem in problems] == [
        ("b" * 300, "cannot be opened (File name too long)")
    ]


@pytest.mark.parametrize("matched", [by_pattern_of_embed, by_pattern_of_commands, by_pattern_of_training])
@pytest.mark.parametrize("pattern", ["{}/**/*.png", "**/*.png", "./**/*.png", "**/*", "**", "{}/**"])
def test_a_pattern_names_each_file_once_where_links_lead_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, matched: Callable[[str], list[str]], pattern: str
) -> None:
    for name in ("1.png", "a/2.png", "a/b/3.png", "[c]/4.png"):
        write(tmp_path / name)
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "b" / "self").symlink_to(".", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    found = [os.path.relpath(path, tmp_path) for path in matched(pattern.format(tmp_path))]
    assert sorted(found) == ["1.png", "[c]/4.png", "a/2.png", "a/b/3.png"]


def test_a_pattern_that_matches_folders_means_what_is_in_them(tmp_path: Path) -> None:
    for name in ("a/x/1.png", "b/2.png"):
        write(tmp_path / name)
    for matched in (by_pattern_of_embed, by_pattern_of_commands):
        assert [os.path.relpath(path, tmp_path) for path in matched(f"{tmp_path}/*")] == ["a/x/1.png", "b/2.png"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("-", "-: standard input is not read"),
        ("https://example.org/a.jpg", "a URL, which this command does not download; download the file first"),
        ("https://example.org/a.jpg?size=3", "a URL, which this command does not download"),
        ("file:///photos/a.jpg", "a URL; expected a path (/photos/a.jpg)"),
        ("broken.jpg", "broken.jpg: no such file; it is a link to nowhere.jpg"),
        ("circle.jpg", "circle.jpg: no such file; it is a link to circle.jpg"),
    ],
)
def test_a_name_that_is_no_file_is_said_for_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.jpg").symlink_to("nowhere.jpg")
    Path("circle.jpg").symlink_to("circle.jpg")
    files, problems = expand([given])
    assert files == []
    assert [said in str(problem) for problem in problems] == [True]
