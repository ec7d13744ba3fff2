"""What a run survives: being killed, ranks, other numbers of ranks, full and read-only disks."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from small import fresh_seed
from training import environment, pictures, same, started, weights

pytestmark = pytest.mark.slow

TASKS = ("pretrain", "finetune")
STEPS = 12  # 12 pictures, 4 at a time, 4 epochs
LIMIT = 300  # seconds for a process

# What every process below runs. It prints its steps; at DUMP it leaves weights, and the gradients of the first step.
CODE = """
import os, sys, time
sys.path.insert(0, "tests")
import torch, training
import hierax.train.loop as loop
from hierax.train import TrainingStopped, finetune, pretrain
from hierax.train.parallel import full_tensor

task, data, out, dump, parallel, source, changes = {arguments!r}
rank = int(os.environ.get("RANK", "0"))
step, apply, finish = loop.Loop._step, loop.Loop._apply, loop.Loop._finish

def slow(self, *arguments):
    os.write(1, f"step {{self.progress.step}} {{os.getpid()}}\\n".encode())  # at once: ranks share the pipe
    {fault}
    time.sleep(float(os.environ.get("SLOW", "0")))
    return step(self, *arguments)

def applied(self, *, finite):
    if dump and self.progress.step == 0:
        gradients = {{n: full_tensor(p.grad).clone() for n, p in self.model.named_parameters() if p.grad is not None}}
        if rank == 0:
            torch.save(gradients, dump + ".gradients")
    apply(self, finite=finite)

def finished(self):
    whole = {{n: full_tensor(p.detach()).clone() for n, p in self.model.named_parameters()}}
    if dump and rank == 0:
        torch.save(whole, dump)
    finish(self)

loop.Loop._step, loop.Loop._apply, loop.Loop._finish = slow, applied, finished
recipe = training.toy(task, **{{"epochs": 4, "validation_fraction": 0.25, "checkpoint_every": 2, **changes}})
options = dict(out=out, recipe=recipe, device="cpu", parallel=parallel, quiet=True)
try:
    pretrain(data, **options) if task == "pretrain" else finetune(data, source=source, **options)
except (TrainingStopped, OSError) as error:
    sys.exit(f"stopped: {{error}}")
"""
RANDOM = {"ema": 0.9, "drop_path": 0.3, "workers": 1}  # everything that draws numbers


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("survival") / "data")


@pytest.fixture(scope="session")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining run without settings of its own, from its beginning to its end."""
    whole(data, run := tmp_path_factory.mktemp("undisturbed") / "run")
    return run


@pytest.fixture
def running() -> Iterator[list[Any]]:
    """Processes that are ended with the test, however it ends."""
    processes: list[Any] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def run(
    data: Path, out: Path, *, task: str = "pretrain", ranks: int = 1, parallel: str = "ddp", dump: Path | None = None,
    source: Path | None = None, changes: dict[str, Any] | None = None, fault: str = "pass",
) -> "subprocess.Popen[str]":  # fmt: skip
    """`fault` is done before every step."""
    dumped, start = str(dump) if dump else "", str(source) if source else None
    arguments = (task, str(data), str(out), dumped, parallel, start, changes or {})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = CODE.format(arguments=arguments, fault=fault)
    return started(code, ranks=ranks, port=port, folder=out.parent)


def whole(*arguments: Any, **options: Any) -> None:
    process = run(*arguments, **options)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("task", TASKS)
def test_a_run_that_is_killed_five_times_ends_as_if_it_was_not(
    data: Path, tmp_path: Path, running: list[Any], task: str, ranks: int
) -> None:
    choose = random.Random(fresh_seed())
    changes = {**RANDOM, **({"mixup": 0.8, "cutmix": 1.0} if task == "finetune" else {})}
    whole(data, tmp_path / "whole", task=task, ranks=ranks, changes=changes)
    killed = 0
    while True:
        process = run(data, tmp_path / "run", task=task, ranks=ranks, changes=changes)
        running.append(process)
        wanted = choose.randint(1, 4 * ranks) if killed < 5 else 10**6
        if not kill_after(process, wanted):
            break
        killed += 1
    assert process.returncode == 0
    assert killed >= 3, "it came to its end too soon"
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    states = [read_checkpoint(tmp_path / name / "checkpoints" / f"step-{STEPS}") for name in ("run", "whole")]
    assert same(*states)


