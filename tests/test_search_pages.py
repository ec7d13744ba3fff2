"""What the commands over a collection say and draw beside their results."""

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import hierax
from collections_of import collection, hash_of, noise
from hierax.cli import duplicates as duplicates_command
from hierax.cli import map as map_command
from hierax.cli import outliers as outliers_command
from hierax.cli import search as command
from hierax.cli.terminal import UserError
from hierax.collection import projection as layout
from hierax.collection.index import Index
from hierax.collection.listing import Listing, listing_path
from hierax.collection.mapped import RowInfo
from hierax.collection.originals import originals
from hierax.collection.pages import Entry, Section, contact_sheet, map_page
from hierax.collection.source import Source, content_hash
from hierax.collection.store import path_text


def run(module: Any, *given: str) -> int:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return module.run(parser.parse_args(given))


def drawn(place: Path, size: tuple[int, int] = (40, 30)) -> str:
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 80, 40)).save(place)
    return str(place)


def test_results_are_in_the_order_of_the_queries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import hierax.embedding.search as indexing

    vectors = noise(20)
    monkeypatch.setattr(indexing, "embed_queries", lambda paths, *_, **__: (vectors[: len(paths)], []))
    folder = collection(tmp_path / "rows", vectors)
    queries = [drawn(tmp_path / "b.png"), "0/5.jpg", drawn(tmp_path / "a.png"), "0/3.jpg"]
    assert run(command, str(folder), *queries, "--top-k", "1") == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line[0] != " "] == queries


def test_a_row_whose_name_is_no_text_is_found_by_its_file(tmp_path: Path) -> None:
    name = tmp_path / os.fsdecode(b"\xff.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    shutil.move(tmp_path / "x.png", name)
    folder = collection(tmp_path / "rows", noise(2), paths=[path_text(str(name)), "other.png"])
    results = hierax.search(Index(folder), [str(name)], top_k=5)
    assert [[hit.path for hit in result.hits] for result in results] == [["other.png"]]
    other = tmp_path / "\\xff.png"  # its name is the text of the other one's
    Image.new("RGB", (9, 9)).save(other)
    Listing([Source(str(name)), Source(str(other))]).write(listing_path(folder, 0))
    rows = [RowInfo(Source(str(f)).id, path_text(str(f)), content_hash(f.read_bytes())) for f in (name, other)]
    assert rows[0].path == rows[1].path
    found = originals([folder], rows, side=60)
    assert [not isinstance(o, str) and o.image.size for o in found] == [(8, 8), (9, 9)]


def test_that_nothing_is_similar_enough_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = collection(tmp_path, noise(9))
    assert run(command, str(folder), "0/5.jpg", "--threshold", "1") == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("0/5.jpg\n", "hierax: 0/5.jpg: no image is similar enough\n")


def test_a_lone_image_has_no_neighbors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = collection(tmp_path, noise(1))
    assert run(command, str(folder), "0/0.jpg") == 0
    assert capsys.readouterr().err == "hierax: 0/0.jpg: the collection has no other image\n"
    assert hierax.outliers(folder) == []
    assert run(outliers_command, str(folder)) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("", "hierax: the collection has 1 image; an outlier needs others to compare with\n")


def test_a_folder_in_place_of_a_page_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    with pytest.raises(SystemExit):
        run(command, str(tmp_path / "no collection"), "x", "--html", str(tmp_path / "pages"), "--force")


def test_an_index_says_what_it_holds(tmp_path: Path) -> None:
    folder = collection(tmp_path / "rows", noise(7))
    assert repr(Index(folder)) == f"Index({folder}: 7 rows, embedding [8])"


# -- pages ------------------------------------------------------------------------------------------------------------


def test_pictures_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    paths = [drawn(tmp_path / "trip" / name / "1.png") for name in ("june", "july")]
    page = contact_sheet([tmp_path], [Section("all", [Entry(RowInfo("", path, "")) for path in paths])], title="Sheet")
    assert "<figcaption><bdi>june/1.png<" in page
    assert "<figcaption><bdi>july/1.png<" in page
    assert f"All files are in {tmp_path}/trip/<" in page
    rows = [RowInfo("1", path, "") for path in ("a/1.png", "b/1.png")]
    apart = contact_sheet([tmp_path], [Section("all", [Entry(row) for row in rows])], title="Sheet")
    assert "All files are in" not in apart


def test_the_map_says_how_many_pictures_it_could_not_read(tmp_path: Path) -> None:
    points = [layout.Point(str(i), path, 0.5, 0.5) for i, path in enumerate([drawn(tmp_path / "1.png"), "gone.png"])]
    rows = [RowInfo(point.id, point.path, hash_of(point.path)) for point in points]
    page = map_page([tmp_path], layout.Layout(tuple(points), 2, "pca"), rows, title="Map")
    assert "1 are drawn as images, the others as dots. Files that cannot be read or have changed are dots: 1." in page


def test_a_map_without_scikit_learn_says_what_it_would_bring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(collection(tmp_path / "rows", noise(12)))
    monkeypatch.setattr(layout, "_tsne", lambda: None)
    run(map_command, folder, "-o", str(tmp_path / "1.html"))
    assert "t-SNE separates images better: pip install scikit-learn" in capsys.readouterr().err
    run(map_command, folder, "-o", str(tmp_path / "2.html"), "--method", "pca")
    assert "scikit-learn" not in capsys.readouterr().err


# -- duplicates -------------------------------------------------------------------------------------------------------


def test_components_without_whitening_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--components is for --whiten"):
        run(duplicates_command, str(tmp_path), "--components", "5")


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (noise(9), "no duplicates among 9 images at a similarity of 0.99 or more"),
        (np.concatenate([noise(8), noise(1)]), "1 group of duplicates: 2 of 9 images; 1 is redundant"),
        (
            np.tile(noise(1), (30, 1)),
            "the largest group is 30 images: if not all of them are copies, add --verify",
        ),
    ],
)
def test_what_was_found_is_summed_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], vectors: np.ndarray, said: str
) -> None:
    assert run(duplicates_command, str(collection(tmp_path, vectors)), "--threshold", "0.99") == 0
    assert said in capsys.readouterr().err
