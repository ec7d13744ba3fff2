"""Kills and power cuts at any moment: what has a name is whole, and a run that is called finished has its weights."""

import hashlib
import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load

import hierax.folders as folders
from hierax import HieraForImageClassification, HieraModel
from hierax.atomic import atomic_write
from hierax.embedding import embed
from hierax.engine.export import export as exporting
from hierax.train import finetune, pretrain
from hierax.train.checkpoints import write_json
from hierax.train.folder import check_folder, delete_run_files
from pictures import OPTIONS, RECORD
from power_cut import Disk, Tree, restore
from small import fresh_seed, image_config, randomize
from training import pictures, same, started, toy, weights

MODES = ("finetune", "pretrain")
RUN, WEIGHTS = "run/run.json", "run/model/model.safetensors"


def recorded(root: Path, act: Callable[[], object]) -> tuple[list[Tree], list[Tree]]:
    """The states that a power cut could leave meanwhile, and those that it could leave afterwards."""
    disk = Disk(root)
    with disk.recording():
        act()
    return disk.states(), disk.last()


def train(mode: str, data: Path, out: Path, **options: Any) -> Path:
    recipe = toy(mode, batch_size=3, validation_fraction=0.25 if mode == "finetune" else 0.0)
    return {"finetune": finetune, "pretrain": pretrain}[mode](
        data, out=out, recipe=recipe, source=None, device="cpu", quiet=True, **options
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("power") / "data", each=4)


