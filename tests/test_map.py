"""The pages: the map and contact sheets are one file each, hold every name safely, and say what they leave out."""

import argparse
import base64
import hashlib
import json
import os
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import hierax
from collections_of import clustered, collection, hash_of, noise
from hierax.cli import map as command
from hierax.collection import drawing
from hierax.collection.listing import Listing, listing_path
from hierax.collection.mapped import RowInfo
from hierax.collection.originals import CHANGED, GONE, REMOTE, originals
from hierax.collection.pages import Entry, Section, contact_sheet, map_page
from hierax.collection.projection import Layout, Point, layout
from hierax.collection.source import Source
from hierax.collection.store import source_id
from hierax.embedding.sources import list_sources
from hierax.notices import Notice, printable
from hierax.principal import principal_scores

NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u2028\udcff.jpg"


class Tags(HTMLParser):
    """Elements with their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def draw(folder: Path, count: int) -> list[str]:
    """Images of different shapes; returns their paths."""
    folder.mkdir(exist_ok=True)
    paths = [str(folder / f"{i}.png") for i in range(count)]
    for i, path in enumerate(paths):
        Image.new("RGB", (100 + 10 * i, 120), (20 * i % 255, 80, 160)).save(path)
    return paths


def named(*paths: str) -> list[RowInfo]:
    """Rows of a collection, with the hashes of the files."""
    return [RowInfo(source_id(path), path, hash_of(path), 100, 120) for path in paths]


def entries(*paths: str) -> list[Entry]:
    return [Entry(row, "0.9") for row in named(*paths)]


def places(paths: list[str]) -> Layout:
    points = [Point(str(i), path, i / len(paths), 1 - i / len(paths)) for i, path in enumerate(paths)]
    return Layout(tuple(points), len(points), "pca")


# -- layout -----------------------------------------------------------------------------------------------------------


def test_principal_components_equal_those_of_a_singular_value_decomposition() -> None:
    for vectors in (noise(100, 12), noise(9, 40)):
        centered = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
        left, scale, _ = np.linalg.svd(centered, full_matrices=False)
        np.testing.assert_allclose(np.abs(principal_scores(vectors, count=5)), np.abs(left * scale)[:, :5], atol=1e-4)


def test_components_that_are_lacking_are_zero() -> None:
    assert principal_scores(noise(3, 8), count=5)[:, 2:].max() == 0
    assert principal_scores(np.ones((4, 8), np.float32), count=5).max() == 0


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_like_rows_are_near_each_other(tmp_path: Path, method: Any) -> None:
    if method == "tsne":
        pytest.importorskip("sklearn")
    vectors = np.repeat(noise(3, 16), 60, axis=0) + 0.05 * noise(180, 16, seed=1)
    found = layout(collection(tmp_path, vectors), method=method)
    xy = np.array([(p.x, p.y) for p in found.points])
    assert (xy.min(), xy.max(), found.method, found.rows) == (0, 1, method, 180)
    groups = xy.reshape(3, 60, 2)
    centers = groups.mean(1)
    apart = min(np.linalg.norm(a - b) for i, a in enumerate(centers) for b in centers[:i])
    assert np.linalg.norm(groups - centers[:, None], axis=2).max() < apart


def test_a_layout_is_the_same_every_time(tmp_path: Path) -> None:
    folder = collection(tmp_path, clustered(120, 16, clusters=4))
    assert layout(folder) == layout(folder)


def test_of_a_large_collection_rows_at_even_distances_are_laid_out(tmp_path: Path) -> None:
    found = layout(collection(tmp_path, noise(101)), points=11, method="pca")
    assert [p.path for p in found.points] == [f"0/{10 * i}.jpg" for i in range(11)]
    assert found.rows == 101


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_few_rows_are_laid_out_too(tmp_path: Path, count: int) -> None:
    assert len(layout(collection(tmp_path, noise(count))).points) == count


def test_without_scikit_learn_components_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    folder = collection(tmp_path, noise(20))
    assert layout(folder).method == "pca"
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        layout(folder, method="tsne")


def test_other_methods_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="method is 'umap'"):
        layout(tmp_path, method="umap")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# -- pictures ---------------------------------------------------------------------------------------------------------


def sizes(found: Any) -> list[Any]:
    return [original if isinstance(original, str) else original.image.size for original in found]


def test_images_are_shrunk_and_those_that_are_gone_say_so(tmp_path: Path) -> None:
    paths = draw(tmp_path, 3)
    (tmp_path / "bad.png").write_text("no image")
    rows = named(*paths, str(tmp_path / "bad.png"), str(tmp_path / "gone.png"))
    assert sizes(originals([tmp_path], rows, side=60)) == [(50, 60), (55, 60), (60, 60), GONE, GONE]


def test_only_what_has_the_hash_of_the_row_is_shown(tmp_path: Path) -> None:
    path, secret = draw(tmp_path, 2)
    rows = [replace(named(path)[0], path=secret), replace(named(path)[0], hash=""), RowInfo("", secret, "")]
    os.mkfifo(tmp_path / "pipe.png")
    rows += named(str(tmp_path / "pipe.png"), "/dev/zero", str(tmp_path), "a\0b")
    assert sizes(originals([tmp_path], rows, side=60)) == [CHANGED, CHANGED, (55, 60), GONE, GONE, GONE, GONE]


@pytest.mark.parametrize(
    "source",
    [
        Source("http://127.0.0.1:9/x.png", "url"),
        Source("ftp://127.0.0.1:9/x.png", "url"),
        Source("file:///etc/passwd", "url"),
        Source("hub:someone/images#train[0]", "table", "hub:someone/images#train"),
        Source("s3://bucket/t.parquet#train[0]", "table", "s3://bucket/t.parquet#train"),
        Source("http://127.0.0.1:9/x.mp4#t=0", "url", window=0),
    ],
)
def test_nothing_is_fetched_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Source) -> None:
    opened: list[Source] = []

    def read(self: Source, *, max_pixels: int | None = None) -> bytes:
        opened.append(self)
        raise OSError("no network")

    monkeypatch.setattr(Source, "read", read)
    Listing([source]).write(listing_path(tmp_path, 0))
    assert sizes(originals([tmp_path], named(source.path), side=60)) == [REMOTE]
    assert opened == []
    if source.window < 0:
        assert sizes(originals([tmp_path], named(source.path), side=60, fetch=True)) == [GONE]
        assert opened == [source]


def test_a_listing_shows_no_part_of_another_file(tmp_path: Path) -> None:
    secret = draw(tmp_path, 1)[0]
    member = f"{tmp_path}/none.tar::x.png"
    Listing([Source(member, "tar", secret, 0, os.path.getsize(secret))]).write(listing_path(tmp_path, 0))
    assert sizes(originals([tmp_path], named(member), side=60)) == [CHANGED]


def test_members_of_shards_are_found_by_the_listing(tmp_path: Path) -> None:
    import tarfile

    paths = draw(tmp_path / "drawn", 3)
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for path in paths:
            shard.add(path, os.path.basename(path))
    listing = Listing(list_sources([str(tmp_path / "shard.tar")]))
    listing.write(listing_path(tmp_path / "out", 0))
    rows = [RowInfo(s.id, s.path, hash_of(path)) for s, path in zip(listing, paths, strict=True)]
    assert sizes(originals([tmp_path / "out"], rows, side=60)) == [(50, 60), (55, 60), (60, 60)]
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:  # written again: another first member, one less
        shard.add(paths[0], "new.png")
        for path in paths[:2]:
            shard.add(path, os.path.basename(path))
    assert sizes(originals([tmp_path / "out"], rows, side=60)) == [(50, 60), (55, 60), CHANGED]


# -- pages ------------------------------------------------------------------------------------------------------------


def outside(page: str) -> list[str]:
    """What a page would fetch."""
    links = [a.get(name) or "" for _, a in Tags(page).found for name in ("src", "href", "data", "action", "srcset")]
    links += re.findall(r"url\(([^)]*)\)|@import|https?://[^\s\"'<]*", page)
    return [link for link in links if link and not link.startswith("data:")]


def test_pages_fetch_nothing_and_allow_themselves_nothing_from_outside(tmp_path: Path) -> None:
    paths = draw(tmp_path, 4)
    sheet = contact_sheet([tmp_path], [Section("all", entries(*paths))], title="Sheet")
    for page in (sheet, map_page([tmp_path], places(paths), named(*paths), title="Map")):
        assert outside(page) == []
        assert "default-src 'none'; img-src data:" in page


def asset(name: str) -> str:
    return (Path(hierax.__file__).parent / "assets" / "pages" / name).read_text()


def scripts(page: str) -> list[str]:
    return re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)


def test_a_page_runs_no_script_and_takes_no_style_but_its_own(tmp_path: Path) -> None:
    paths = draw(tmp_path, 2)
    sheet = contact_sheet([tmp_path], [Section("all", entries(*paths))], title="Sheet")
    for page in (sheet, map_page([tmp_path], places(paths), named(*paths), title="Map")):
        assert "unsafe" not in page
        for name, content in (("script", scripts(page)[-1]), ("style", page.split("<style>")[1].split("</style>")[0])):
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert f"{name}-src 'sha256-{digest}'" in page


def test_the_buttons_of_a_sheet_lie_below_its_last_image_and_never_on_it() -> None:
    footer = re.search(r"^footer \{([^}]*)\}", asset("sheet.css"), re.MULTILINE)
    assert footer is not None
    assert "position: sticky" in footer[1]
    assert "scroll-padding-bottom" in asset("sheet.css")


def test_names_of_files_cannot_become_part_of_the_page(tmp_path: Path) -> None:
    some = [Entry(named(NASTY)[0], NASTY)]
    sheet = contact_sheet([tmp_path], [Section(NASTY, some)], title=NASTY, note=NASTY)
    tags = Tags(sheet)
    assert len(tags.all("script")) == 1
    assert scripts(sheet) == [asset("page.js") + asset("sheet.js")]
    assert [a for a in tags.all("img") if "onerror" in a] == []
    assert tags.all("figure")[0]["title"] == printable(NASTY)
    page = map_page(
        [tmp_path], places([NASTY, "b.jpg"]), named(NASTY, "b.jpg"), title=NASTY, note=NASTY, labels=[NASTY, NASTY]
    )
    assert scripts(page)[1:] == [asset("page.js") + asset("map.js")]
    assert len(Tags(page).all("script")) == 2
    assert data_of(page)["names"] == [NASTY, "b.jpg"]
    for text in (sheet, page):
        text.encode("utf-8")


def test_a_picture_that_is_gone_is_a_tile_with_its_name(tmp_path: Path) -> None:
    paths = [*draw(tmp_path, 2), str(tmp_path / "gone & lost.png")]
    page = contact_sheet([tmp_path], [Section("all", entries(*paths))], title="Sheet")
    tags = Tags(page)
    assert [a["alt"] for a in tags.all("img")] == ["0.png", "1.png", ""]  # the last is that of the enlarged image
    assert len([a for a in tags.all("div") if a.get("class") == "missing"]) == 1
    assert "gone & lost.png" in tags.text


def test_a_sheet_is_bounded_and_says_so(tmp_path: Path) -> None:
    sections = [Section(str(i), entries(*(f"{i}/{j}.png" for j in range(4)))) for i in range(5)]
    tags = Tags(contact_sheet([tmp_path], sections, title="Sheet", most=10))
    assert len(tags.all("figure")) == 10
    assert "the first 10 of 20 images" in tags.text


def test_the_map_is_bounded_and_says_so(tmp_path: Path) -> None:
    paths = [*draw(tmp_path, 12), "gone.png"]
    page = map_page([tmp_path], places(paths), named(*paths), title="Map", thumbnails=5)
    data = data_of(page)
    assert sum(thumb >= 0 for thumb in data["thumbs"]) == 5
    assert data["names"] == paths
    assert "5 are drawn as images, the others as dots" in Tags(page).text
    assert data_of(map_page([tmp_path], places(paths), named(*paths), title="Map"))["thumbs"] == [*range(12), -1]


def test_the_pictures_of_the_map_lie_where_it_says(tmp_path: Path) -> None:
    import io

    paths = []
    for i in range(300):
        color = (i % 16 * 16, i // 16 * 12, 255 - i // 2)
        paths.append(str(tmp_path / f"{i}.png"))
        Image.new("RGB", (80, 60), color).save(paths[-1])
    data = data_of(map_page([tmp_path], places(paths), named(*paths), title="Map"))
    sheets = [Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) for source in data["sheets"]]
    assert len(sheets) == 2
    for i in (0, 17, 255, 256, 299):
        cell = data["thumbs"][i] % 256
        at = (cell % 16 * data["side"] + 40, cell // 16 * data["side"] + 30)
        got = np.array(sheets[data["thumbs"][i] // 256].getpixel(at))
        assert np.abs(got - (i % 16 * 16, i // 16 * 12, 255 - i // 2)).max() < 16
        assert data["sizes"][data["thumbs"][i]] == [80, 60]


# -- the command ------------------------------------------------------------------------------------------------------


def run(*given: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(given))


def test_the_map_of_a_collection_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = draw(tmp_path / "drawn", 30)
    folder = collection(tmp_path / "out", noise(30), paths=paths)
    page = tmp_path / "map.html"
    assert run(str(folder), "-o", str(page), "--method", "pca") == 0
    assert data_of(page.read_text())["names"] == paths
    assert "wrote" in capsys.readouterr().err
    with pytest.raises(ValueError, match="would be replaced"):
        run(str(folder), "-o", str(page))
    assert run(str(folder), "-o", str(page), "--force", "--points", "10", "--thumbnails", "3") == 0
    assert "10 of 30 images, evenly sampled; 3 are drawn as images" in page.read_text()


@pytest.mark.parametrize("method", ["auto", "tsne", "pca"])
@pytest.mark.parametrize("count", [5, 12, 60])
def test_rows_that_are_all_equal_are_laid_out_and_no_crash(tmp_path: Path, count: int, method: Any) -> None:
    if method == "tsne":
        pytest.importorskip("sklearn")
    folder = collection(tmp_path / "same", np.tile(noise(1), (count, 1)))
    places = layout(folder, method=method)
    assert {(p.x, p.y) for p in places.points} == {(0.5, 0.5)}
    nearly = collection(tmp_path / "nearly", np.tile(noise(1), (count, 1)) + 1e-8 * noise(count))
    assert all(np.isfinite([p.x, p.y]).all() for p in layout(nearly, method=method).points)


def test_equal_rows_among_others_are_laid_out(tmp_path: Path) -> None:
    for name, vectors in {
        "two images": np.repeat(noise(2), 20, 0),
        "most are equal": np.concatenate([np.tile(noise(1), (50, 1)), noise(3, seed=2)]),
        "on a line": np.linspace(-1, 1, 40, dtype=np.float32)[:, None] * noise(1) + noise(1, seed=3),
        "not finite": np.concatenate([noise(10), np.full((3, 8), np.nan, np.float32)]),
    }.items():
        folder = collection(tmp_path / name, vectors)
        if name == "not finite":
            with pytest.warns(Notice, match="3 of 13 rows are left out"):
                places = layout(folder)
        else:
            places = layout(folder)
        assert all(0 <= value <= 1 for p in places.points for value in (p.x, p.y)), name


@pytest.mark.parametrize("name", ["photo.jpg", "map.png", "map", "map.csv"])
def test_a_page_is_not_called_like_an_image(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    place.write_bytes(b"my only copy")
    with pytest.raises(SystemExit):
        run(str(tmp_path), "-o", str(place), "--overwrite")
    assert place.read_bytes() == b"my only copy"


def test_nothing_but_a_page_is_replaced(tmp_path: Path) -> None:
    draw(tmp_path, 1)
    folder, photo = str(collection(tmp_path / "out", noise(9))), tmp_path / "photo.html"
    (tmp_path / "0.png").rename(photo)
    content = photo.read_bytes()
    with pytest.raises(ValueError, match=r"photo.html is not an HTML page; only pages are overwritten"):
        run(folder, "-o", str(photo), "--overwrite")
    link = tmp_path / "link.html"
    link.symlink_to(photo)
    with pytest.raises(ValueError, match="only pages are overwritten"):
        run(folder, "-o", str(link), "--overwrite")
    assert photo.read_bytes() == content


def test_colors_are_those_of_folders_or_of_a_table(tmp_path: Path) -> None:
    paths = [*draw(tmp_path / "a", 4), *draw(tmp_path / "b", 2)]
    folder, page = str(collection(tmp_path / "out", noise(6), paths=paths)), tmp_path / "map.html"
    assert run(folder, "-o", str(page), "--method", "pca", "--color-by", "folder") == 0
    data = data_of(page.read_text())
    assert (data["groups"], data["labels"]) == (["a", "b"], [0, 0, 0, 0, 1, 1])
    (tmp_path / "labels.csv").write_text("path,label,kind\na/0.png,cat,x\na/1.png,cat,y\nb/0.png,dog,y\n")
    assert run(folder, "-o", str(page), "--overwrite", "--color-by", str(tmp_path / "labels.csv")) == 0
    data = data_of(page.read_text())
    assert (data["groups"], data["labels"]) == (["cat", "dog", "other"], [0, 0, 2, 2, 1, 2])
    assert run(folder, "-o", str(page), "--overwrite", "--color-by", f"{tmp_path / 'labels.csv'}:kind") == 0
    assert data_of(page.read_text())["groups"] == ["y", "x", "other"]
    with pytest.raises(ValueError, match=r"no column 'no'; there are: path, label, kind"):
        run(folder, "-o", str(page), "--overwrite", "--color-by", f"{tmp_path / 'labels.csv'}:no")
    with pytest.raises(ValueError, match="no such file; expected 'folder'"):
        run(folder, "-o", str(page), "--overwrite", "--color-by", "nothing")
    for rows in ("", "0.png,cat\n"):  # without a row, it is still no map of folders
        (tmp_path / "other.csv").write_text(f"path,label\n{rows}")
        with pytest.raises(
            ValueError, match=r"other.csv contains no path of .*out, such as .*a/0.png; paths in a table"
        ):
            run(folder, "-o", str(page), "--overwrite", "--color-by", str(tmp_path / "other.csv"))
    none = collection(tmp_path / "none", noise(0))
    assert run(str(none), "-o", str(tmp_path / "none.html"), "--method", "pca", "--color-by", "folder") == 0


def test_a_table_of_videos_labels_their_segments() -> None:
    rows = [
        RowInfo("1", "/v/a.mp4#t=0", "", start=0.0),
        RowInfo("2", "/v/a.mp4#t=2", "", start=2.0),
        RowInfo("3", "/b", ""),
    ]
    assert drawing._labels(rows, {"/v/a.mp4": "run", "/v/a.mp4#t=2": "jump"}) == ["run", "jump", ""]
