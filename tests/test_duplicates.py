"""Duplicates and outliers of a collection, against brute force and over growth and change."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import hierax.collection.duplicates as module
import hierax.collection.index as indexing
from collections_of import clustered, collection, noise, unit
from hierax.cli import duplicates as command
from hierax.cli import outliers as outliers_command
from hierax.cli.terminal import UserError
from hierax.collection.duplicates import Group, Whitening, duplicates
from hierax.collection.index import Index
from hierax.collection.outliers import outliers
from hierax.collection.store import GONE, CollectionError, mark, shards, source_id
from hierax.collection.verify import SAME, common, smaller


def planted(count: int = 300, width: int = 24, *, copies: int = 40, seed: int = 0) -> np.ndarray:
    """Random rows, of which the last `copies` are those at the front a little changed."""
    rows = noise(count, width, seed=seed)
    rows[-copies:] = rows[:copies] + 0.1 * noise(copies, width, seed=seed + 1)
    return rows


def brute(vectors: np.ndarray, threshold: float) -> list[list[int]]:
    """Rows by group: connected by pairs of at least this similarity, the largest first, then by their first row."""
    scores = np.round(unit(vectors) @ unit(vectors).T, 6) >= threshold
    left, groups = set(range(len(vectors))), []
    while left:
        group, reach = set(), {min(left)}
        while reach:
            group |= reach
            reach = {int(j) for i in reach for j in np.flatnonzero(scores[i])} - group
        left -= group
        if len(group) > 1:
            groups.append(sorted(group))
    return sorted(groups, key=lambda group: (-len(group), group[0]))


def rows_of(groups: list[Group]) -> list[list[int]]:
    return [[int(m.path.split("/")[1].removesuffix(".jpg")) for m in group.members] for group in groups]


# -- groups -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.99])
def test_groups_equal_brute_force(tmp_path: Path, threshold: float) -> None:
    vectors = planted()
    assert rows_of(duplicates(collection(tmp_path, vectors), threshold=threshold)) == brute(vectors, threshold)


def test_the_cut_into_blocks_and_tiles_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = planted()
    monkeypatch.setattr(module, "_BLOCK", 13)
    monkeypatch.setattr(indexing, "_TILE", 7 * 4 * 24)
    assert rows_of(duplicates(collection(tmp_path, vectors), threshold=0.5)) == brute(vectors, 0.5)


def test_every_row_says_how_like_the_first_of_its_group_it_is(tmp_path: Path) -> None:
    vectors = planted()
    groups = duplicates(collection(tmp_path, vectors), threshold=0.5)
    scores = np.round(unit(vectors) @ unit(vectors).T, 6)
    for group, rows in zip(groups, rows_of(groups), strict=True):
        assert [m.score for m in group.members] == [scores[rows[0], row] for row in rows]
        assert [m.id for m in group.members] == [source_id(f"0/{row}.jpg") for row in rows]


def test_equal_files_are_one_group_whatever_their_vectors(tmp_path: Path) -> None:
    hashes = [f"file {row % 90}" for row in range(100)]
    groups = duplicates(collection(tmp_path, noise(100), hashes=hashes), threshold=1.0)
    assert rows_of(groups) == [[row, row + 90] for row in range(10)]
    assert all(member.exact for group in groups for member in group.members)


def test_what_is_like_an_equal_file_joins_its_group(tmp_path: Path) -> None:
    vectors, hashes = noise(60, 24), [f"file {row}" for row in range(60)]
    hashes[50] = hashes[10]
    vectors[30] = vectors[10] + 0.05 * noise(1, 24, seed=9)[0]
    groups = duplicates(collection(tmp_path, vectors, hashes=hashes), threshold=0.9)
    assert rows_of(groups) == [[10, 30, 50]]
    assert [member.exact for member in groups[0].members] == [True, False, True]


def test_rows_without_a_hash_are_not_equal_files(tmp_path: Path) -> None:
    assert duplicates(collection(tmp_path, noise(60, 24), hashes=[""] * 60), threshold=0.99) == []


def test_chains_are_one_group_unless_the_first_row_decides(tmp_path: Path) -> None:
    """Rows on a circle, ten degrees apart: neighbors are alike, the ends are not."""
    angles = np.deg2rad(10 * np.arange(8))
    folder = collection(tmp_path, np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32))
    threshold = float(np.cos(np.deg2rad(11)))
    assert rows_of(duplicates(folder, threshold=threshold)) == [list(range(8))]
    groups = duplicates(folder, threshold=threshold, linkage="first")
    assert rows_of(groups) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert all(member.score >= threshold for group in groups for member in group.members)


def test_a_collection_of_one_picture_is_one_group(tmp_path: Path) -> None:
    folder = collection(tmp_path, np.tile(noise(1), (120, 1)))
    assert rows_of(duplicates(folder, threshold=1.0)) == [list(range(120))]


def test_empty_and_lone_collections_have_none(tmp_path: Path) -> None:
    assert duplicates(collection(tmp_path / "none", noise(0))) == []
    assert duplicates(collection(tmp_path / "one", noise(1)), whiten=True) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.0}, "threshold is 0.0"),
        ({"linkage": "all"}, "linkage is 'all'"),
        ({"components": 5}, "components is 5, but whiten is False; expected whiten=True"),
        ({"approximate": True}, "no approximate index"),
        ({"approximate": True, "whiten": True}, "exclude each other"),
    ],
)
def test_what_cannot_be_done_is_an_error_that_says_why(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        duplicates(collection(tmp_path, noise(20)), **options)


def test_collections_of_two_models_are_not_compared(tmp_path: Path) -> None:
    folders = [collection(tmp_path / name, noise(20), weights=name) for name in ("a", "b")]
    with pytest.raises(CollectionError, match="weights was 'a', now 'b'"):
        duplicates(folders)


def test_duplicates_across_two_collections_are_found(tmp_path: Path) -> None:
    folders = [collection(tmp_path / name, noise(20), paths=[f"{name}/{i}.jpg" for i in range(20)]) for name in "ab"]
    groups = duplicates(folders, threshold=1.0)
    assert [[m.path for m in group.members] for group in groups] == [[f"a/{i}.jpg", f"b/{i}.jpg"] for i in range(20)]


# -- what is kept -----------------------------------------------------------------------------------------------------


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call compares with all others."""
    counts: list[int] = []
    real = module._Compare.__call__

    def counted(compare: Any, rows: Any, known: Any, least: float) -> Any:
        counts.append(int((~known).sum()))
        return real(compare, rows, known, least)

    monkeypatch.setattr(module._Compare, "__call__", counted)
    return counts


