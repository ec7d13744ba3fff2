"""What is said, and when, of a collection whose pictures, model or files are not where they were."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hierax.embedding.run as running
from hierax.collection.store import Manifest, shards
from hierax.embedding import CollectionError, FeatureExtractor, embed
from pictures import COUNT, OPTIONS

pytest_plugins = ("pictures",)


def statuses(out: Path) -> dict[str, str]:
    table = pq.read_table(out / "data", columns=["path", "status"])
    return dict(zip(*(table.column(name).to_pylist() for name in ("path", "status")), strict=True))


def test_one_source_or_layer_need_not_stand_in_a_list(originals: Path, model: str, tmp_path: Path) -> None:
    one = originals / "a" / "001.png"
    assert embed(one, tmp_path / "path", model=model, layers="stage2", **OPTIONS).rows == 1
    assert embed(str(one), tmp_path / "text", model=model, **OPTIONS).rows == 1
    assert [c.name for c in Manifest.read(tmp_path / "path").columns] == ["stage2"]


def test_a_layer_that_is_named_twice_is_one_column(model: str) -> None:
    extractor = FeatureExtractor(model, layers=("stage2", "pooled", "stage2"), precision="fp32", backend="torch")
    assert [c.name for c in extractor.columns] == ["stage2", "embedding"]
    extractor.close()


def test_sources_that_are_missing_are_named_before_a_model_is_loaded(originals: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere: no such file or folder"):
        embed([originals, tmp_path / "nowhere"], tmp_path / "out", model="no model", **OPTIONS)


@pytest.mark.parametrize(("pictures", "prepared"), [("a/001.png", False), ("a", False), ("", True)])
def test_processes_are_prepared_only_for_many_pictures(
    originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: str, prepared: bool
) -> None:
    told: list[int] = []
    monkeypatch.setattr(running, "prepare_processes", lambda: told.append(1))
    monkeypatch.setattr(running, "FEW", COUNT - 1)
    running.begin([originals / pictures], tmp_path / "out")
    assert bool(told) is prepared
    running.begin([originals / pictures], tmp_path / "out", workers=2)
    assert len(told) == 1 + prepared
    running.begin([originals / pictures], tmp_path / "out", workers=0)
    assert len(told) == 1 + prepared


def test_a_folder_that_was_moved_marks_nothing_until_it_is_taken_out(
    originals: Path, model: str, tmp_path: Path
) -> None:
    pictures, out = Path(shutil.copytree(originals / "a", tmp_path / "pictures")), tmp_path / "out"
    embed([pictures], out, model=model, **OPTIONS)
    before = statuses(out)
    pictures.rename(tmp_path / "moved")
    with pytest.raises(CollectionError, match=r'pictures: no such.*delete it from "inputs" in .*manifest.json'):
        embed([tmp_path / "moved"], out, model=model, update=True, **OPTIONS)
    pictures.mkdir()  # a disk that is not mounted
    with pytest.raises(CollectionError, match=r"pictures: no images in this folder .*restore it"):
        embed([], out, model=model, update=True, **OPTIONS)
    assert statuses(out) == before
    manifest = out / "manifest.json"
    manifest.write_text(manifest.read_text().replace(json.dumps(str(pictures)), json.dumps(str(tmp_path / "moved"))))
    report = embed([], out, model=model, update=True, **OPTIONS)
    assert (report.rows, report.gone) == (len(before), len(before))


def test_an_input_that_was_never_there_is_not_said_to_have_gone(whole: Path, model: str, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    with pytest.raises(ValueError, match=r"new: no such file or folder$"):
        embed([tmp_path / "new"], out, model=model, update=True, **OPTIONS)


def test_pictures_that_were_named_one_by_one_may_go(originals: Path, model: str, tmp_path: Path) -> None:
    files = [Path(shutil.copy(originals / "a" / f"{n:03}.png", tmp_path / f"photo [{n}].png")) for n in range(4)]
    embed(files, tmp_path / "out", model=model, **OPTIONS)
    files[2].unlink()
    report = embed([], tmp_path / "out", model=model, update=True, **OPTIONS)
    assert (report.rows, report.gone) == (3, 1)
    assert statuses(tmp_path / "out")[str(files[2])] == "gone"


def test_rows_below_a_folder_that_cannot_be_opened_stay(
    originals: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, out = Path(shutil.copytree(originals / "a", tmp_path / "pictures" / "a")), tmp_path / "out"
    shutil.copy(pictures / "001.png", pictures.parent)
    first = embed([pictures.parent], out, model=model, **OPTIONS)
    scan = os.scandir

    def scandir(path: Any) -> Any:
        if os.fspath(path) == str(pictures):
            raise PermissionError(13, "Permission denied", str(pictures))
        return scan(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        report = embed([], out, model=model, update=True, **OPTIONS)
    assert (report.rows, report.gone, report.errors) == (first.rows, 0, first.errors + 1)
    report = embed([], out, model=model, update=True, **OPTIONS)
    assert (report.rows, report.gone, report.errors) == (first.rows, 0, first.errors)


@pytest.mark.parametrize("update", [False, True])
def test_a_damaged_shard_is_named_with_what_to_do(whole: Path, model: str, tmp_path: Path, update: bool) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    damaged = shards(out)[1]
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(CollectionError, match=rf"{damaged.name} is damaged: .*delete it, and hierax embed creates it"):
        embed([], out, model=model, update=update, **OPTIONS)
    damaged.unlink()
    assert embed([], out, model=model, **OPTIONS).pending == 0


def test_a_model_that_was_moved_is_asked_for(whole: Path, tmp_path: Path) -> None:
    manifest = Manifest.read(whole)
    values: dict[str, Any] = {**vars(manifest), "model": str(tmp_path / "lost")}
    with pytest.raises(CollectionError, match=r"was made by .*lost, which no longer exists; pass .* with --model"):
        Manifest(**values).named(whole)


def test_a_manifest_that_lacks_something_is_said_to(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(CollectionError, match=r"manifest.json is damaged: format is missing"):
        Manifest.read(tmp_path)


def test_of_many_differences_the_first_are_told(whole: Path) -> None:
    manifest = Manifest.read(whole)
    values: dict[str, Any] = {**vars(manifest), "config": {f"field{n}": n for n in range(9)}, "model": "other"}
    with pytest.raises(CollectionError, match=r"model was .*now 'other'; .*; and \d+ more differences; choose"):
        manifest.check_same(Manifest(**values), folder=whole)
    values["weights"] = "0" * 64  # of another model the configuration is another one anyway
    with pytest.raises(CollectionError, match=r"model was .*now 'other'; weights was '\w{12}…', now '0{12}…'; choose"):
        manifest.check_same(Manifest(**values), folder=whole)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t.drop_columns(["embedding"]), "column embedding is missing"),
        (lambda t: t.set_column(6, "embedding", pa.array(["x"] * len(t))), "column embedding is string; expected"),
        (
            lambda t: t.set_column(6, "embedding", pa.nulls(len(t), t.schema.field(6).type)),
            "column embedding has nulls",
        ),
        (lambda t: t.set_column(2, "width", pa.nulls(len(t), pa.int32())), "column width has nulls"),
    ],
)
def test_an_update_names_a_damaged_column(
    whole: Path, model: str, tmp_path: Path, change: Callable[[pa.Table], pa.Table], problem: str
) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    shard = shards(out)[0]
    pq.write_table(change(pq.read_table(shard)), shard)
    with pytest.raises(CollectionError, match=rf"{shard.name}.*{problem}"):
        embed([], out, model=model, update=True, **OPTIONS)


def test_an_update_names_a_shard_whose_vectors_cannot_be_read(whole: Path, model: str, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    shard = shards(out)[0]
    place = pq.ParquetFile(shard).metadata.row_group(0).column(6).data_page_offset
    data = shard.read_bytes()
    shard.write_bytes(data[:place] + b"\xff" * 64 + data[place + 64 :])
    with pytest.raises(CollectionError, match=rf"{shard.name}.*damaged"):
        embed([], out, model=model, update=True, **OPTIONS)
