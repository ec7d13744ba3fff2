"""A model is saved over another one: at every moment the old or the new one opens."""

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import hierax.folders as folders
from hierax import HieraForImageClassification, Preprocessing, open_checkpoint
from hierax.checkpoint.save import convert
from hierax.engine.backends.exported import is_export
from hierax.together import finish_replacement, replace_together
from power_cut import Disk, Tree, restore
from small import image_config

WEIGHTS, RECORD = "model.safetensors", ".replacing.json"
Facts = tuple[tuple[str, ...], float, int]


def model(*labels: str, size: int) -> HieraForImageClassification:
    made = HieraForImageClassification(image_config(num_labels=len(labels), id2label=dict(enumerate(labels))))
    made.preprocessing = Preprocessing(size={"height": size, "width": size})
    with torch.no_grad():
        made.head.weight.fill_(size)
    return made


def facts(folder: Path) -> Facts:
    """What a model that is opened has: its labels, a weight, and the size of its images."""
    opened = open_checkpoint(folder)
    assert opened.preprocessing is not None
    return opened.labels, float(opened.tensors["head.weight"][0, 0]), next(iter(opened.preprocessing.size.values()))


def in_shards(folder: Path, saved: HieraForImageClassification) -> None:
    """Writes a model in two files, as other libraries do."""
    saved.save_pretrained(folder)
    from hierax.checkpoint.files import read_tensors

    tensors = read_tensors(folder / WEIGHTS)
    named = {f"{tensors.prefix}{name}": tensor.clone() for name, tensor in tensors.tensors.items()}
    (folder / WEIGHTS).unlink()
    names = sorted(named)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: named[name] for name in held}, folder / shard, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def beside(folder: Path) -> None:
    """Files of the user's own."""
    (folder / "README.md").write_text("mine")
    (folder / "plots").mkdir()
    (folder / "plots" / "one.txt").write_text("mine")


OLD, NEW = (("cat", "dog"), 64.0, 64), (("dog", "cat"), 32.0, 32)
FIRST: dict[str, Callable[[Path], object]] = {
    "one file": lambda folder: model("cat", "dog", size=64).save_pretrained(folder),
    "shards": lambda folder: in_shards(folder, model("cat", "dog", size=64)),
    "timm": lambda folder: convert(_saved(folder), folder, to="timm"),
}


def _saved(folder: Path) -> Path:
    other = folder.with_name("other")
    model("cat", "dog", size=64).save_pretrained(other)
    return other


@pytest.fixture(params=list(FIRST))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    place = tmp_path / "root" / "model"
    place.parent.mkdir()
    FIRST[request.param](place)
    beside(place)
    assert facts(place) == OLD
    return place


def replaced(folder: Path) -> None:
    model("dog", "cat", size=32).save_pretrained(folder)


def recorded(root: Path, act: Callable[[], object]) -> list[Tree]:
    disk = Disk(root)
    with disk.recording():
        act()
    return disk.states()


def test_after_a_kill_or_a_power_cut_at_any_moment_the_old_or_the_new_model_opens(folder: Path, tmp_path: Path) -> None:
    states = recorded(folder.parent, lambda: replaced(folder))
    found = []
    for number, tree in enumerate(states):
        left = restore(tree, tmp_path / str(number)) / folder.name
        found.append(facts(left))
        assert (left / "README.md").read_text() == (left / "plots" / "one.txt").read_text() == "mine"
        assert not (left / RECORD).exists()
    assert set(found) == {OLD, NEW}
    assert facts(folder) == NEW


def test_other_programs_never_find_weights_beside_the_configuration_of_another_model(folder: Path) -> None:
    def seen(tree: Tree) -> tuple[Any, ...]:
        held = {name: content for name, content in tree.items() if name.startswith("model/model")}
        return tree.get("model/config.json"), tree.get("model/preprocessor_config.json"), *sorted(held.items())

    def opens(tree: Tree) -> bool:
        names = tree.keys()
        return f"model/{WEIGHTS}" in names or f"model/{WEIGHTS}.index.json" in names

    before, *_ = recorded(folder.parent, lambda: None)
    states = recorded(folder.parent, lambda: replaced(folder))
    after, *_ = recorded(folder.parent, lambda: None)
    assert {seen(tree) for tree in states if opens(tree)} == {seen(before), seen(after)}


