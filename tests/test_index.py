"""Search in a collection: against brute force in float64, over damage, growth and change."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hierax.collection.index as module
import hierax.collection.mapped as mapping
from collections_of import clustered, collection, noise, unit
from hierax.collection.approximate import Report
from hierax.collection.index import Hit, Index
from hierax.collection.store import GONE, CollectionError, Column, mark, shards, source_id
from hierax.notices import Notice

VECTORS = noise(230)
QUERIES = noise(7, seed=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """230 rows in five shards."""
    return collection(tmp_path / "rows", VECTORS)


def brute(queries: np.ndarray, vectors: np.ndarray, k: int, least: float = -1) -> list[list[tuple[str, float]]]:
    scores = np.round(unit(queries) @ unit(vectors).T, 6)
    found = []
    for line in scores:
        best = np.lexsort((np.arange(len(line)), -line))[:k]
        found.append([(f"0/{row}.jpg", float(line[row])) for row in best if line[row] >= least])
    return found


def pairs(hits: list[list[Hit]]) -> list[list[tuple[str, float]]]:
    return [[(hit.path, hit.score) for hit in some] for some in hits]


# -- exact ------------------------------------------------------------------------------------------------------------


def test_search_equals_brute_force(folder: Path) -> None:
    assert pairs(Index(folder).search(QUERIES, 10)) == brute(QUERIES, VECTORS, 10)


def test_the_cut_into_tiles_and_blocks_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TILE", 7 * 4 * 8)
    monkeypatch.setattr(module, "_QUERIES", 3)
    assert pairs(Index(folder).search(QUERIES, 10)) == brute(QUERIES, VECTORS, 10)


def test_the_length_of_a_query_does_not_matter(folder: Path) -> None:
    assert Index(folder).search(QUERIES * 1000) == Index(folder).search(QUERIES)


def test_queries_may_be_tensors_lists_and_halves(folder: Path) -> None:
    index = Index(folder)
    wanted = index.search(QUERIES)
    assert index.search(torch.from_numpy(QUERIES).requires_grad_()) == wanted
    assert index.search(QUERIES.tolist()) == wanted
    assert [h[0].id for h in index.search(QUERIES.astype(np.float16))] == [h[0].id for h in wanted]


def test_rows_that_tie_come_in_the_order_of_the_collection(tmp_path: Path) -> None:
    vectors = np.tile(noise(3), (40, 1))  # each of three vectors forty times, over several shards
    hits = Index(collection(tmp_path / "ties", vectors)).search(vectors[:1], 50)[0]
    assert [hit.path for hit in hits[:40]] == [f"0/{row}.jpg" for row in range(0, 120, 3)]
    assert {hit.score for hit in hits[:40]} == {1.0}


def test_a_threshold_leaves_out_what_is_below(folder: Path) -> None:
    found = pairs(Index(folder).search(QUERIES, 230, threshold=0.4))
    assert found == brute(QUERIES, VECTORS, 230, least=0.4)
    assert all(found)


def test_more_hits_than_rows_are_all_rows(folder: Path) -> None:
    assert pairs(Index(folder).search(QUERIES, 1000)) == brute(QUERIES, VECTORS, 230)


def test_no_queries_find_nothing(folder: Path) -> None:
    assert Index(folder).search(np.zeros((0, 8), np.float32)) == []


def test_an_empty_collection_can_be_searched(tmp_path: Path) -> None:
    index = Index(collection(tmp_path / "none", np.zeros((0, 8), np.float32)))
    assert (len(index), index.search(QUERIES[:2]), list(index)) == (0, [[], []], [])


def test_rows_that_are_not_finite_or_zero_are_named_and_belong_to_no_answer(tmp_path: Path) -> None:
    vectors = VECTORS[:60].copy()
    vectors[3], vectors[4], vectors[5, 2], vectors[51] = 0, np.nan, np.inf, np.nan
    folder = collection(tmp_path / "odd", vectors)
    for _ in range(2):  # when the mapped files are made, and from them
        with pytest.warns(Notice, match=r"4 of 60 rows are left out, such as 0/3.jpg: their features are not finite"):
            index = Index(folder)
        hits = index.search(QUERIES[:1], 60)[0]
        left = [row for row in range(60) if row not in (3, 4, 5, 51)]
        assert index.left_out() == ["0/3.jpg", "0/4.jpg", "0/5.jpg", "0/51.jpg"]
        assert {hit.path for hit in hits} == {f"0/{row}.jpg" for row in left}
        wanted = unit(VECTORS[:60][left]) @ unit(QUERIES[:1])[0]
        assert {hit.path: hit.score for hit in hits} == pytest.approx(
            {f"0/{row}.jpg": score for row, score in zip(left, wanted.tolist(), strict=True)}, abs=2e-6
        )
        assert [path for rows in index for path in rows.paths] == [f"0/{row}.jpg" for row in left]
        assert index.find(["0/4.jpg", "0/59.jpg"]) == {"0/59.jpg": 55}


@pytest.mark.parametrize(
    ("vectors", "options", "message"),
    [
        (noise(2, 9), {}, r"vectors has shape \[2, 9\]; expected \[Q, 8\]"),
        (noise(2)[0], {}, r"vectors has shape \[8\]"),
        (np.full((1, 8), np.nan), {}, "NaN or infinity"),
        (QUERIES, {"k": 0}, "k is 0"),
        (QUERIES, {"threshold": 1.5}, "threshold is 1.5"),
        (QUERIES, {"approximate": True}, "no approximate index"),
    ],
)
def test_what_cannot_be_searched_is_an_error_that_says_why(
    folder: Path, vectors: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Index(folder).search(vectors, **options)


def test_float16_collections_are_searched_as_they_are(tmp_path: Path) -> None:
    folder = collection(tmp_path / "half", VECTORS, dtype="float16")
    assert pairs(Index(folder).search(QUERIES, 10)) == brute(QUERIES, VECTORS.astype(np.float16), 10)


def test_a_column_is_chosen_by_name(tmp_path: Path) -> None:
    columns = (Column("embedding", "pooled", (8,), "mean"), Column("stage3", "stage3", (8,), "mean"))
    folder = collection(tmp_path / "two", VECTORS[:50], columns=columns)
    assert Index(folder, column="stage3").column.name == "stage3"
    with pytest.raises(CollectionError, match="no column 'stage9'; there are: embedding, stage3"):
        Index(folder, column="stage9")


# -- rows -------------------------------------------------------------------------------------------------------------


def test_vectors_of_ids_and_paths_have_length_one(folder: Path) -> None:
    found = Index(folder).vectors_of([source_id("0/200.jpg"), "0/3.jpg", "0/3.jpg"])
    np.testing.assert_allclose(found, unit(VECTORS)[[200, 3, 3]], atol=1e-7)
    with pytest.raises(ValueError, match="'nobody' is not the id or path"):
        Index(folder).vectors_of(["nobody"])


def test_iterating_gives_the_rows_in_their_order(folder: Path) -> None:
    index = Index(folder)
    assert [path for rows in index for path in rows.paths] == [f"0/{row}.jpg" for row in range(230)]
    np.testing.assert_allclose(np.concatenate([rows.vectors for rows in index]), unit(VECTORS), atol=1e-7)
    assert len(index) == 230


def test_rows_that_are_gone_are_not_found(folder: Path) -> None:
    before = Index(folder)
    best = [hits[0] for hits in before.search(QUERIES)]
    for shard in shards(folder):
        mark(shard, {hit.id: GONE for hit in best}, manifest=before.manifest)
    with pytest.raises(CollectionError, match="has changed; open the index again"):
        before.search(QUERIES)
    before.refresh()
    gone = {hit.id for hit in best}
    assert len(before) == 230 - len(gone)
    for index in (before, Index(folder)):
        assert not gone & {hit.id for hits in index.search(QUERIES, 230) for hit in hits}


# -- what is mapped ---------------------------------------------------------------------------------------------------


def mapped(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "index").glob("*.npy") if path.name.count(".") == 3)


def test_new_shards_extend_the_index_and_leave_the_others_alone(folder: Path) -> None:
    index = Index(folder)
    before = {path: path.stat().st_mtime_ns for path in mapped(folder)}
    more = noise(60, seed=2)
    collection(folder, more, listing=1)
    index.refresh()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(mapped(folder)) == len(before) + 2
    both = np.concatenate([VECTORS, more])
    got = index.search(QUERIES, 10)
    assert [[hit.score for hit in hits] for hits in got] == [[s for _, s in hits] for hits in brute(QUERIES, both, 10)]
    assert got == Index(folder).search(QUERIES, 10)


def test_a_shard_that_is_written_again_is_noticed(folder: Path) -> None:
    Index(folder)
    changed = VECTORS[::-1].copy()
    collection(folder, changed)
    assert pairs(Index(folder).search(QUERIES, 10)) == brute(QUERIES, changed, 10)
    assert len(mapped(folder)) == 5


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "missing": Path.unlink,
    "nonsense": lambda path: path.write_bytes(b"\x93NUMPY\x01\x00nonsense" * 30),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("which", ["", ".keys", ".apart"])
def test_a_damaged_mapped_file_is_made_again(folder: Path, damage: Callable[[Path], Any], which: str) -> None:
    wanted = Index(folder).search(QUERIES)
    file = mapped(folder)[0].with_suffix(f"{which}.npy")
    whole = file.read_bytes()
    damage(file)
    assert Index(folder).search(QUERIES) == wanted
    assert file.read_bytes() == whole


def with_notes(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes").write_text("mine")


@pytest.mark.parametrize("which", ["", ".keys", ".apart"])
def test_a_folder_in_the_place_of_a_mapped_file_is_moved_away(folder: Path, which: str) -> None:
    wanted = Index(folder).search(QUERIES)
    file = mapped(folder)[0].with_suffix(f"{which}.npy")
    file.unlink()
    with_notes(file)
    with pytest.warns(
        Notice, match=rf"{file.name}: a folder was in the place of a cached file; it is now {file.name}."
    ):
        assert Index(folder).search(QUERIES) == wanted
    assert file.is_file()
    assert Index(folder).search(QUERIES) == wanted
    assert [(moved / "notes").read_text() for moved in file.parent.glob("*.moved")] == ["mine"]


def test_a_file_in_the_place_of_the_folder_of_mapped_files_is_moved_away(folder: Path) -> None:
    (folder / "index").write_text("mine")
    with pytest.warns(Notice, match=r"index: a file was in the place of a folder of cached files; it is now index\."):
        Index(folder)
    assert len(mapped(folder)) == 5
    assert [moved.read_text() for moved in folder.glob("index.*.moved")] == ["mine"]


def test_a_folder_that_cannot_be_written_to_is_searched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(mapping, "atomic_write", refuse)
    assert pairs(Index(folder).search(QUERIES, 10)) == brute(QUERIES, VECTORS, 10)
    assert mapped(folder) == []


def test_a_damaged_shard_is_named(folder: Path) -> None:
    damaged = shards(folder)[2]
    damaged.write_bytes(damaged.read_bytes()[:-200])
    with pytest.raises(CollectionError, match=rf"{damaged.name} is damaged"):
        Index(folder)


def test_a_folder_without_a_collection_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match=r"no collection \(manifest.json is missing\)"):
        Index(tmp_path)


# -- several collections ----------------------------------------------------------------------------------------------


def test_several_collections_are_searched_as_one(tmp_path: Path) -> None:
    first, second = collection(tmp_path / "a", VECTORS[:100]), tmp_path / "b"
    collection(second, VECTORS[100:], paths=[f"0/{row}.jpg" for row in range(100, 230)])
    assert pairs(Index([first, second]).search(QUERIES, 10)) == brute(QUERIES, VECTORS, 10)


def test_collections_of_two_models_are_not_searched_together(folder: Path, tmp_path: Path) -> None:
    other = collection(tmp_path / "other", VECTORS, weights="beef")
    with pytest.raises(CollectionError, match="weights was '0f0f', now 'beef'"):
        Index([folder, other])


# -- approximate ------------------------------------------------------------------------------------------------------

CLUSTERED = clustered(3000, 32, clusters=30)


def build(index: Index) -> Report:
    report = index.build(approximate=True)
    assert report is not None
    return report


def test_approximate_search_measures_its_recall_and_reaches_it(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    index = Index(collection(tmp_path / "many", CLUSTERED[:2900], block=500))
    report = build(index)
    assert report.recall >= 0.98
    assert f"recall@10 {report.recall:.3f}" in str(report)
    exact, found = (index.search(CLUSTERED[2900:], 10, approximate=way) for way in (False, True))
    same = sum(len({h.id for h in a} & {h.id for h in b}) for a, b in zip(exact, found, strict=True))
    assert same / 1000 >= 0.95


def test_an_approximate_index_is_used_by_default_above_the_stated_size_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    import hierax.collection.approximate as approximate

    index = Index(collection(tmp_path / "many", CLUSTERED, block=500))
    index.build(approximate=True)
    asked: list[int] = []
    real = approximate.Approximate.candidates
    monkeypatch.setattr(approximate.Approximate, "candidates", lambda *a: asked.append(1) or real(*a))
    index.search(CLUSTERED[:1])
    assert asked == []
    monkeypatch.setattr(approximate, "APPROXIMATE_FROM", 3000)
    index.search(CLUSTERED[:1])
    assert asked == [1]
    index.search(CLUSTERED[:1], approximate=False)
    assert asked == [1]


def test_rows_that_came_after_the_build_are_found_and_rows_that_went_are_not(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    folder = collection(tmp_path / "many", CLUSTERED[:2000], block=500)
    index = Index(folder)
    index.build(approximate=True)
    collection(folder, CLUSTERED[2000:], listing=1, block=500)
    mark(shards(folder)[0], {source_id("0/7.jpg"): GONE}, manifest=index.manifest)
    index.refresh()
    assert index.search(CLUSTERED[2500:2501], 1, approximate=True)[0][0].path == "1/500.jpg"
    assert index.search(CLUSTERED[7:8], 1, approximate=True)[0][0].path != "0/7.jpg"
    report = build(index)
    assert (report.added, report.rows) == (1000, 3000)
    assert build(index).added == 0
    assert index.search(CLUSTERED[2500:2501], 1, approximate=True)[0][0].path == "1/500.jpg"


def test_a_damaged_approximate_index_counts_as_none(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    folder = collection(tmp_path / "many", CLUSTERED, block=500)
    Index(folder).build(approximate=True)
    file = folder / "index" / "embedding.faiss"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="no approximate index"):
        Index(folder).search(CLUSTERED[:1], approximate=True)
    assert build(Index(folder)).added == 3000


def test_too_few_rows_have_no_approximate_index(folder: Path) -> None:
    pytest.importorskip("faiss")
    with pytest.raises(ValueError, match="230 rows; approximate search needs at least 1000"):
        Index(folder).build(approximate=True)


def test_without_faiss_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install 'faiss-cpu>=1.9' \(part of hierax\[search\]\)"):
        Index(folder).build(approximate=True)


def test_a_large_collection_is_searched_exactly_where_faiss_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    import hierax.collection.approximate as approximate

    folder = collection(tmp_path / "many", CLUSTERED, block=500)
    wanted = Index(folder).search(CLUSTERED[:3])
    Index(folder).build(approximate=True)
    monkeypatch.setattr(approximate, "APPROXIMATE_FROM", 3000)
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert Index(folder).search(CLUSTERED[:3]) == wanted
    with pytest.raises(ImportError, match="faiss"):
        Index(folder).search(CLUSTERED[:3], approximate=True)


# -- memory -----------------------------------------------------------------------------------------------------------

_MEMORY = """
import sys, threading, time, numpy as np
from hierax.collection.index import Index

