"""Features of many pictures: what is written, what is skipped, what goes on, and what is never mixed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import hierax
from hierax import HieraForPreTraining, HieraModel
from hierax.collection.listing import Listing
from hierax.collection.store import Manifest, source_id
from hierax.embedding import CollectionError, FeatureExtractor, embed
from hierax.processing import HieraImageProcessor
from pictures import BAD, COUNT, OPTIONS, RECORD, same
from small import image_config, randomize, relative

LIMIT = 600  # seconds for a process
pytest_plugins = ("pictures",)


@pytest.fixture
def pictures(originals: Path, tmp_path: Path) -> Path:
    """A copy of them, to change."""
    return Path(shutil.copytree(originals, tmp_path / "pictures"))


def rows(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(out / "data").to_pylist()


def standing(out: Path) -> dict[str, np.ndarray]:
    """Vectors by path of the rows that stand."""
    return {row["path"]: np.array(row["embedding"]) for row in rows(out) if row["status"] == "ok"}


# -- what is written --------------------------------------------------------------------------------------------------


def test_rows_are_in_the_order_of_the_sources_with_what_is_known_of_each(whole: Path, originals: Path) -> None:
    found = rows(whole)
    files = [file for n, file in enumerate(sorted(originals.rglob("*.png"))) if n not in BAD]
    assert [row["path"] for row in found] == [str(file) for file in files]
    assert [row["id"] for row in found] == [source_id(str(file)) for file in files]
    assert [(row["width"], row["height"]) for row in found] == [hierax.load_image(file).size for file in files]
    assert len({row["hash"] for row in found}) == len(found)
    assert {row["status"] for row in found} == {"ok"}


def test_vectors_are_the_pooled_features_of_the_model(whole: Path, model: str) -> None:
    direct, processor = HieraModel.from_pretrained(model), HieraImageProcessor(RECORD, fast=True)
    for row in rows(whole)[::7]:
        with torch.no_grad():
            expected = direct(**processor(row["path"])).pooler_output[0]
        assert relative(torch.tensor(row["embedding"]), expected) < 1e-5


def test_what_cannot_be_read_is_listed_with_the_reason_and_moves_no_row(whole: Path, originals: Path) -> None:
    errors = pq.read_table(whole / "errors.parquet").to_pylist()
    files = sorted(originals.rglob("*.png"))
    assert [error["path"] for error in errors] == [str(files[n]) for n in BAD]
    assert [error["id"] for error in errors] == [source_id(str(files[n])) for n in BAD]
    reasons = ["an empty file", "not an image", "a damaged JPEG file"]
    assert all(reason in error["error"] for reason, error in zip(reasons, errors, strict=True))


def test_other_pictures_in_a_batch_change_no_vector(originals: Path, model: str, whole: Path, tmp_path: Path) -> None:
    one = sorted(originals.rglob("*.png"))[9]
    embed([one], tmp_path / "one", model=model, **OPTIONS)
    assert (
        relative(torch.tensor(rows(tmp_path / "one")[0]["embedding"]), torch.tensor(standing(whole)[str(one)])) < 1e-5
    )


def test_the_manifest_says_how_it_was_made(whole: Path, model: str, originals: Path) -> None:
    manifest = Manifest.read(whole)
    assert (manifest.model, manifest.precision, manifest.dtype, manifest.l2) == (model, "fp32", "float32", False)
    assert manifest.preprocessing == RECORD.to_dict()
    assert manifest.inputs == (str(originals),)
    assert "norm" in manifest.columns[0].pooling
    assert json.loads((whole / "manifest.json").read_text())["fingerprint"] == manifest.fingerprint


def test_stages_and_maps_are_columns_of_their_own(originals: Path, model: str, tmp_path: Path) -> None:
    one = sorted(originals.rglob("*.png"))[0]
    embed([one], tmp_path / "out", model=model, layers=("pooled", "stage2", "stage3_map"), **OPTIONS)
    row, manifest = rows(tmp_path / "out")[0], Manifest.read(tmp_path / "out")
    direct, processor = HieraModel.from_pretrained(model), HieraImageProcessor(RECORD, fast=True)
    with torch.no_grad():
        states: Any = direct(**processor(one), output_hidden_states=True).reshaped_hidden_states
    assert relative(torch.tensor(row["stage2"]), states[2].mean((1, 2))[0]) < 1e-5
    grid = torch.tensor(row["stage3_map"]).view(manifest.column("stage3_map").shape)
    assert relative(grid, states[3][0].permute(2, 0, 1)) < 1e-5


def test_vectors_may_have_length_1_and_16_bits(originals: Path, model: str, whole: Path, tmp_path: Path) -> None:
    report = embed([originals], tmp_path / "out", model=model, l2=True, half=True, **OPTIONS)
    assert pq.read_schema(next((report.out / "data").iterdir())).field("embedding").type.value_type == pa.float16()
    for path, vector in standing(report.out).items():
        expected = standing(whole)[path]
        assert np.abs(vector - expected / np.linalg.norm(expected)).max() < 1e-3


def test_tables_of_blocks_come_as_they_are_written(originals: Path, model: str, tmp_path: Path) -> None:
    tables: list[Any] = []
    seen: list[int] = []
    options = {**OPTIONS, "on_table": tables.append, "on_progress": lambda p: seen.append(p.done)}
    embed([originals], tmp_path / "out", model=model, **options)
    assert pa.concat_tables(tables).to_pylist() == rows(tmp_path / "out")
    assert seen == [min(n, COUNT) for n in range(4, COUNT + 4, 4)]


def test_other_libraries_open_it_in_one_line(whole: Path) -> None:
    import datasets
    import pandas as pd

    assert len(pd.read_parquet(whole / "data")) == COUNT - len(BAD)
    files = [str(file) for file in sorted((whole / "data").iterdir())]
    found = datasets.load_dataset("parquet", data_files=files, split="train")
    assert found.column_names == pq.read_schema(files[0]).names


def test_pooled_features_of_a_mae_are_taken_and_said_to_be_untrained(tmp_path: Path) -> None:
    mae: Any = randomize(HieraForPreTraining(image_config(num_query_pool=2)))
    mae.preprocessing = RECORD
    mae.save_pretrained(tmp_path)
    extractor = FeatureExtractor(tmp_path, precision="fp32", backend="torch")
    assert extractor.untrained_norm
    extractor.close()


# -- going on ---------------------------------------------------------------------------------------------------------


def test_shares_of_several_processes_make_the_whole(originals: Path, model: str, whole: Path, tmp_path: Path) -> None:
    for number in (2, 0, 1):
        report = embed([originals], tmp_path / "out", model=model, shard=(number, 3), **OPTIONS)
    assert report.pending == 0
    assert same(tmp_path / "out", whole)


def test_only_blocks_that_are_missing_are_done(originals: Path, model: str, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "out")
    lost = sorted((tmp_path / "out" / "data").iterdir())[2]
    lost.unlink()
    report = embed([], tmp_path / "out", model=model, **OPTIONS)
    assert (report.done, report.rows, report.errors) == (8, COUNT - len(BAD), len(BAD))
    assert same(tmp_path / "out", whole)


CODE = """
import sys; sys.path.insert(0, "tests")
from hierax.embedding import embed
def told(progress): print(progress.done, flush=True); sys.stdin.readline()
options = dict(batch_size=4, block_size=8, workers={workers}, precision="fp32", backend="torch")
report = embed([{pictures!r}], {out!r}, model={model!r}, on_progress=told, **options)
print(report.stopped, report.pending)
"""


def started(pictures: Path, out: Path, model: str, workers: int = 0) -> "subprocess.Popen[str]":
    """After each batch, the process waits for a line, or for the end of its input."""
    code = CODE.format(pictures=str(pictures), out=str(out), model=model, workers=workers)
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", code], text=True, **pipes)


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_processes_writes_the_same(
    originals: Path, model: str, whole: Path, tmp_path: Path, workers: int
) -> None:
    process = started(originals, tmp_path / "out", model, workers)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    assert out.endswith("False 0\n")
    assert same(tmp_path / "out", whole)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_call_that_was_killed_goes_on_as_if_it_was_not(
    originals: Path, model: str, whole: Path, tmp_path: Path, workers: int
) -> None:
    process = started(originals, tmp_path / "out", model, workers)
    assert process.stdin is not None
    assert process.stdout is not None
    while int(process.stdout.readline() or COUNT) < 20:
        process.stdin.write("go on\n")
        process.stdin.flush()
    process.kill()
    process.communicate()
    there = len(list((tmp_path / "out" / "data").glob("part-*")))
    assert 1 <= there <= 4
    embed([originals], tmp_path / "out", model=model, **OPTIONS)
    assert same(tmp_path / "out", whole)


def test_an_interrupt_finishes_the_block_and_the_rest_goes_on(
    originals: Path, model: str, whole: Path, tmp_path: Path
) -> None:
    process = started(originals, tmp_path / "out", model)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    stopped, pending = out.split()[-2:]
    assert stopped == "True"
    assert int(pending) in (COUNT - 8, COUNT - 16)
    embed([originals], tmp_path / "out", model=model, **OPTIONS)
    assert same(tmp_path / "out", whole)


def test_what_a_killed_writer_left_is_taken_away(originals: Path, model: str, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "out")
    (tmp_path / "out" / "data" / ".part-0000-0000001.parquet.7.abc.part").write_bytes(b"half")
    embed([], tmp_path / "out", model=model, **OPTIONS)
    assert same(tmp_path / "out", whole)


# -- updates ----------------------------------------------------------------------------------------------------------


def test_an_update_embeds_what_is_new_or_changed_and_marks_what_is_gone(
    pictures: Path, model: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    embed([pictures], out, model=model, **OPTIONS)
    before = standing(out)
    new, changed, gone, repaired = (pictures / "a" / f"{n}.png" for n in ("zzz", "001", "002", "005"))
    shutil.copy(pictures / "b" / "040.png", new)
    shutil.copy(pictures / "b" / "041.png", changed)
    shutil.copy(pictures / "b" / "042.png", repaired)
    gone.unlink()
    report = embed([], out, model=model, update=True, **OPTIONS)
    assert (report.done, report.gone, report.replaced, report.errors) == (3, 1, 1, len(BAD) - 1)
    after = standing(out)
    assert after.keys() == before.keys() - {str(gone)} | {str(new), str(repaired)}
    assert np.allclose(after[str(changed)], before[str(pictures / "b" / "041.png")], rtol=1e-4, atol=1e-5)
    untouched = before.keys() - {str(gone), str(changed)}
    assert all(np.array_equal(after[path], before[path]) for path in untouched)
    assert [row["path"] for row in rows(out)][-3:] == [str(changed), str(repaired), str(new)]


def test_an_update_of_what_has_not_changed_does_nothing(whole: Path, model: str, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "out")
    report = embed([], tmp_path / "out", model=model, update=True, **OPTIONS)
    assert (report.done, report.gone, report.replaced) == (0, 0, 0)
    assert same(tmp_path / "out", whole)


def test_what_is_gone_and_comes_back_stands_again(pictures: Path, model: str, tmp_path: Path) -> None:
    out, file = tmp_path / "out", pictures / "a" / "003.png"
    embed([pictures], out, model=model, **OPTIONS)
    content = file.read_bytes()
    for there in (False, True):
        file.write_bytes(content) if there else file.unlink()
        embed([], out, model=model, update=True, **OPTIONS)
        assert (str(file) in standing(out)) is there


def test_an_update_of_a_collection_that_is_not_done_makes_nothing_twice(
    originals: Path, model: str, whole: Path, tmp_path: Path
) -> None:
    embed([originals], tmp_path / "out", model=model, shard=(0, 2), **OPTIONS)
    embed([], tmp_path / "out", model=model, update=True, **OPTIONS)
    assert same(tmp_path / "out", whole)


def test_sources_are_added_by_an_update_alone(originals: Path, model: str, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    embed([originals / "a"], out, model=model, **OPTIONS)
    with pytest.raises(CollectionError, match=r"/b is not among the sources of .*; update adds it"):
        embed([originals / "b"], out, model=model, **OPTIONS)
    embed([originals / "b"], out, model=model, update=True, **OPTIONS)
    assert standing(out).keys() == standing(whole).keys()
    assert Manifest.read(out).inputs == (str(originals / "a"), str(originals / "b"))


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"l2": True}, "l2 was False, now True"),
        ({"half": True}, "dtype was 'float32', now 'float16'"),
        ({"layers": ("stage2",)}, "columns was embedding [64], now stage2 [16]"),
        ({"size": 96}, "preprocessing.crop_size.height was 64, now 96"),
        ({"precision": "bf16"}, "precision was 'fp32', now 'bf16'"),
    ],
)
def test_rows_made_in_another_way_are_never_mixed_in(
    originals: Path, model: str, whole: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(CollectionError, match="was made in another way") as caught:
        embed([originals], whole, model=model, **{**OPTIONS, **change})
    assert message in str(caught.value)


def test_other_weights_are_never_mixed_in(originals: Path, whole: Path) -> None:
    other: Any = randomize(HieraModel(image_config()))
    other.preprocessing = RECORD
    with pytest.raises(CollectionError, match=r"weights was '[0-9a-f]{12}…', now"):
        embed([originals], whole, model=other, **OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": (3, 3)}, "shard is 3/3"),
        ({"block_size": 10}, "block_size is 10 and batch_size is 4"),
        ({"layers": ("stage9",)}, "layer is 'stage9'; expected pooled, stage1"),
        ({"layers": ("stage2_map",), "l2": True}, "which is a map; l2 is only for vectors"),
        ({"layers": ()}, "layers is empty"),
        ({"size": 100_000}, r"size is 100000, for which images are resized to 1\d+,\d+ pixels; expected at most 8,192"),
        ({"workers": -3}, "workers is -3; expected 0 or more"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    originals: Path, model: str, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        embed([originals], tmp_path / "out", model=model, **{**OPTIONS, **options})
    assert not (tmp_path / "out").exists()


def test_folders_with_other_things_and_sources_that_are_none_are_refused(model: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(CollectionError, match="is not empty and contains no collection"):
        embed([tmp_path], tmp_path, model=model, **OPTIONS)
    with pytest.raises(ValueError, match="nowhere: no such file or folder"):
        embed([tmp_path / "nowhere"], tmp_path / "out", model=model, **OPTIONS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no images in this folder"):
        embed([tmp_path / "empty"], tmp_path / "out", model=model, **OPTIONS)
    with pytest.raises(ValueError, match="expected sources"):
        embed([], tmp_path / "out", model=model, **OPTIONS)
    assert not (tmp_path / "out").exists()


def test_a_damaged_manifest_or_listing_is_named(whole: Path, model: str, tmp_path: Path) -> None:
    for name in ("manifest.json", "listings/0000.parquet"):
        out = tmp_path / name.replace("/", "-")
        shutil.copytree(whole, out)
        (out / name).write_bytes(b"{")
        with pytest.raises(CollectionError, match=f"{name} is damaged"):
            embed([], out, model=model, **OPTIONS)


def test_a_model_of_volumes_is_refused(tmp_path: Path) -> None:
    from small import volume_config

    with pytest.raises(ValueError, match="takes inputs of 3 axes; expected a model of images or clips"):
        FeatureExtractor(HieraModel(volume_config()))


def test_listings_hold_names_that_are_no_text(tmp_path: Path) -> None:
    from hierax.collection.source import Source

    strange = os.fsdecode(b"/x/\xff.png")
    Listing([Source(strange)]).write(tmp_path / "0000.parquet")
    assert Listing.read(tmp_path / "0000.parquet")[0].path == strange