def test_a_second_run_compares_only_new_rows_and_equals_one_from_scratch(tmp_path: Path, compared: list[int]) -> None:
    vectors, more = planted(), planted(seed=5)
    more[:20] = vectors[100:120]
    folder = collection(tmp_path / "grown", vectors)
    first = duplicates(folder, threshold=0.8)
    assert duplicates(folder, threshold=0.8) == first
    collection(folder, more, listing=1)
    grown = duplicates(folder, threshold=0.8)
    assert compared == [300, 0, 300]
    scratch = collection(tmp_path / "scratch", vectors)
    collection(scratch, more, listing=1)
    assert duplicates(scratch, threshold=0.8) == grown
    assert len(grown) > len(first)


def test_rows_that_are_gone_drop_out_and_an_equal_file_takes_their_place(tmp_path: Path, compared: list[int]) -> None:
    vectors, hashes = planted(), [f"file {row}" for row in range(300)]
    hashes[150] = hashes[0]  # row 0 stands for both, and is like row 260
    vectors[150] = vectors[0]
    folder = collection(tmp_path, vectors, hashes=hashes)
    assert rows_of(duplicates(folder, threshold=0.8))[0] == [0, 150, 260]
    gone = {source_id(f"0/{row}.jpg"): GONE for row in (0, 3)}
    for shard in shards(folder):
        mark(shard, gone, manifest=Index(folder).manifest)
    after = rows_of(duplicates(folder, threshold=0.8))
    assert [150, 260] in after
    assert not {0, 3, 263} & {row for group in after for row in group}
    assert compared == [299, 1]