def anonymous():
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("RssAnon"))

def watch():
    while True:
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.005)

peak = [0.0]
threading.Thread(target=watch, daemon=True).start()
before = anonymous()
index = Index(sys.argv[1])
index.search(index.take(np.arange(0, 4000, 100)), 10)
print(len(index), peak[0] - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_memory_does_not_grow_with_the_collection(tmp_path: Path) -> None:
    """400 MB of vectors are searched, and mapped the first time, with less anonymous memory than they have."""
    folder = tmp_path / "large"
    for listing in range(8):
        collection(folder, noise(17_000, 768, seed=listing), listing=listing, block=2048)
    done = subprocess.run([sys.executable, "-c", _MEMORY, str(folder)], check=True, capture_output=True, text=True)
    rows, grown = map(float, done.stdout.split())
    assert rows == 136_000
    assert grown < 250


def test_an_approximate_index_whose_structure_is_damaged_is_never_given_to_faiss(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    index = Index(collection(tmp_path / "rows", clustered(1500, 8, clusters=20), block=500))
    index.build(approximate=True)
    file = next((tmp_path / "rows" / "index").glob("*.faiss"))
    content = bytearray(file.read_bytes())
    content[40] ^= 0xFF  # in what says how much follows
    file.write_bytes(content)
    with pytest.raises(ValueError, match="no approximate index"):
        Index(tmp_path / "rows").search(noise(1), approximate=True)
