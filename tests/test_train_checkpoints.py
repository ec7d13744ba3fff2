"""Checkpoints of a run that are damaged, or that somebody made: told, put aside, and never run."""

import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hierax.checkpoint.sharded import UnsafePickle, read_table
from hierax.checkpoint.steps import read_step
from hierax.digests import file_digest
from hierax.train import TrainingStopped
from hierax.train.checkpoints import Checkpoints
from training import toy, toy_loop

FILES = ("rank-0.pt", "shared/__0_0.distcp", "shared/.metadata", "digests.json")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ten steps with checkpoints after the fifth and the last."""
    folder = tmp_path_factory.mktemp("written")
    toy_loop(toy(), folder=folder).fit()
    return folder


@pytest.fixture
def run(written: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(written, tmp_path / "run")


class Evil:
    """A pickle of it makes a folder where it is read."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


def resumed(run: Path) -> Any:
    loop = toy_loop(toy(), folder=run)
    assert loop.resume()
    return loop


def signed(folder: Path) -> None:
    """Makes the digests those of what the files hold now, as somebody who means harm would."""
    digests = {name: file_digest(folder / name) for name in json.loads((folder / "digests.json").read_text())}
    (folder / "digests.json").write_text(json.dumps(digests))


def flipped(file: Path) -> None:
    """One bit is another, in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "flipped": flipped,
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-20]),
    "empty": lambda file: file.write_bytes(b""),
    "gone": lambda file: file.unlink(),
    "pipe": lambda file: (file.unlink(), os.mkfifo(file)) if file.name != "digests.json" else file.write_text("[3]"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_of_a_damaged_checkpoint_is_said_so_and_the_one_before_is_taken(run: Path, name: str, damage: str) -> None:
    DAMAGES[damage](run / "checkpoints" / "step-10" / name)
    loop = resumed(run)
    assert loop.progress.step == 5
    (said,) = loop.damaged
    assert "step-10" in said
    assert said.endswith("the run resumes from the checkpoint before, of step 5")
    assert Checkpoints(run, keep=2).steps() == [5]


def test_a_run_that_resumed_before_a_damaged_checkpoint_writes_that_again(run: Path) -> None:
    before = torch.load(run / "checkpoints" / "step-10" / "rank-0.pt", weights_only=True)["progress"]
    flipped(run / "checkpoints" / "step-10" / "rank-0.pt")
    assert resumed(run).fit()
    after = torch.load(run / "checkpoints" / "step-10" / "rank-0.pt", weights_only=True)["progress"]
    assert {**after, "seconds": 0} == {**before, "seconds": 0}


def test_where_no_checkpoint_is_whole_the_first_file_is_named(run: Path) -> None:
    for step in (5, 10):
        flipped(run / "checkpoints" / f"step-{step}" / "rank-0.pt")
    with pytest.raises(TrainingStopped, match=r"no checkpoint in .* is complete: .*step-10/rank-0.pt is damaged"):
        toy_loop(toy(), folder=run).resume()
    assert Checkpoints(run, keep=2).steps() == [5, 10]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_whose_weights_are_not_finite_is_not_resumed_from(tmp_path: Path, value: float) -> None:
    loop = toy_loop(toy(), folder=tmp_path)
    name, weights = next(iter(loop.model.named_parameters()))
    assert loop.fit()
    weights.data.view(-1)[0] = value
    assert loop.checkpoints is not None
    loop.progress.step = 99
    loop.save()
    with pytest.raises(
        TrainingStopped, match=rf"step-99: 1 tensor holds NaN or infinite values: .*{name}; delete this"
    ):
        toy_loop(toy(), folder=tmp_path).resume()


@pytest.mark.parametrize("protocol", range(6))
def test_a_table_of_contents_runs_no_code(run: Path, tmp_path: Path, protocol: int) -> None:
    for step in (5, 10):
        folder, place = run / "checkpoints" / f"step-{step}", tmp_path / "owned"
        (folder / "shared" / ".metadata").write_bytes(pickle.dumps(Evil(place), protocol))
        signed(folder)
    with pytest.raises(TrainingStopped, match=r"names (posix|nt)\.mkdir, which no checkpoint holds"):
        toy_loop(toy(), folder=run).resume()
    assert not place.exists()


def test_neither_do_values_beside_the_tensors(run: Path, tmp_path: Path) -> None:
    """Which lie in the file of the tensors; PyTorch's own way of reading them runs what they hold."""
    place = tmp_path / "owned"
    poisoned(run / "checkpoints" / "step-10", Evil(place))
    with pytest.raises(TrainingStopped, match=r"optimizer\.param_groups.* is not a plain value"):
        toy_loop(toy(), folder=run).resume()
    assert not place.exists()