def test_a_step_that_fails_leaves_the_model_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    replace, steps = os.replace, 0

    def failing(at: int) -> Callable[[Any, Any], None]:
        done = 0

        def step(source: Any, target: Any) -> None:
            nonlocal done
            done += 1
            if done == at:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(source))
            replace(source, target)

        return step

    for steps in range(1, 30):
        monkeypatch.setattr(os, "replace", failing(steps))
        try:
            replaced(folder)
        except OSError:
            assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        else:
            break
    assert steps > 3
    monkeypatch.setattr(os, "replace", replace)
    assert facts(folder) == NEW


def test_where_steps_cannot_be_undone_either_the_next_opening_finishes_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace
    for left in range(1, 6):
        done = 0

        def failing(source: Any, target: Any, left: int = left) -> None:
            nonlocal done
            done += 1
            if done > left:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(source))
            replace(source, target)

        monkeypatch.setattr(os, "replace", failing)
        try:
            replaced(folder)
        except OSError:
            monkeypatch.setattr(os, "replace", replace)
            assert facts(folder) in (OLD, NEW)
        monkeypatch.setattr(os, "replace", replace)


def test_nothing_hidden_is_left(folder: Path) -> None:
    replaced(folder)
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", WEIGHTS, "preprocessor_config.json", "README.md", "plots"}


def interrupted(folder: Path) -> Path:
    """A folder in which a process was killed after the first of its renames."""
    for name in ("a", "b"):
        (folder / name).write_text("old")
    hidden = [f".{number}{'0' * 15}.part" for number in range(4)]
    for part in hidden[:2]:
        (folder / part).write_text("new")
    (folder / RECORD).write_text(json.dumps([["a", hidden[0], hidden[2]], ["b", hidden[1], hidden[3]]]))
    os.replace(folder / "a", folder / hidden[2])
    return folder


def test_files_that_were_about_to_be_replaced_are(tmp_path: Path) -> None:
    finish_replacement(interrupted(tmp_path))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "new", "b": "new"}


def test_what_was_interrupted_is_finished_before_the_next_files_are_written(tmp_path: Path) -> None:
    with replace_together(interrupted(tmp_path)) as files, files.write("c") as part:
        part.write_text("c")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "new", "b": "new", "c": "c"}


@pytest.mark.parametrize(
    "record",
    [
        "",
        "[",
        "{}x",
        "[1]",
        '[["a"]]',
        '[["../a", null, ".0000000000000000.part"]]',
        '[["a", "/etc/passwd", ".0000000000000000.part"]]',
        '[["a", "b", ".0000000000000000.part"]]',
        '[["a", null, "b"]]',
        '[[1, null, ".0000000000000000.part"]]',
    ],
)
def test_a_record_that_names_other_files_is_an_error(record: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    (tmp_path / RECORD).write_text(record)
    with pytest.raises(ValueError, match=r"\.replacing\.json: is damaged"):
        finish_replacement(tmp_path)
    assert (tmp_path / "a").read_text() == "mine"


def test_a_record_without_files_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    (tmp_path / RECORD).write_text(json.dumps([["a", f".{'0' * 16}.part", f".{'1' * 16}.part"]]))
    finish_replacement(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "mine"}


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser writes everywhere")
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    interrupted(tmp_path)
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(OSError, match="saving a model here was interrupted"):
            finish_replacement(tmp_path)
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_an_export_that_was_moved_away_by_a_killed_process_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a system cannot exchange two folders in one step."""
    monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    target = tmp_path / "export"
    for text in ("old", "new"):

        def write(text: str = text) -> None:
            with folders.atomic_folder(target, lambda: None) as part:
                (part / "export.json").write_text(text)

        states = recorded(tmp_path, write)
    found = [restore(tree, tmp_path.with_name(f"{tmp_path.name}-{n}")) for n, tree in enumerate(states)]
    assert all(is_export(root / "export") for root in found)
    assert {(root / "export" / "export.json").read_text() for root in found} == {"old", "new"}