@pytest.fixture(scope="module", params=MODES)
def run(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A mode, the states that a power cut could leave of a run, and its weights."""
    root = tmp_path_factory.mktemp(request.param)
    states, _ = recorded(root, lambda: train(request.param, data, root / "run"))
    return request.param, states, weights(root / "run")


def is_finished(tree: Tree) -> bool:
    return bool(json.loads(tree.get(RUN) or b"{}").get("finished"))


def test_the_disk_forgets_what_was_not_synced(tmp_path: Path) -> None:
    def act() -> None:
        (tmp_path / "a").write_text("a")
        os.replace(tmp_path / "a", tmp_path / "b")

    states, last = recorded(tmp_path, act)
    assert {} in last
    assert {"b": b""} in states
    assert {"b": b"a"} in states  # only the process ended


def test_the_disk_keeps_what_was_synced(tmp_path: Path) -> None:
    (tmp_path / "before").write_text("before")

    def act() -> None:
        with (tmp_path / "a").open("w") as file:
            file.write("a")
            file.flush()
            os.fsync(file.fileno())
        handle = os.open(tmp_path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)

    states, last = recorded(tmp_path, act)
    assert last == [{"before": b"before", "a": b"a"}]
    assert all(tree["before"] == b"before" for tree in states)


def test_a_file_has_the_old_or_the_new_content_and_the_new_one_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        with atomic_write(path) as part:
            part.write_text("new")

    states, last = recorded(tmp_path, write)
    assert {tree["file"] for tree in states} == {b"old", b"new"}
    assert {tree["file"] for tree in last} == {b"new"}


def test_a_file_that_was_written_into_new_folders_stays(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_write(tmp_path / "a" / "b" / "file") as part:
            part.write_text("new")

    _, last = recorded(tmp_path, write)
    assert {tree.get("a/b/file") for tree in last} == {b"new"}


def test_a_run_that_is_called_finished_has_its_weights(run: Any) -> None:
    _, states, final = run
    finished = [tree for tree in states if is_finished(tree)]
    assert finished
    assert all(same(load(tree[WEIGHTS] or b""), final) for tree in finished)


def test_the_newest_checkpoint_is_whole(run: Any) -> None:
    _, states, _ = run
    seen = set()
    for tree in states:
        steps = [path for path in tree if path.startswith("run/checkpoints/step-") and path.count("/") == 2]
        if not steps:
            continue
        newest = max(steps, key=lambda path: int(path.rpartition("-")[2]))
        digests = json.loads(tree[f"{newest}/digests.json"] or b"")
        assert digests == {
            path.removeprefix(f"{newest}/"): hashlib.sha256(content).hexdigest()
            for path, content in tree.items()
            if path.startswith(f"{newest}/") and content is not None and not path.endswith("digests.json")
        }
        seen.add(newest)
    assert len(seen) == 2


@pytest.mark.slow
def test_after_any_power_cut_the_same_command_ends_with_the_same_weights(run: Any, data: Path, tmp_path: Path) -> None:
    mode, states, final = run
    choose = random.Random(fresh_seed())
    for number, tree in enumerate(choose.sample(states, 60)):
        folder = restore(tree, tmp_path / str(number))
        assert same(weights(train(mode, data, folder / "run")), final)


def test_a_run_that_is_deleted_leaves_nothing_to_the_next_one(run: Any, tmp_path: Path) -> None:
    _, states, final = run
    root = restore([tree for tree in states if is_finished(tree)][-1], tmp_path / "root")
    folder = root / "run"
    description = json.loads((folder / "run.json").read_text())

    def replaced() -> None:
        delete_run_files(folder)
        write_json(folder / "run.json", {**description, "finished": False, "data": "others"})

    states, last = recorded(root, replaced)
    for number, tree in enumerate(states):
        assert not is_finished(tree) or same(load(tree[WEIGHTS] or b""), final)
        if b"others" in (tree.get(RUN) or b""):
            assert not any("model" in path or "checkpoints" in path for path in tree)
        check_folder(restore(tree, tmp_path / str(number)) / "run", overwrite=True)
    assert all(b"others" in (tree[RUN] or b"") for tree in last)


def test_weights_never_stand_beside_the_configuration_of_another_model(tmp_path: Path) -> None:
    folder = tmp_path / "model"

    def whole(tree: Tree) -> tuple[bytes | None, bytes | None]:
        return tree["model/config.json"], tree["model/model.safetensors"]

    def saved(*labels: str) -> tuple[list[Tree], list[Tree]]:
        model = HieraForImageClassification(image_config(num_labels=2, id2label=dict(enumerate(labels))))
        return recorded(tmp_path, lambda: model.save_pretrained(folder))

    (old,) = {whole(tree) for tree in saved("cat", "dog")[1]}
    states, last = saved("dog", "cat")
    (new,) = {whole(tree) for tree in last}
    assert {*old}.isdisjoint(new)
    assert {whole(tree) for tree in states if "model/model.safetensors" in tree} == {old, new}
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_model_that_cannot_be_saved_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = HieraForImageClassification(image_config(num_labels=2))
    old.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    replace = os.replace

    def failing(source: Path, target: Path) -> None:
        if Path(target).name == "model.safetensors" and Path(source).stat().st_size > len(before["model.safetensors"]):
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="Input/output error"):
        HieraForImageClassification(image_config(num_labels=3)).save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


EXPORTED = ("model.onnx", "config.json", exporting.RECORD)


def write_export(target: Path, text: str) -> None:
    with exporting._put_in_place(target, overwrite=True) as part:
        for name in EXPORTED:
            (part / name).write_text(text)


@pytest.fixture(params=[True, False], ids=["exchange", "renames"])
def exchange(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the system can exchange two folders in one step."""
    if not request.param:
        monkeypatch.setattr(folders, "_exchange", lambda *_: False)
    return request.param


@pytest.mark.parametrize("there", [False, True])
def test_an_export_is_whole_or_not_there(tmp_path: Path, there: bool, exchange: bool) -> None:
    target = tmp_path / "exports" / "model"

    def content(tree: Tree) -> set[bytes | None]:
        return {tree[f"exports/model/{name}"] for name in EXPORTED}

    if there:
        write_export(target, "old")
    states, last = recorded(tmp_path, lambda: write_export(target, "new"))
    named = [content(tree) for tree in states if "exports/model" in tree]
    assert all(found in ([{b"old"}, {b"new"}] if there else [{b"new"}]) for found in named)
    assert [content(tree) for tree in last] == [{b"new"}] * len(last)


def test_an_export_that_was_being_replaced_is_never_lost(tmp_path: Path, exchange: bool) -> None:
    """At any moment the old or the new one is in place, or is put back before the next export."""
    write_export(tmp_path / "disk" / "model", "old")
    states, _ = recorded(tmp_path / "disk", lambda: write_export(tmp_path / "disk" / "model", "new"))
    assert len(states) > 10
    for number, tree in enumerate(states):
        target = restore(tree, tmp_path / str(number)) / "model"
        assert target.exists() or not exchange
        with pytest.raises(ValueError, match="model: is not empty; choose another folder, or overwrite it"):
            exporting._check_target(target, overwrite=False)
        assert {(target / name).read_text() for name in EXPORTED} in ({"old"}, {"new"})
        write_export(target, "next")
        assert [path.name for path in target.parent.iterdir()] == ["model"]
        assert {(target / name).read_text() for name in EXPORTED} == {"next"}


def test_two_processes_do_not_export_to_one_folder(tmp_path: Path) -> None:
    write_export(tmp_path / "model", "old")
    told = r"model: another process is writing it; wait until it has ended \(process \d+"
    with exporting._put_in_place(tmp_path / "model", overwrite=True) as part:
        (part / "config.json").write_text("new")
        with pytest.raises(ValueError, match=told):
            write_export(tmp_path / "model", "other")
    assert (tmp_path / "model" / "config.json").read_text() == "new"


def test_an_export_that_cannot_take_its_place_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_exchange", lambda *_: False)
    target, replace = tmp_path / "model", os.replace
    write_export(target, "old")

    def failing(source: Path, place: Path) -> None:
        if place == target and Path(source, "config.json").read_text() == "new":
            raise OSError(5, "Input/output error", str(source), None, str(place))
        replace(source, place)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="Input/output error"):
        write_export(target, "new")
    assert {(target / name).read_text() for name in EXPORTED} == {"old"}
    assert list(tmp_path.iterdir()) == [target]


