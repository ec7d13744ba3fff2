"""What a run of segmentation survives: being killed, and two ranks. As in test_train_survival.py, with masks."""

import signal
import socket
from pathlib import Path

import pytest
import torch

from hierax.train import finetune
from shapes import pairs
from training import log, same, started, toy, weights

pytestmark = pytest.mark.slow
LIMIT = 600  # seconds for a process

RECIPE = {
    "validation_fraction": 0.25,
    "drop_path": 0.2,
    "crop_scale": (0.5, 1.5),
    "class_weights": "balanced",
    "ema": 0.9,
}
CODE = """
import os, sys
sys.path.insert(0, "tests")
import torch, training, hierax.train.loop as loop
from hierax.train import finetune
from hierax.train.parallel import full_tensor

data, out, recipe, kill, dump = {arguments!r}
step, finish = loop.Loop._step, loop.Loop._finish

def stepped(self, *arguments):
    if self.progress.step == kill:
        os.kill(os.getpid(), 9)
    return step(self, *arguments)

def finished(self):
    if dump and self.world.is_main:
        torch.save({{n: p.detach().clone() for n, p in self.model.named_parameters()}}, dump)
    finish(self)

loop.Loop._step, loop.Loop._finish = stepped, finished
recipe = training.toy("segment", **recipe)
finetune(data, out=out, task="segment", source=None, recipe=recipe, device="cpu", quiet=True)
"""


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images; six of them are trained on."""
    return pairs(tmp_path_factory.mktemp("segmentation") / "data", ignored=False)


def test_a_killed_run_ends_with_the_same_bits(data: Path, tmp_path: Path) -> None:
    recipe = {**RECIPE, "batch_size": 2, "checkpoint_every": 2, "epochs": 3}
    options = {"task": "segment", "source": None, "recipe": toy("segment", **recipe), "device": "cpu", "quiet": True}
    whole = finetune(data, out=tmp_path / "whole", **options)  # type: ignore[arg-type]
    run = tmp_path / "run"
    process = started(CODE.format(arguments=(str(data), str(run), recipe, 5, "")))
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == -signal.SIGKILL, err
    assert sorted(path.name for path in (run / "checkpoints").iterdir() if path.name.startswith("step")) == [
        "step-3",
        "step-4",
    ]
    finetune(data, out=run, **options)  # type: ignore[arg-type]
    assert same(weights(run), weights(whole))
    assert same_log(run, whole)


def same_log(one: Path, other: Path) -> bool:
    """Whether two runs have the same losses and evaluations."""
    kept = [[(e["step"], e.get("loss"), e.get("validation")) for e in log(run)] for run in (one, other)]
    return kept[0][-1] == kept[1][-1]


def test_two_ranks_learn_and_count_as_one(data: Path, tmp_path: Path) -> None:
    """Without padding, so that all parts of a batch have as many pixels that count."""
    recipe = {"validation_fraction": 0.25, "batch_size": 4, "epochs": 2, "precision": "fp64"}
    found = []
    for ranks in (1, 2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        arguments = (str(data), str(tmp_path / f"run{ranks}"), recipe, -1, str(tmp_path / f"{ranks}.pt"))
        process = started(CODE.format(arguments=arguments), ranks=ranks, port=port, folder=tmp_path)
        _, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, err
        found.append((torch.load(tmp_path / f"{ranks}.pt"), log(tmp_path / f"run{ranks}")[-1]["validation"]))
    (one, alone), (two, shared) = found
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-9, atol=1e-11)
    assert alone == pytest.approx(shared, rel=1e-9)