def kill_after(process: Any, steps: int) -> bool:
    """Kills one of its ranks after so many lines; False if it came to its end before."""
    seen = 0
    for line in process.stdout:
        seen += line.startswith("step")
        if seen == steps:
            os.kill(int(line.split()[2]), 9)
            break
    process.communicate(timeout=LIMIT)
    return process.returncode != 0


def read_checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors that ranks share in a checkpoint, by name."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    dcp_to_torch_save(folder / "shared", folder.parent / "flat.pt")
    state = torch.load(folder.parent / "flat.pt", weights_only=False)
    found: dict[str, torch.Tensor] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found[prefix] = value
        elif isinstance(value, dict):
            for name, inner in value.items():
                walk(f"{prefix}/{name}", inner)

    walk("", state)
    assert len(found) > 100
    return found


WAYS = {"alone": (1, "ddp"), "ddp": (2, "ddp"), "fsdp": (2, "fsdp")}


@pytest.mark.parametrize("task", TASKS)
def test_two_ranks_do_what_one_does(data: Path, tmp_path: Path, task: str) -> None:
    """One rank in two parts, two ranks, two ranks that share the model out: weights after 21 steps, and losses along
    the way.
    """
    changes = {"precision": "fp64", "ema": 0.9, "epochs": 7, **({"mixup": 0.8} if task == "finetune" else {})}
    compare(data, tmp_path, task=task, changes=changes)


def test_two_ranks_do_what_one_does_with_all_that_can_be_set(data: Path, tmp_path: Path, undisturbed: Path) -> None:
    """Frozen stages, average, clipping, recomputed blocks, repeats, decay by layer, weighted classes, all at once."""
    changes = {
        "precision": "fp64", "ema": 0.9, "freeze": 1, "clip_grad": 0.05, "gradient_checkpointing": True, "repeats": 2,
        "layer_decay": 0.5, "class_weights": "balanced", "label_smoothing": 0.1, "cutmix": 1.0, "overrides": {},
    }  # fmt: skip
    compare(data, tmp_path, task="finetune", changes=changes, source=undisturbed)


def test_two_ranks_share_the_updates_of_muon(data: Path, tmp_path: Path) -> None:
    compare(data, tmp_path, task="pretrain", changes={"precision": "fp64", "ema": 0.9, "optimizer": "muon"})


def test_two_ranks_train_an_adapter_as_one_does(data: Path, tmp_path: Path, undisturbed: Path) -> None:
    changes = {"precision": "fp64", "ema": 0.9, "adapter": "lora", "rank": 4, "lr": 1e-2, "overrides": {}}
    compare(data, tmp_path, task="finetune", changes=changes, source=undisturbed)


def compare(data: Path, folder: Path, *, task: str, changes: dict[str, Any], source: Path | None = None) -> None:
    found = {}
    for name, (ranks, parallel) in WAYS.items():
        own = {**changes, **({"device_batch_size": 2} if ranks == 1 else {})}
        options = {"task": task, "ranks": ranks, "parallel": parallel, "source": source, "changes": own}
        whole(data, folder / name, dump=folder / f"{name}.pt", **options)
        found[name] = torch.load(folder / f"{name}.pt")
    for name in ("ddp", "fsdp"):
        apart = max(float((found[name][n] - found["alone"][n]).abs().max()) for n in found["alone"])
        along = max(abs(a - b) for a, b in zip(losses(folder / name), losses(folder / "alone"), strict=True))
        print(f"{task} {name}: weights {apart:.1e}, losses {along:.1e} apart")
        assert apart < 1e-9, name
        assert along < 1e-9, name


def losses(folder: Path) -> list[float]:
    from training import log

    return [entry["validation"]["loss"] for entry in log(folder) if "validation" in entry]