def test_a_higher_threshold_uses_what_is_kept_and_a_lower_one_starts_anew(tmp_path: Path, compared: list[int]) -> None:
    vectors = planted()
    folder = collection(tmp_path, vectors)
    for threshold in (0.8, 0.97, 0.5, 0.8):
        assert rows_of(duplicates(folder, threshold=threshold)) == brute(vectors, threshold)
    assert compared == [300, 0, 300, 0]


def test_a_row_whose_vector_changed_is_compared_again(tmp_path: Path, compared: list[int]) -> None:
    vectors = planted()
    folder = collection(tmp_path, vectors)
    duplicates(folder, threshold=0.8)
    vectors[7] = vectors[200]
    collection(folder, vectors)
    assert rows_of(duplicates(folder, threshold=0.8)) == brute(vectors, 0.8)
    assert compared == [300, 1]


def test_damaged_notes_are_made_again(tmp_path: Path) -> None:
    vectors = planted()
    folder = collection(tmp_path, vectors)
    duplicates(folder, threshold=0.8)
    kept = folder / "index" / "pairs.embedding.exact.npz"
    kept.write_bytes(kept.read_bytes()[:-50])
    assert rows_of(duplicates(folder, threshold=0.8)) == brute(vectors, 0.8)


def test_a_folder_in_the_place_of_kept_pairs_is_moved_away(tmp_path: Path, compared: list[int]) -> None:
    folder = collection(tmp_path, planted())
    (folder / "index" / "pairs.embedding.exact.npz").mkdir(parents=True)
    for _ in range(2):
        duplicates(folder, threshold=0.8)
    assert compared == [300, 0]


def test_after_whitening_nothing_is_taken_from_before_a_row_came(tmp_path: Path, compared: list[int]) -> None:
    folder = collection(tmp_path / "grown", planted())
    duplicates(folder, threshold=0.8, whiten=True)
    duplicates(folder, threshold=0.8, whiten=True)
    collection(folder, planted(seed=5), listing=1)
    grown = duplicates(folder, threshold=0.8, whiten=True)
    assert compared == [300, 0, 600]
    scratch = collection(tmp_path / "scratch", planted())
    collection(scratch, planted(seed=5), listing=1)
    assert duplicates(scratch, threshold=0.8, whiten=True) == grown


# -- whitening, faiss -------------------------------------------------------------------------------------------------


def test_whitened_vectors_are_uncorrelated_and_of_equal_spread(tmp_path: Path) -> None:
    stretched = noise(2000, 6) * np.array([30, 10, 3, 1, 0.3, 0.1], np.float32) + 50
    index = Index(collection(tmp_path, stretched, block=500))
    whitening = Whitening(index)
    vectors = (index.take(np.arange(2000)) - whitening.mean) @ whitening.matrix
    np.testing.assert_allclose(np.cov(vectors.T), np.eye(vectors.shape[1]), atol=0.02)
    assert np.abs(vectors.mean(0)).max() < 0.01


def test_whitening_tells_apart_what_looks_alike(tmp_path: Path) -> None:
    """All rows point almost the same way, as features of random weights do; only a twentieth of each is its own."""
    vectors = np.ones(32, np.float32) + 0.05 * planted(600, 32)
    folder = collection(tmp_path, vectors)
    assert len(duplicates(folder, threshold=0.9)[0].members) == 600
    assert rows_of(duplicates(folder, threshold=0.9, whiten=True)) == [[row, row + 560] for row in range(40)]