def poisoned(folder: Path, value: Any) -> None:
    """Puts a pickle of `value` behind the file's end, and has the table say that the first plain value is there."""
    table = read_table(folder / "shared")
    file = folder / "shared" / "__0_0.distcp"
    key = next(k for k in table.storage_data if ".weight_decay" in k.fqn)
    with file.open("ab") as stream:
        start = stream.tell()
        torch.save(value, stream)
        length = stream.tell() - start
    table.storage_data[key].offset, table.storage_data[key].length = start, length
    with (folder / "shared" / ".metadata").open("wb") as stream:
        pickle.dump(table, stream)
    signed(folder)


def test_neither_does_what_a_rank_saved_for_itself(run: Path, tmp_path: Path) -> None:
    place = tmp_path / "owned"
    torch.save(Evil(place), run / "checkpoints" / "step-10" / "rank-0.pt")
    signed(run / "checkpoints" / "step-10")
    with pytest.raises(TrainingStopped, match=r"rank-0.pt contains more than plain values; no code of it was run"):
        toy_loop(toy(), folder=run).resume()
    assert not place.exists()


def test_a_table_of_contents_names_no_file_elsewhere(run: Path) -> None:
    folder = run / "checkpoints" / "step-10" / "shared"
    table = read_table(folder)
    next(iter(table.storage_data.values())).relative_path = "../../../other/__0_0.distcp"
    with (folder / ".metadata").open("wb") as stream:
        pickle.dump(table, stream)
    with pytest.raises(ValueError, match="is not a checkpoint's table of contents"):
        read_table(folder)


def test_functions_of_pytorch_are_not_to_be_had_either(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(b"ctorch\nload\n(S'x'\ntR.")
    with pytest.raises(UnsafePickle, match=r"names torch\.load"):
        read_table(tmp_path)


def test_getattr_in_a_table_gives_members_of_one_enumeration_alone() -> None:
    """Some Python 3.11 pickle the members of enumerations by `getattr`; it must not become a way to anything else."""
    from torch.distributed.checkpoint import metadata

    from hierax.checkpoint.sharded import UnsafePickle, _TableUnpickler

    def read(owner: str, name: str) -> Any:
        text = f"cbuiltins\ngetattr\n(c{metadata.__name__}\n{owner}\nV{name}\ntR.".encode()
        return _TableUnpickler(io.BytesIO(text)).load()

    encoding = metadata._MEM_FORMAT_ENCODING
    assert read("_MEM_FORMAT_ENCODING", "TORCH_CONTIGUOUS_FORMAT") is encoding.TORCH_CONTIGUOUS_FORMAT
    for owner, name in (("Metadata", "__init__"), ("_MEM_FORMAT_ENCODING", "__class__"), ("Metadata", "__module__")):
        with pytest.raises(UnsafePickle, match="which no checkpoint holds; nothing of it was run"):
            read(owner, name)


def test_of_a_run_of_an_older_version_is_said_what_can_be_done(run: Path) -> None:
    """The first checkpoints had sizes instead of digests, and other groups in the optimizer."""
    for step in (run / "checkpoints").iterdir():
        (step / "digests.json").rename(step / "sizes.json")
    with pytest.raises(
        ValueError, match=r"step-10 was written by an older hierax.*--from .*step-10, and another folder"
    ):
        resumed(run)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step-10", "step-5"]  # as they were
    assert "encoder.patch_embed.proj.weight" in read_step(run / "checkpoints/step-10")["model"]
