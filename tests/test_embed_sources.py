"""What is to be embedded: how files, folders, patterns, lists, shards, tables and URLs become a list of sources."""

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hierax.collection.listing import Listing, listing_path
from hierax.collection.mapped import RowInfo
from hierax.collection.originals import _sources
from hierax.collection.source import Source, as_bytes, content_hash
from hierax.collection.store import path_text, source_id
from hierax.embedding.decode import Decoder
from hierax.embedding.sources import has_at_most, list_sources
from hierax.processing import Preprocessing


def png(level: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in: pictures at two depths, and what is none."""
    monkeypatch.chdir(tmp_path)
    for name in ("p/b.png", "p/a.JPG", "p/deep/c.webp", "p/.hidden.png", "p/.git/d.png", "p/notes.md", "p/10.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(png())
    return tmp_path


def paths(*inputs: str) -> list[str]:
    return [
        os.path.relpath(source.path) if "://" not in source.path else source.path for source in list_sources(inputs)
    ]


def contents(*inputs: str) -> list[bytes]:
    return [as_bytes(source.read()) for source in list_sources(inputs)]


@pytest.mark.filterwarnings("ignore::hierax.notices.Notice")  # notes.md is no image
def test_a_folder_is_searched_to_its_depths_by_name_without_hidden_files(here: Path) -> None:
    assert paths("p") == ["p/10.png", "p/a.JPG", "p/b.png", "p/deep/c.webp"]


def test_patterns_and_files_of_any_suffix_are_taken(here: Path) -> None:
    assert paths("p/*.png", "p/notes.md") == ["p/10.png", "p/b.png", "p/notes.md"]
    assert paths("p/**/*.webp") == ["p/deep/c.webp"]


@pytest.mark.filterwarnings("ignore::hierax.notices.Notice")  # notes.md is no image
def test_each_source_is_listed_once_where_it_comes_first(here: Path) -> None:
    assert paths("p/b.png", "p", "p/deep") == ["p/b.png", "p/10.png", "p/a.JPG", "p/deep/c.webp"]


@pytest.mark.filterwarnings("ignore::hierax.notices.Notice")  # notes.md is no image
def test_folders_that_lead_back_to_themselves_end(here: Path) -> None:
    (here / "p" / "deep" / "loop").symlink_to(here / "p", target_is_directory=True)
    assert len(paths("p")) == 4


@pytest.mark.filterwarnings("ignore::hierax.notices.Notice")  # notes.md is no image
def test_a_folder_that_cannot_be_opened_is_a_source_that_cannot_be_read(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, closed = os.scandir, str(here / "p" / "deep")

    def scandir(path: Any) -> Any:
        if os.fspath(path) == closed:
            raise PermissionError(13, "Permission denied", closed)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert paths("p") == ["p/10.png", "p/a.JPG", "p/b.png", "p/deep"]


def test_few_pictures_are_known_to_be_few_without_listing_all(here: Path) -> None:
    assert has_at_most(["p"], 4)
    assert has_at_most(["p/b.png", "p/deep"], 2)
    assert not has_at_most(["p"], 3)
    (here / "list.txt").write_text("p/b.png\n")
    for unknown in ("list.txt", "p/*.png", "hub:x/y", "s3://x/y.png", "none.png"):
        assert not has_at_most(["p/b.png", unknown], 9)


def test_names_in_lists_that_are_no_text_are_the_files_of_that_name(here: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    Path(name).write_bytes(png(7))
    (here / "latin.csv").write_bytes(b"path\ncaf\xe9.png\n")
    (here / "latin.txt").write_bytes(b"caf\xe9.png\n")
    assert contents("latin.csv") == contents("latin.txt") == [png(7)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "p/b.png\n\np/a.JPG\n"),
        ("windows.txt", "\ufeffp/b.png\r\np/a.JPG\r\n"),
        ("list.csv", "id,path\n1,p/b.png\n2,p/a.JPG\n"),
        ("list.tsv", "file\tlabel\np/b.png\tx\np/a.JPG\ty\n"),
    ],
)
def test_lists_of_paths_are_relative_to_their_folder(
    here: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / name).write_text(text)
    monkeypatch.chdir("p")
    assert paths(f"../{name}") == ["b.png", "a.JPG"]


def test_a_parquet_file_with_paths_is_a_list_and_one_with_images_a_table(here: Path) -> None:
    pq.write_table(pa.table({"n": [1, 2], "filename": ["p/b.png", "p/10.png"]}), "list.parquet")
    assert paths("list.parquet") == ["p/b.png", "p/10.png"]
    images = pa.array([{"bytes": png(1), "path": "x"}, {"bytes": png(2), "path": "y"}])
    pq.write_table(pa.table({"image": images}), "table.parquet")
    assert paths("table.parquet") == ["table.parquet#train[0]", "table.parquet#train[1]"]
    assert contents("table.parquet") == [png(1), png(2)]


@pytest.mark.parametrize("name", ["T.PARQUET", "a [1].parquet", "a*.parquet", "d [v2]/t.parquet"])
def test_a_table_is_read_whatever_its_name(here: Path, name: str) -> None:
    other = pa.table({"image": [{"bytes": png(7), "path": None}]})
    for path in ("a1.parquet", "a 1.parquet"):  # which a pattern would match
        pq.write_table(other, path)
    Path(name).parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": [{"bytes": png(level), "path": None} for level in (1, 2)]}), name)
    assert contents(name) == [png(1), png(2)]


def test_a_table_that_was_written_again_is_opened_again(here: Path) -> None:
    for levels in ((1, 2), (3, 4, 5)):
        pq.write_table(pa.table({"image": [{"bytes": png(level), "path": None} for level in levels]}), "t.parquet")
        assert contents("t.parquet") == [png(level) for level in levels]


@pytest.mark.parametrize("name", ["s.tar", "t.parquet"])
def test_a_shard_or_table_whose_path_is_no_text_is_named(here: Path, name: str) -> None:
    folder = os.fsdecode(b"caf\xe9")
    os.mkdir(folder)
    with tarfile.open(os.path.join(folder, "s.tar"), "w") as shard:
        shard.add("p/b.png")
    with open(os.path.join(folder, "t.parquet"), "wb") as file:
        pq.write_table(pa.table({"image": [{"bytes": png(), "path": None}]}), file)
    with pytest.raises(ValueError, match=rf"caf\\xe9/{name}: its path is not valid UTF-8; rename it"):
        paths(os.path.join(folder, name))


def test_members_of_tar_shards_are_read_by_their_place(here: Path) -> None:
    with tarfile.open("s.tar", "w") as shard:
        for name, content in (("1.png", png(1)), ("1.cls", b"0"), ("sub/2.png", png(2))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    assert paths("s.tar") == ["s.tar::1.png", "s.tar::sub/2.png"]
    assert contents("s.tar") == [png(1), png(2)]


def test_urls_are_what_fsspec_opens(here: Path) -> None:
    import fsspec

    system: Any = fsspec.filesystem("memory")
    for name in ("b.png", "a.png", "notes.txt"):
        system.pipe(f"/bucket/{name}", png(3))
    assert paths("memory://bucket") == ["memory:///bucket/a.png", "memory:///bucket/b.png"]
    assert paths("memory://bucket/b.*") == ["memory:///bucket/b.png"]
    assert contents("memory://bucket/b.png") == [png(3)]
    with pytest.raises(FileNotFoundError):
        Source("memory://bucket/none.png", "url").read()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("none.png", "none.png: no such file"),
        ("*.gif", r"\*.gif: no file matches this pattern"),
        ("none.txt", "none.txt: an empty list"),
        ("p/.git", "p/.git: no images in this folder|no such"),
        ("bad.csv", "bad.csv: its first line is a, b; expected names of columns.*--columns path=NAME"),
        ("broken.csv", "broken.csv, line 2: field larger than field limit"),
        ("bad.parquet", "bad.parquet: cannot be read as parquet"),
        ("bad.tar", "bad.tar: damaged, or not a tar file"),
        ("nowhere://x/y", "nowhere://x/y: Protocol not known"),
    ],
)
def test_what_stands_for_nothing_is_named(here: Path, given: str, message: str) -> None:
    (here / "bad.csv").write_text("a,b\n1,2\n")
    (here / "broken.csv").write_text(f"path\n{'x' * 200_000}\n")
    (here / "none.txt").write_text("\n")
    (here / "bad.parquet").write_bytes(b"no")
    (here / "bad.tar").write_bytes(b"no tar file at all" * 100)
    (here / "p" / ".git" / "d.png").unlink()
    with pytest.raises(ValueError, match=message):
        list(list_sources([given]))


def test_a_listing_is_read_as_it_was_written(tmp_path: Path) -> None:
    sources = [Source("/a.png"), Source("/s.tar::b", "tar", "/s.tar", 512, 99), Source("s3://x/ü.png", "url")]
    Listing(sources).write(listing_path(tmp_path, 0))
    read = Listing.read(listing_path(tmp_path, 0))
    assert list(read) == sources
    assert [source.id for source in read] == [source.id for source in sources]


def test_a_few_sources_of_a_listing_are_found_without_reading_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = os.fsdecode(b"/none/\xff.png")
    names = [f"/s.tar::{number}" for number in range(70_000)]
    Listing([*(Source(name, "tar", "/s.tar", 512, 99) for name in names), Source(strange)]).write(
        listing_path(tmp_path, 0)
    )
    made: list[Any] = []
    real = Source.__init__
    monkeypatch.setattr(Source, "__init__", lambda self, *a, **n: made.append(real(self, *a, **n)))
    known = {name: RowInfo(source_id(name), path_text(name), "") for name in (names[3], names[69_999], strange)}
    wanted = [known[names[3]], known[names[69_999]], RowInfo("", "/not/there.png", "")]
    found = _sources([tmp_path], wanted)
    assert (set(found), len(made)) == ({wanted[0].id, wanted[1].id}, 2)
    assert set(_sources([tmp_path], [known[strange], wanted[0]])) == {known[strange].id, wanted[0].id}
    named = RowInfo("", names[3], "")  # a query, which has no id
    assert set(_sources([tmp_path], [named])) == {names[3]}


def test_the_first_listing_stands(tmp_path: Path) -> None:
    for name in ("/first.png", "/second.png"):
        Listing([Source(name)]).write(listing_path(tmp_path, 0))
    assert Listing.read(listing_path(tmp_path, 0))[0].path == "/first.png"
    assert len(list((tmp_path / "listings").iterdir())) == 1


def test_a_picture_keeps_its_orientation_and_lies_on_black_where_it_is_too_small(tmp_path: Path) -> None:
    import numpy as np

    image, exif = Image.new("RGB", (30, 10), (255, 0, 0)), Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(tmp_path / "x.jpg", exif=exif)
    record = Preprocessing(do_resize=False, crop_size={"height": 40, "width": 20})
    out = np.zeros((3, 40, 20), np.uint8)
    item = Decoder(record)(Source(str(tmp_path / "x.jpg")), out)
    assert (item.width, item.height, item.error) == (10, 30, None)
    assert item.hash == content_hash((tmp_path / "x.jpg").read_bytes())
    assert (out[0] > 200).sum() == 300
    assert (out[0, 5:35, 5:15] > 200).all()


def test_a_record_that_does_not_crop_is_refused() -> None:
    with pytest.raises(ValueError, match="does not crop"):
        Decoder(Preprocessing(do_center_crop=False))