def test_the_first_gradients_of_two_ranks_are_those_of_one_in_single_precision(data: Path, tmp_path: Path) -> None:
    for name, ranks, parallel in (("one", 1, "ddp"), ("ddp", 2, "ddp"), ("fsdp", 2, "fsdp")):
        whole(data, tmp_path / name, ranks=ranks, parallel=parallel, dump=tmp_path / f"{name}.pt")
    gradients = {name: torch.load(tmp_path / f"{name}.pt.gradients") for name in ("one", "ddp", "fsdp")}
    for name in ("ddp", "fsdp"):
        apart = {key: float((gradients[name][key] - one).abs().max()) for key, one in gradients["one"].items()}
        print(f"{name}: gradients {max(apart.values()):.1e} apart")
        assert max(apart.values()) < 1e-5, (name, max(apart, key=apart.__getitem__))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_run_goes_on_with_another_number_of_ranks(
    data: Path, tmp_path: Path, running: list[Any], parallel: str
) -> None:
    changes = {"precision": "fp64", "ema": 0.9}
    whole(data, tmp_path / "one", dump=tmp_path / "one.pt", changes=changes)
    for first, second in ((2, 1), (1, 2)):
        out, dump = tmp_path / f"run{first}", tmp_path / f"run{first}.pt"
        process = run(data, out, ranks=first, parallel=parallel, changes=changes)
        running.append(process)
        assert kill_after(process, 5 * first)
        whole(data, out, ranks=second, parallel=parallel, dump=dump, changes=changes)
        expected, found = torch.load(tmp_path / "one.pt"), torch.load(dump)
        assert max(float((found[n] - expected[n]).abs().max()) for n in expected) < 1e-9


def test_a_rank_that_is_gone_ends_the_others_in_one_sentence(data: Path, tmp_path: Path, running: list[Any]) -> None:
    process = run(data, tmp_path / "run", ranks=2)
    running.append(process)
    lines = [process.stdout.readline() for _ in range(8)]  # type: ignore[union-attr]
    os.kill(int(lines[-1].split()[2]), 9)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode != 0
    assert (tmp_path / "run" / "checkpoints" / "step-2").is_dir()
    assert "stopped: another rank of the run has ended" in err or "Signal 9 (SIGKILL)" in err


# What goes wrong on the second rank alone before its fourth step, and what all ranks say then; or the second says
# that, and the first that it is gone, where it is in the middle of something that it does with the other.
FAULTS = {
    "loading": (
        "import hierax.data.view as v; v.TrainingView.__getitem__ = lambda self, d: v.Unreadable('a.png', 0, 'bad')",
        "none of 13 samples could be read (those of a batch, and those to replace them); the first: a.png: bad",
    ),
    "evaluation": (
        "import hierax.train.predictions as e; e.evaluation_loader = lambda *a, **k: open('/gone')",
        "/gone: No such file or directory",
    ),
    "saving": (
        "torch.save = lambda *a, **k: open('/gone')",
        "/gone: No such file or directory",
    ),
    "computing": (
        "raise torch.OutOfMemoryError('x')",
        "the device's memory is full",
    ),
}  # fmt: skip


@pytest.mark.parametrize("place", FAULTS)
def test_what_one_rank_alone_meets_ends_all_of_them_in_one_sentence(data: Path, tmp_path: Path, place: str) -> None:
    code, sentence = FAULTS[place]
    fault = f"if rank == 1 and self.progress.step == 3: {code}"
    changes = {"max_bad": 1.0}
    process = run(data, tmp_path / "run", ranks=2, task="finetune", fault=fault, changes=changes)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode != 0
    said = [line for line in err.splitlines() if line.startswith("stopped: ")]
    # where a rank alone fails, torchrun may end the other one before it has said that its peer is gone
    assert len(said) in ((1, 2) if place == "computing" else (2,)), err
    assert any(sentence in line for line in said), said
    assert all(sentence in line or (place == "computing" and "another rank" in line) for line in said), said
    assert all("the run can resume after step " in line for line in said), said


