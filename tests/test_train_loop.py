"""The loop on a small model and random batches: what a step does, what is saved, and that nothing is left to chance."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from hierax.train import checkpoints as module
from hierax.train.checkpoints import Checkpoints
from hierax.train.ema import AveragedWeights
from hierax.train.optimizer import build_optimizer, learning_rate
from hierax.train.progress import Interrupted, TrainingStopped, explain_failures
from training import ALONE, Losses, toy, toy_loop, wrapped

GOLDEN = Path(__file__).with_name("golden_losses.json")
RECIPES: dict[str, Any] = {
    "mae": toy(),
    "hog": toy(target="hog"),
    "finetune": toy("finetune", mixup=0.8, cutmix=1.0, label_smoothing=0.1, drop_path=0.2, dropout=0.1,
                    layer_decay=0.65, clip_grad=1.0),
    "muon": toy("finetune", optimizer="muon"),
}  # fmt: skip


def losses(recipe: Any, **options: Any) -> list[float]:
    callback = Losses()
    assert toy_loop(recipe, callback=callback, **options).fit()
    return callback.losses


def parameters(loop: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in loop.model.named_parameters()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", RECIPES)
def test_ten_steps_give_the_losses_that_are_on_record(name: str) -> None:
    """HIERAX_GOLDEN=1 writes the record anew."""
    found = losses(RECIPES[name])
    if os.environ.get("HIERAX_GOLDEN"):
        record = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
        GOLDEN.write_text(json.dumps({**record, name: found}, indent=1, sort_keys=True) + "\n")
    assert len(found) == 10
    assert found == pytest.approx(json.loads(GOLDEN.read_text())[name], abs=1e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_two_runs_are_the_same(name: str) -> None:
    assert losses(RECIPES[name]) == losses(RECIPES[name])


@pytest.mark.parametrize("name", RECIPES)
def test_steps_are_the_same_with_a_stop_and_a_start_between_them(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name].replace(ema=0.9)
    whole, first, second = Losses(), Losses(stop_after=4), Losses()
    at_once = toy_loop(recipe, callback=whole)
    assert at_once.fit()
    broken = toy_loop(recipe, callback=first, folder=tmp_path)
    first.loop = broken  # type: ignore[assignment]
    assert not broken.fit()
    torch.manual_seed(999)  # another process draws other numbers
    resumed = toy_loop(recipe.replace(seed=0), callback=second, folder=tmp_path)
    torch.manual_seed(998)
    assert resumed.resume()
    assert resumed.progress.step == 4
    assert resumed.fit()
    assert first.losses + second.losses == whole.losses
    assert resumed.progress.losses == whole.losses[-10:]
    assert equal(parameters(resumed), parameters(at_once))
    assert resumed.ema is not None
    assert at_once.ema is not None
    assert equal(resumed.ema.values, at_once.ema.values)


def test_a_batch_in_parts_gives_the_gradients_of_the_whole() -> None:
    recipe = toy(precision="fp64", optimizer="sgd", momentum=0.0)
    loops = [toy_loop(recipe, parts=parts) for parts in (1, 2, 4)]
    for loop in loops:
        loop.fit()
    for other in loops[1:]:
        for name, values in parameters(loops[0]).items():
            torch.testing.assert_close(parameters(other)[name], values, rtol=1e-10, atol=1e-12)


def test_a_step_without_a_finite_loss_is_skipped_and_counted() -> None:
    callback = Losses()
    loop = toy_loop(toy(), callback=callback, poison=lambda step: step in (2, 3))
    before: list[Any] = []
    callback.on_step = lambda report: before.append((report, parameters(loop)))  # type: ignore[method-assign]
    assert loop.fit()
    assert (loop.progress.skipped, loop.progress.skipped_in_row, loop.progress.step) == (2, 0, 10)
    assert [math.isfinite(report.loss) for report, _ in before] == [True, True, False, False] + [True] * 6
    assert equal(before[1][1], before[3][1])
    assert not equal(before[3][1], before[4][1])
    assert all(torch.isfinite(p).all() for p in loop.model.parameters())


def test_too_many_skipped_steps_end_the_run_and_leave_the_checkpoint_before_them(tmp_path: Path) -> None:
    recipe = toy(max_skipped=3, checkpoint_every=2)
    loop = toy_loop(recipe, folder=tmp_path, poison=lambda step: step >= 4)
    with pytest.raises(TrainingStopped, match=r"4 steps in a row had no finite .* can resume after step 4"):
        loop.fit()
    assert Checkpoints(tmp_path, keep=2).steps() == [2, 4]


def test_gradients_are_clipped_to_the_norm() -> None:
    recipe = toy("finetune", optimizer="sgd", momentum=0.0, weight_decay=0.0, clip_grad=1e-3, warmup_epochs=0, lr=1.0)
    callback = Losses()
    loop = toy_loop(recipe, callback=callback)
    before = parameters(loop)
    steps: list[dict[str, torch.Tensor]] = []
    callback.on_step = lambda _: steps.append(parameters(loop))  # type: ignore[method-assign]
    loop.fit()
    moved = torch.stack([(steps[0][n] - before[n]).norm() for n in before]).norm().item()
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_every_step_has_the_rate_of_the_schedule() -> None:
    callback, recipe = Losses(), toy(warmup_epochs=1)
    toy_loop(recipe, callback=callback).fit()
    assert [r.lr for r in callback.reports] == [learning_rate(recipe, step, 5) for step in range(10)]


def test_the_average_follows_its_decay_and_does_not_linger_on_the_start() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    average = AveragedWeights(model, 0.5)
    expected = model.weight.item()
    for step in range(1, 30):
        model.weight.data.fill_(float(step))
        average.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(average.values["weight"]) == pytest.approx(expected, rel=1e-5)


def test_the_averaged_weights_are_evaluated_and_the_own_ones_trained() -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def evaluate(objective: Any, stop: Any) -> dict[str, float]:
        assert not objective.model.training
        seen.append({n: p.detach().clone() for n, p in objective.model.named_parameters()})
        return {"loss": 1.0, "score": 1.0}

    loop = toy_loop(toy(ema=0.9), evaluate=evaluate)
    plain = toy_loop(toy())
    loop.fit()
    plain.fit()
    assert loop.ema is not None
    assert equal(seen[-1], loop.ema.values)
    assert equal(parameters(loop), parameters(plain))


def test_evaluation_changes_no_step() -> None:
    recipe = RECIPES["finetune"]

    def evaluate(objective: Any, stop: Any) -> dict[str, float]:
        objective.model(torch.zeros(1, 3, 64, 64))
        return {"loss": 1.0, "score": 1.0}

    assert losses(recipe, evaluate=evaluate) == losses(recipe)


def test_the_best_score_is_exported_and_patience_ends_the_run(tmp_path: Path) -> None:
    scores = iter([0.1, 0.3, 0.2, 0.25, 0.1])
    callback = Losses()
    recipe = toy(epochs=9, patience=2, keep=1)
    loop = toy_loop(recipe, folder=tmp_path, callback=callback, evaluate=lambda *_: {"score": next(scores)})
    assert loop.fit()
    assert [(step, better) for step, _, better in callback.metrics] == [(5, True), (10, True), (15, False), (20, False)]
    assert (loop.progress.best, loop.progress.best_step, callback.exports) == (0.3, 10, 2)
    assert Checkpoints(tmp_path, keep=1).steps() == [10, 20], "the best and the last"


@pytest.mark.parametrize("metrics", [{"score": math.nan}, {"score": 0.5, "loss": math.nan}, {"score": math.inf}])
def test_without_a_number_for_a_score_the_last_weights_are_exported(metrics: dict[str, float]) -> None:
    """A model of NaN has a top-1 too: all are of the first class."""
    callback = Losses()
    loop = toy_loop(toy(), callback=callback, evaluate=lambda *_: metrics)
    loop.fit()
    assert ([better for *_, better in callback.metrics], loop.progress.best_step) == ([False, False], 0)
    assert callback.exports == 1
    callback = Losses()
    toy_loop(toy(), callback=callback).fit()
    assert callback.exports == 1


def best_steps(*found: tuple[float, float], **changes: Any) -> tuple[list[int], Any, Losses]:
    """The steps after which evaluations of these scores and losses were the best so far, five steps apart."""
    each, callback = iter(found), Losses()
    recipe = toy(epochs=len(found), **changes)
    evaluate = lambda *_: dict(zip(("score", "loss"), next(each), strict=True))  # noqa: E731
    loop = toy_loop(recipe, callback=callback, evaluate=evaluate)
    loop.fit()
    return [step for step, _, better in callback.metrics if better], loop.progress, callback


def test_of_equal_scores_the_one_of_the_lower_loss_is_the_best() -> None:
    steps, progress, _ = best_steps((0.8, 1.1), (0.8, 0.7), (0.8, 0.9), (0.7, 0.1), (0.8, 0.6))
    assert steps == [5, 10, 25]
    assert (progress.best, progress.best_loss, progress.best_step) == (0.8, 0.6, 25)
    assert progress.best_metrics == {"score": 0.8, "loss": 0.6}


def test_of_equals_the_later_one_is_the_best_and_no_progress() -> None:
    steps, progress, _ = best_steps((0.8, 0.6), (0.8, 0.6), (0.8, 0.6))
    assert (steps, progress.waiting) == ([5, 10, 15], 2)
    steps, progress, _ = best_steps((0.8, 0.6), (0.8, 0.6), (0.8, 0.6), patience=1)
    assert (steps, progress.step) == ([5, 10], 10)


def test_who_wants_the_last_weights_gets_them() -> None:
    steps, progress, callback = best_steps((0.8, 0.6), (0.9, 0.5), (0.1, 2.0), weights="last")
    assert (steps, progress.best_step, callback.exports) == ([5, 10], 10, 1)


def test_an_evaluation_that_was_cut_short_is_done_when_the_run_goes_on(tmp_path: Path) -> None:
    def cut(*_: Any) -> dict[str, float]:
        raise Interrupted

    first = toy_loop(toy(), folder=tmp_path, evaluate=cut)
    assert not first.fit()
    callback = Losses()
    second = toy_loop(toy(), folder=tmp_path, callback=callback, evaluate=lambda *_: {"score": 1.0})
    assert second.resume()
    assert second.fit()
    assert [step for step, *_ in callback.metrics] == [5, 10]
    assert [report.step for report in callback.reports] == [6, 7, 8, 9, 10]


def test_the_last_checkpoints_stay(tmp_path: Path) -> None:
    toy_loop(toy(checkpoint_every=2, keep=3), folder=tmp_path).fit()
    assert Checkpoints(tmp_path, keep=3).steps() == [6, 8, 10]


def test_what_an_interrupted_write_left_is_no_checkpoint(tmp_path: Path) -> None:
    toy_loop(toy(), folder=tmp_path).fit()
    part = tmp_path / "checkpoints" / ".part-99"
    part.mkdir()
    (part / "rank-0.pt").write_bytes(b"half")
    loop = toy_loop(toy(), folder=tmp_path)
    assert loop.resume()
    assert loop.progress.step == 10
    assert not part.exists()


def test_a_checkpoint_that_cannot_be_written_leaves_the_others(tmp_path: Path, monkeypatch: Any) -> None:
    original = module._write_rank_file

    def full(state: Any, path: Path) -> None:
        if state["progress"]["step"] == 10:
            raise OSError(28, "No space left on device")
        original(state, path)

    monkeypatch.setattr(module, "_write_rank_file", full)
    with pytest.raises(TrainingStopped, match=r"step-10: No space left on device; the run can resume after step 5"):
        toy_loop(toy(), folder=tmp_path).fit()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-5"]


def test_frozen_blocks_drop_no_paths_and_keep_their_weights() -> None:
    loop = toy_loop(toy("finetune", drop_path=0.9))
    encoder: Any = loop.model.get_submodule("encoder")
    for block in encoder.blocks[:3]:
        block.requires_grad_(False)
    before = parameters(loop)
    loop.optimizer = build_optimizer(loop.model, loop.recipe)
    loop.fit()
    assert [block.training for block in encoder.blocks] == [False] * 3 + [True] * 5
    after = parameters(loop)
    assert all(torch.equal(before[n], after[n]) for n in before if n.startswith("encoder.blocks.1."))
    assert not equal(before, after)


def test_gradient_checkpointing_changes_no_step() -> None:
    recipe = RECIPES["finetune"]
    plain, saving = Losses(), Losses()
    toy_loop(recipe, callback=plain).fit()
    loop = toy_loop(recipe, callback=saving)
    loop.model.gradient_checkpointing_enable()
    loop.fit()
    assert saving.losses == pytest.approx(plain.losses, abs=1e-6)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["mae", "finetune"])
def test_half_precision_stays_near_single(name: str, precision: str) -> None:
    recipe = RECIPES[name]
    loop = toy_loop(recipe.replace(precision=precision), callback=(callback := Losses()))
    assert loop.fit()
    assert callback.losses == pytest.approx(losses(recipe), rel=0.05)
    assert all(p.dtype == torch.float32 for p in loop.model.parameters())


def test_double_precision_is_double_throughout() -> None:
    loop = toy_loop(toy(precision="fp64"), callback=(callback := Losses()))
    loop.fit()
    assert {p.dtype for p in loop.model.parameters()} == {torch.float64}
    assert callback.losses != losses(toy())
    assert callback.losses == pytest.approx(losses(toy()), abs=1e-4)


def test_fp16_with_sharded_models_is_refused() -> None:
    from dataclasses import replace

    import training

    world = replace(ALONE, size=2, strategy="fsdp")
    before, training.ALONE = training.ALONE, world
    try:
        with pytest.raises(ValueError, match=r"fp16.*expected bf16 or fp32"):
            toy_loop(toy(precision="fp16"))
    finally:
        training.ALONE = before


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_compiled_step_gives_the_same_losses(name: str) -> None:
    """In a process of its own: the compiler warns of what is none of ours."""
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import test_train_loop as t\n"
        f"recipe = t.RECIPES[{name!r}].replace(drop_path=None, dropout=None)\n"
        "plain, made = t.losses(recipe), t.losses(recipe.replace(compile=True))\n"
        "assert max(abs(a - b) for a, b in zip(plain, made)) < 1e-4, (plain, made)\n"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=900)


def test_a_run_that_is_stopped_before_it_learned_anything_leaves_no_checkpoint(tmp_path: Path) -> None:
    """A checkpoint of an optimizer that took no step would count one."""
    loop = toy_loop(toy(), folder=tmp_path)
    loop.stop.set()
    assert not loop.fit()
    assert Checkpoints(tmp_path, keep=2).steps() == []
    again = toy_loop(toy(), folder=tmp_path, callback=(callback := Losses()))
    assert not again.resume()
    again.fit()
    assert callback.losses == losses(toy())


def test_samples_that_cannot_be_loaded_end_the_run_with_what_is_left_of_it(tmp_path: Path) -> None:
    def poison(step: int) -> bool:
        if step == 7:
            raise ValueError("none of 64 samples could be read")
        return False

    with pytest.raises(TrainingStopped, match="none of 64 samples could be read; the run can resume after step 5"):
        toy_loop(toy(), folder=tmp_path, poison=poison).fit()


WORKER = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
FAILURES: list[tuple[BaseException, str]] = [
    (CheckpointException("x", {1: wrapped(WORKER)}), "a decoding process was killed"),
    (CheckpointException("x", {0: wrapped(OSError(28, "No space"))}), "the checkpoint cannot be written or read: No"),
    (WORKER, "a decoding process was killed"),
    (torch.OutOfMemoryError("CUDA out of memory"), "the device's memory is full (a smaller device_batch_size"),
    (MemoryError(), "the device's memory is full"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "the device's memory is full"),
    (RuntimeError("[.../gloo/pair.cc:1] Connection closed by peer"), "another rank of the run has ended ([.../gloo"),
    (dist.DistNetworkError("lost"), "another rank of the run has ended (lost)"),
    (OSError(5, "Input/output error", "a.pt"), "a.pt: Input/output error"),
    (
        RuntimeError("[enforce fail] PytorchStreamWriter failed writing file\nmore"),
        "the checkpoint cannot be written (is the disk full?)",
    ),
]


@pytest.mark.parametrize(("error", "sentence"), FAILURES, ids=[type(error).__name__ for error, _ in FAILURES])
def test_what_happens_to_a_run_is_said_in_one_sentence(error: BaseException, sentence: str) -> None:
    with pytest.raises(TrainingStopped) as caught, explain_failures(lambda: "the rest"):
        raise error
    assert str(caught.value).startswith(sentence)
    assert str(caught.value).endswith("; the rest")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("error", [RuntimeError("a fault"), TrainingStopped("as it is"), KeyboardInterrupt()])
def test_what_is_no_fault_of_the_machine_stays_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, explain_failures(lambda: "the rest"):
        raise error
    assert caught.value is error


# ten steps are too few to tell weight decay and the second beta, which test_train_groups.py looks at
CHANGES = {
    "lr": 1.05e-3,
    "betas": (0.95, 0.999),
    "warmup_epochs": 0.8,
    "seed": 1,
    "optimizer": "sgd",
    "layer_decay": 0.6,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", RECIPES)
def test_the_record_of_losses_tells_what_was_changed(name: str, change: str) -> None:
    changed = losses(RECIPES[name].replace(**{change: CHANGES[change]}))
    assert changed != pytest.approx(json.loads(GOLDEN.read_text())[name], abs=1e-4)


def test_in_long_epochs_a_checkpoint_is_written_by_the_clock(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("hierax.train.loop._SAVE_AFTER", 0.0)
    callback = Losses()
    toy_loop(toy(keep=9), folder=tmp_path / "a", callback=callback).fit()
    assert Checkpoints(tmp_path / "a", keep=2).steps() == [*range(2, 11)], "the nine last of all ten"
    assert callback.losses == losses(toy())
    toy_loop(toy(keep=9, checkpoint_every=4), folder=tmp_path / "b").fit()
    assert Checkpoints(tmp_path / "b", keep=2).steps() == [4, 8, 10], "who says when is not asked again"