@pytest.fixture(scope="module")
def collection(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A collection that is made, then updated: a function that does the one or the other, the states of both, and the
    content in the end.
    """
    root = tmp_path_factory.mktemp("collection")
    model: Any = randomize(HieraModel(image_config()))
    model.preprocessing = RECORD
    model.save_pretrained(root / "model")
    images = [shutil.copytree(data, root / "images" / "first")]
    images.append(shutil.copytree(images[0], root / "images" / "second"))
    (images[1] / "class0" / "0.png").unlink()
    shutil.copy(images[1] / "class0" / "1.png", images[1] / "class1" / "new.png")
    link = root / "photos"

    def act(place: Path, update: bool) -> None:
        link.unlink(missing_ok=True)
        link.symlink_to(images[update])
        options = {**OPTIONS, "block_size": 4, "update": update}
        embed([str(link)], place / "features", model=str(root / "model"), **options)

    (place := root / "place").mkdir()
    states, ends = [], []
    for update in (False, True):
        found, _ = recorded(place, lambda update=update: act(place, update))
        states.append(found)
        ends.append(_shards(place))
    return act, states, ends


def _shards(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((place / "features" / "data").iterdir())}


@pytest.mark.parametrize("update", [False, True])
def test_every_shard_of_a_collection_is_whole(collection: Any, update: bool) -> None:
    _, states, ends = collection
    seen = set()
    for tree in states[update]:
        for path, content in tree.items():
            name = path.rpartition("/")[2]
            if name.startswith("part-"):
                assert content in [end.get(name) for end in ends[: update + 1]]
                seen.add((name, content))
    assert len(seen) == (4 if update else 2)  # an update writes one, and marks the row of a deleted image in another


@pytest.mark.slow
@pytest.mark.parametrize("update", [False, True])
def test_after_any_power_cut_the_same_command_makes_the_same_collection(
    collection: Any, update: bool, tmp_path: Path
) -> None:
    act, states, ends = collection
    for number, tree in enumerate(states[update]):
        place = restore(tree, tmp_path / str(number))
        act(place, update)
        assert _shards(place) == ends[update]


# A process that kills itself at event STOP of those between the last export of weights and run.json; it prints how many
# there were if it was not killed.
KILLED = """
import os, signal, sys
sys.path.insert(0, "tests")
from pathlib import Path
import test_power_cut
from hierax.train import run_folder
from hierax.train.loop import Loop
events, stop, exporting = 0, {stop}, False
finish, write = Loop._finish, run_folder.write_json
def hook(event, arguments):
    global events
    if exporting and event in test_power_cut.EVENTS:
        events += 1
        if events == stop:
            os.kill(os.getpid(), signal.SIGKILL)
def begin(self):
    global exporting
    exporting = True
    finish(self)
def end(*arguments):
    global exporting
    write(*arguments)
    exporting = False
sys.addaudithook(hook)
Loop._finish, run_folder.write_json = begin, end
test_power_cut.train({mode!r}, Path({data!r}), Path({out!r}))
print(events)
"""
EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.chmod")


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_run_killed_between_its_weights_and_its_end_is_not_finished_and_resumes(
    mode: str, data: Path, tmp_path: Path
) -> None:
    def process(out: Path, stop: int) -> tuple[int, str]:
        code = started(KILLED.format(mode=mode, data=str(data), out=str(out), stop=stop))
        said, error = code.communicate()
        assert code.returncode in (0, -signal.SIGKILL), error
        return code.returncode, said

    _, said = process(tmp_path / "whole", 0)
    final, events = weights(tmp_path / "whole"), int(said)
    choose = random.Random(fresh_seed())
    for number in range(20):
        out = tmp_path / str(number)
        ended, _ = process(out, choose.randint(1, events))
        finished = json.loads((out / "run.json").read_text()).get("finished", False)
        print(f"{mode} {number}: ended {ended}, finished {finished}, of {events} events")
        assert ended == -signal.SIGKILL
        assert not finished or same(weights(out), final)
        assert same(weights(train(mode, data, out)), final)