def test_two_ranks_stop_early_together_and_evaluate_together(data: Path, tmp_path: Path) -> None:
    changes = {"lr": 0.0, "patience": 1, "epochs": 9}
    whole(data, tmp_path / "run", ranks=2, task="finetune", changes=changes)
    result = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (result["finished"], result["result"]["steps"], result["result"]["best_step"]) == (True, 6, 6)
    (damaged := shutil.copytree(data, tmp_path / "data") / "class1" / "3.png").write_bytes(b"not a picture")
    arguments = ["-m", "hierax", "evaluate", tmp_path / "data", "--model", tmp_path / "run", "--device", "cpu"]
    arguments.append("--json")
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    found = []
    for ranks in ([], together):
        command = [sys.executable, *ranks, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=LIMIT, check=False)
        assert str(damaged) in done.stderr
        (line,) = done.stdout.splitlines()
        found.append(json.loads(line))
    assert found[0] == {**found[1], "loss": pytest.approx(found[1]["loss"], abs=1e-6)}
    assert (found[0]["samples"], found[0]["unreadable"]) == (15, 1)


def test_sigterm_to_all_ranks_saves_and_the_rest_is_the_same(data: Path, tmp_path: Path, running: list[Any]) -> None:
    whole(data, tmp_path / "whole", ranks=2, changes=RANDOM)
    os.environ["SLOW"] = "0.3"
    try:
        process = run(data, tmp_path / "run", ranks=2, changes=RANDOM)
    finally:
        del os.environ["SLOW"]
    running.append(process)
    lines = [process.stdout.readline() for _ in range(6)]  # type: ignore[union-attr]
    assert all(line.startswith("step") for line in lines), lines
    process.terminate()  # torchrun hands it on
    process.communicate(timeout=LIMIT)
    saved = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert "step-3" in saved or "step-4" in saved
    whole(data, tmp_path / "run", ranks=2, changes=RANDOM)
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_a_full_disk_ends_the_run_and_leaves_the_checkpoint_before(
    data: Path, tmp_path: Path, undisturbed: Path
) -> None:
    """No file may grow beyond a limit, from the third step on."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))"
    process = run(data, tmp_path / "run", fault=f"if self.progress.step == 3: {limit}")
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert "stopped: the checkpoint cannot be written" in err or "shared: File too large" in err
    assert "the run can resume after step 2" in err or "the run can resume after step 3" in err
    assert "Traceback" not in err
    assert not list((tmp_path / "run" / "checkpoints").glob(".part-*"))
    whole(data, tmp_path / "run")
    assert same(weights(tmp_path / "run"), weights(undisturbed))


def test_a_small_disk_that_is_full_ends_the_run_and_leaves_the_checkpoint_before(
    data: Path, tmp_path: Path, undisturbed: Path
) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        process = run(data, place / "run")
        _, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 1
        assert "stopped: " in err
        assert "No space left on device" in err or "the checkpoint cannot be written" in err
        assert "Traceback" not in err
        assert not list((place / "run" / "checkpoints").glob(".part-*"))
        shutil.copytree(place / "run", tmp_path / "moved")
    finally:
        subprocess.run(["umount", place], check=True)
    whole(data, tmp_path / "moved")
    assert same(weights(tmp_path / "moved"), weights(undisturbed))


def test_a_folder_that_became_read_only_ends_the_run_and_is_left_as_it_was(data: Path, tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        process = run(data, place / "run")
        assert kill_after(process, 5)
        before = sorted(p.relative_to(place) for p in (place / "run" / "checkpoints").rglob("*"))
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        process = run(data, place / "run")
        _, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 1
        assert "Read-only file system" in err
        assert "Traceback" not in err
        assert sorted(p.relative_to(place) for p in (place / "run" / "checkpoints").rglob("*")) == before
        subprocess.run(["mount", "-o", "remount,rw", place], check=True)
        whole(data, place / "run")
    finally:
        subprocess.run(["umount", place], check=True)