def test_through_faiss_planted_duplicates_are_found(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    vectors = clustered(3000, 32, clusters=30)
    vectors[-200:] = vectors[:200] + 0.005 * noise(200, 32)
    index = Index(collection(tmp_path, vectors, block=500))
    index.build(approximate=True)
    exact, found = (duplicates(index, threshold=0.99, approximate=way) for way in (False, True))
    assert len(exact) >= 200
    assert len({g.members for g in exact} & {g.members for g in found}) >= 0.98 * len(exact)


# -- pixels -----------------------------------------------------------------------------------------------------------


def drawn(seed: int) -> Image.Image:
    """Colored squares, smooth between them: another picture for every seed."""
    levels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize((300, 240), Image.Resampling.BICUBIC)


def changed(image: Image.Image) -> dict[str, Image.Image]:
    return {
        "resized": image.resize((170, 140)),
        "cropped": image.crop((14, 3, 292, 230)),
        "brighter": image.point([min(255, level + 6) for level in range(256)] * 3),
        "mirrored": image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "half": image.crop((0, 0, 150, 240)),
    }


def test_a_crop_and_a_resized_copy_are_one_picture_and_a_mirrored_one_or_a_half_is_not() -> None:
    for seed in range(5):
        small = smaller(drawn(seed))[None]
        shares = {name: common(small, smaller(image)[None])[0] for name, image in changed(drawn(seed)).items()}
        backwards = {name: common(smaller(image)[None], small)[0] for name, image in changed(drawn(seed)).items()}
        for name in shares:
            expected = name not in ("mirrored", "half")
            assert (shares[name] >= SAME, backwards[name] >= SAME) == (expected, expected), (name, shares, backwards)
        assert common(small, smaller(drawn(seed + 100))[None])[0] < 0.5


def test_plain_pictures_are_one_only_where_they_have_one_color() -> None:
    plain = [smaller(Image.new("RGB", (60, 50), color))[None] for color in ("#fff", "#fefefe", "#ddd")]
    assert common(plain[0], plain[1])[0] >= SAME
    assert common(plain[0], plain[2])[0] < SAME
    assert common(plain[0], smaller(drawn(0))[None])[0] < SAME


def test_with_verify_pairs_stay_whose_pictures_are_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = {"original": drawn(0), **changed(drawn(0)), "other": drawn(1)}
    paths = [str(tmp_path / f"{name}.jpg") for name in (*pictures, "gone")]
    for image, path in zip(pictures.values(), paths, strict=False):
        image.save(path, quality=85)
    folder = collection(tmp_path / "rows", np.tile(noise(1), (len(paths), 1)), paths=paths)
    told, unread = [], []
    assert len(duplicates(folder)[0].members) == len(paths)
    heard: dict[str, Any] = {"on_progress": lambda *at: told.append(at), "on_unreadable": unread.append}
    groups = duplicates(folder, verify=True, **heard)
    assert unread == paths[-1:]
    assert [[Path(m.path).stem for m in group.members] for group in groups] == [
        ["original", "resized", "cropped", "brighter"]
    ]
    assert told[-1] == (len(paths), len(paths))
    page = tmp_path / "page.html"
    assert run(command, str(folder), "--verify", "--html", str(page)) == 0
    out, err = capsys.readouterr()
    assert out.startswith("4 images\n")
    assert "is its similarity to the first image of its group" in page.read_text()
    problem = f"because the file cannot be read or has changed: {paths[-1]};"
    assert f"--verify could not compare the pixels of 1 image, {problem} copies of the same file are found" in err


# -- outliers ---------------------------------------------------------------------------------------------------------


def test_outliers_are_those_farthest_from_their_neighbors(tmp_path: Path) -> None:
    vectors = clustered(200, 16, clusters=3, spread=0.3)
    scores = np.round(unit(vectors) @ unit(vectors).T, 6)
    np.fill_diagonal(scores, -2)
    distance = np.round(1 - np.sort(scores, axis=1)[:, -10:].mean(1), 6)
    found = outliers(collection(tmp_path, vectors), 25, alike=None)
    best = np.lexsort((np.arange(200), -distance))[:25]
    np.testing.assert_allclose([row.score for row in found], distance[best], atol=2e-6)
    assert [row.path for row in found[:10]] == [f"0/{row}.jpg" for row in best[:10]]


def test_a_row_is_not_its_own_neighbor_even_among_copies(tmp_path: Path) -> None:
    vectors = np.concatenate([np.tile(noise(1), (30, 1)), noise(1, seed=4)])
    found = outliers(collection(tmp_path, vectors), 31, k=5, alike=None)
    assert found[0].path == "0/30.jpg"
    assert [row.score for row in found[1:]] == [0.0] * 30
    assert [row.path for row in found[1:]] == [f"0/{row}.jpg" for row in range(30)]


def test_in_a_large_collection_neighbors_are_sought_among_some_rows(tmp_path: Path) -> None:
    vectors = clustered(400, 16, clusters=3, spread=0.2)
    vectors[123] = -vectors[:3].sum(0)
    assert outliers(collection(tmp_path, vectors), 1, references=50)[0].path == "0/123.jpg"


def test_few_rows_have_few_neighbors(tmp_path: Path) -> None:
    assert len(outliers(collection(tmp_path / "three", noise(3)), 100)) == 3
    assert len(outliers(tmp_path / "three", 10**15, k=10**9)) == 3  # needs no memory for rows that are not there
    assert outliers(collection(tmp_path / "none", noise(0))) == []
    with pytest.raises(ValueError, match="k is 0"):
        outliers(tmp_path / "three", k=0)


def test_both_say_how_far_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 100)
    folder, told = collection(tmp_path, noise(230)), []
    duplicates(folder, on_progress=lambda *at: told.append(at))
    assert told == [(100, 230), (200, 230), (230, 230)]
    outliers(folder, on_progress=lambda *at: told.append(at))
    assert told[3:] == [(230, 230)]


# -- the commands -----------------------------------------------------------------------------------------------------


def run(module: Any, *given: str) -> int:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return module.run(parser.parse_args(given))


def test_duplicates_are_printed_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(collection(tmp_path / "rows", planted()))
    page = tmp_path / "sheet.html"
    assert run(command, folder, "--threshold", "0.8", "--json", "--html", str(page)) == 0
    out, err = capsys.readouterr()
    groups = [json.loads(line) for line in out.splitlines()]
    assert [group["size"] for group in groups] == [2] * 40
    assert groups[0]["members"][1]["path"] == "0/260.jpg"
    assert "40 groups of duplicates: 80 of 300 images; 40 are redundant" in err
    assert page.read_text().count("<figure") == 80
    assert run(command, folder, "--threshold", "0.8") == 0
    score = groups[0]["members"][1]["score"]
    wanted = ["2 images", "  first     0/0.jpg", f"  {score:.4f}    0/260.jpg"]
    assert capsys.readouterr().out.splitlines()[:3] == wanted


def test_whitening_and_faiss_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    folder = collection(tmp_path / "rows", planted())
    with pytest.raises(UserError, match="--approximate is not for --whiten"):
        run(command, str(folder), "--whiten", "--approximate")
    assert not (folder / "index").exists()


def test_outliers_are_printed_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(collection(tmp_path / "rows", noise(60)))
    page = tmp_path / "sheet.html"
    assert run(outliers_command, folder, "--count", "7", "--json", "--html", str(page)) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 7
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert page.read_text().count("<figure") == 7


def test_outliers_that_are_near_copies_are_one_with_a_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vectors = clustered(60, 16, clusters=1, spread=0.2)
    odd = -vectors[:1] + 0.3 * noise(1, 16, seed=9)
    folder = collection(tmp_path, np.concatenate([vectors, np.repeat(odd, 3, 0)]))
    first = outliers(folder, 2)[0]
    assert (first.path, first.copies) == ("0/60.jpg", 2)
    assert [row.path for row in outliers(folder, 3, alike=None)][1:] == ["0/61.jpg", "0/62.jpg"]
    assert run(outliers_command, str(folder), "--count", "1") == 0
    assert capsys.readouterr().out.endswith("0/60.jpg  (near copies: 2)\n")
    with pytest.raises(ValueError, match=r"alike is 2; expected a cosine similarity"):
        outliers(folder, alike=2)
