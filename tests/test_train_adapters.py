"""Runs that train an adapter: what is trained and written, resuming, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import hierax
from hierax import extras
from hierax.cli import main
from hierax.integrations.transformers import HieraxForImageClassification
from hierax.train import Recipe, evaluate, finetune
from hierax.train.loop import Loop
from training import same, toy, unfinished, weights
from videos import action_set

pytest_plugins = ("bases", "runs")
pytestmark = pytest.mark.filterwarnings("ignore")  # those of the libraries


def lora(**changes: Any) -> Recipe:
    settings = {"overrides": {}, "adapter": "lora", "rank": 4, "validation_fraction": 0.25, "lr": 1e-2}
    return toy("finetune", **{**settings, **changes})


def trained(data: Path, out: Path, base: Path, **changes: Any) -> Path:
    return finetune(data, out=out, source=base, recipe=lora(**changes), device="cpu", quiet=True)


@pytest.fixture(scope="module")
def run(data: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(data, tmp_path_factory.mktemp("runs") / "lora", base)


def logits(model: Any, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(pixels).logits


PIXELS = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))


# -- what is written --------------------------------------------------------------------------------------------------


def test_the_adapter_and_the_model_of_a_run_are_the_same_model(run: Path) -> None:
    adapter, model = hierax.load(run / "adapter"), hierax.load(run)
    assert torch.equal(logits(adapter, PIXELS), logits(model, PIXELS))
    assert adapter.config == model.config
    assert adapter.preprocessing == model.preprocessing
    assert list(adapter.config.id2label.values()) == ["class0", "class1"]


def test_only_adapted_layers_and_the_head_differ_from_the_base(run: Path, base: Path) -> None:
    before, after = load_file(base / "model.safetensors"), weights(run)
    changed = {name for name, tensor in after.items() if not torch.equal(before[name], tensor)}
    assert changed == {n for n in after if n.startswith("classifier.") or n.endswith("attn.qkv.weight")}


def test_all_layers_of_the_blocks_can_be_adapted(data: Path, base: Path, tmp_path: Path) -> None:
    layers = ("qkv", "attn.proj", "mlp.fc1", "fc2", "proj")
    run = trained(data, tmp_path / "run", base, epochs=1, target_modules=layers)
    before, after = load_file(base / "model.safetensors"), weights(run)
    changed = {name for name, tensor in after.items() if not torch.equal(before[name], tensor)}
    matrices = {n for n in after if ".layers." in n and n.endswith(".weight") and "layernorm" not in n}
    assert changed == {*matrices, "classifier.weight", "classifier.bias"}
    assert torch.equal(logits(hierax.load(run / "adapter"), PIXELS), logits(hierax.load(run), PIXELS))


def test_peft_opens_the_folder_on_the_base_and_answers_the_same(run: Path, base: Path) -> None:
    model = HieraxForImageClassification.from_pretrained(base, num_labels=2, ignore_mismatched_sizes=True)
    opened = peft.PeftModel.from_pretrained(model, str(run / "adapter"))
    expected = logits(hierax.load(run), PIXELS)
    torch.testing.assert_close(logits(opened, PIXELS), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(opened.merge_and_unload(), PIXELS), expected, rtol=0, atol=1e-6)  # pyright: ignore


def test_peft_refuses_the_folder_on_a_model_with_other_names(run: Path, base: Path) -> None:
    model = hierax.load(base, num_labels=2)
    with pytest.raises(ValueError, match="not found in the base model"):
        peft.PeftModel.from_pretrained(model, str(run / "adapter"))


def test_transformers_opens_the_folder_by_itself(run: Path) -> None:
    model = HieraxForImageClassification.from_pretrained(run / "adapter", num_labels=2, ignore_mismatched_sizes=True)
    torch.testing.assert_close(logits(model, PIXELS), logits(hierax.load(run), PIXELS), rtol=0, atol=1e-5)


def test_the_run_says_how_many_parameters_it_trains(
    data: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = lora(epochs=1, target_modules=("qkv",))
    finetune(data, out=tmp_path / "run", source=base, recipe=recipe, device="cpu")
    said = " ".join(capsys.readouterr().err.split())
    tensors = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    count, total = sum(t.numel() for t in tensors.values()), hierax.load(base, num_labels=2).num_parameters()
    total += count - 130
    assert f"{count:,} of {total:,} parameters are trained ({count / total:.1%}), 130 of them in head" in said
    assert "LoRA of rank 4 in 8 layers of" in said
    assert f"adapter: {tmp_path / 'run' / 'adapter'}, report:" in said


def test_evaluate_takes_the_adapter(run: Path, data: Path) -> None:
    found = evaluate(data, model=run / "adapter", device="cpu", workers=0)
    assert found.metrics == evaluate(data, model=run, device="cpu", workers=0).metrics
    assert found.note is not None
    assert "only the 4 samples that it held out" in found.note


def test_a_step_of_the_run_is_opened_with_the_adapter_in_it(data: Path, base: Path, tmp_path: Path) -> None:
    for number, changes in enumerate(({}, {"alpha": 3.0, "ema": 0.9})):
        run = trained(data, tmp_path / str(number), base, weights="last", **changes)
        step = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
        expected = logits(hierax.load(run), PIXELS)
        torch.testing.assert_close(logits(hierax.load(step), PIXELS), expected, rtol=0, atol=1e-6)


def test_wrong_weights_under_the_name_of_the_base_are_refused(run: Path, base: Path, tmp_path: Path) -> None:
    other = hierax.load(base)
    with torch.no_grad():
        other.get_parameter("encoder.blocks.3.mlp.fc1.weight")[0, 0] += 1e-3
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"was trained on other weights than those of .*other \(their digest"):
        hierax.load(run / "adapter", base=tmp_path / "other")


def test_the_base_may_have_another_format_or_head(run: Path, base: Path, tmp_path: Path) -> None:
    hierax.convert(base, tmp_path / "base.pth", to="official")
    hierax.load(base, num_labels=7).save_pretrained(tmp_path / "seven")
    for other in ("base.pth", "seven"):
        opened = hierax.load(run / "adapter", base=tmp_path / other)
        assert torch.equal(logits(opened, PIXELS), logits(hierax.load(run), PIXELS))


# -- kinds of runs ----------------------------------------------------------------------------------------------------


def test_a_resumed_run_ends_as_one_that_was_not_stopped(
    data: Path, base: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropout = {"adapter_dropout": 0.2, "drop_path": 0.1, "ema": 0.9}
    whole = trained(data, tmp_path / "whole", base, **dropout)
    step = Loop._step

    def stopping(self: Loop, *arguments: Any) -> Any:
        report = step(self, *arguments)
        if report.step == 4:
            self.stop.set()
        return report

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", stopping)
        part = trained(data, tmp_path / "part", base, **dropout)
    assert "finished" not in json.loads((part / "run.json").read_text())
    trained(data, part, base, **dropout)
    assert same(weights(part), weights(whole))
    name = "adapter/adapter_model.safetensors"
    assert same(load_file(part / name), load_file(whole / name))


def test_a_mae_gets_a_norm_that_is_trained_in_full(pretrained: Path, data: Path, tmp_path: Path) -> None:
    run = trained(data, tmp_path / "run", pretrained)
    values = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert values["modules_to_save"] == ["classifier", "hiera.pooler.layernorm"]
    opened = hierax.load(run / "adapter")
    assert torch.equal(logits(opened, PIXELS), logits(hierax.load(run), PIXELS))
    begin = hierax.load(pretrained, task="classification", num_labels=2, reinit="norm")
    model = HieraxForImageClassification.from_hierax(begin)
    peft_model = peft.PeftModel.from_pretrained(model, str(run / "adapter"))
    torch.testing.assert_close(logits(peft_model, PIXELS), logits(opened, PIXELS), rtol=0, atol=1e-5)


def test_another_size_and_other_channels_are_adapted_again(base: Path, tmp_path: Path) -> None:
    arrays = np.random.default_rng(0).normal(size=(12, 4, 96, 96)).astype(np.float32)
    np.save(tmp_path / "a.npy", arrays)
    np.save(tmp_path / "a.labels.npy", np.arange(12) % 3)
    run = trained(tmp_path / "a.npy", tmp_path / "run", base, image_size=(96, 96), overrides={"num_channels": 4})
    pixels = torch.randn(2, 4, 96, 96)
    assert torch.equal(logits(hierax.load(run / "adapter"), pixels), logits(hierax.load(run), pixels))


def test_clips_are_learned_from_a_model_of_images(base: Path, tmp_path: Path) -> None:
    action_set(tmp_path / "films", each=2, seed=0, frames=8)
    run = trained(
        tmp_path / "films", tmp_path / "run", base, image_size=(4, 64, 64), validation_fraction=0.0, crop_scale=None
    )
    pixels = torch.randn(1, 3, 4, 64, 64)
    opened = hierax.load(run / "adapter")
    torch.testing.assert_close(logits(opened, pixels), logits(hierax.load(run), pixels), rtol=0, atol=1e-6)
    assert opened.preprocessing == hierax.load(run).preprocessing


def test_several_labels_are_learned(base: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(8, 3, 64, 64)).astype(np.float32))
    np.save(tmp_path / "a.labels.npy", np.eye(4, dtype=np.float32)[np.arange(8) % 4])
    run = trained(tmp_path / "a.npy", tmp_path / "run", base)
    opened = hierax.load(run / "adapter")
    assert opened.config.problem_type == "multi_label_classification"
    assert torch.equal(logits(opened, PIXELS), logits(hierax.load(run), PIXELS))


def test_frozen_stages_get_no_matrices(data: Path, base: Path, tmp_path: Path) -> None:
    run = trained(data, tmp_path / "run", base, epochs=1, freeze=2, target_modules=("qkv", "proj"))
    names = load_file(run / "adapter" / "adapter_model.safetensors")
    assert {name.split("stages.")[1][0] for name in names if "stages" in name} == {"2", "3"}
    assert {name.split(".lora")[0].split(".", 8)[-1] for name in names if "lora" in name} == {"attn.qkv", "proj"}


@pytest.mark.parametrize(
    "changes", [{"precision": "bf16"}, {"precision": "fp64"}, {"gradient_checkpointing": True}, {"layer_decay": 0.7}]
)
def test_the_other_settings_work_with_an_adapter(changes: Any, data: Path, base: Path, tmp_path: Path) -> None:
    run = trained(data, tmp_path / "run", base, epochs=1, **changes)
    torch.testing.assert_close(
        logits(hierax.load(run / "adapter"), PIXELS), logits(hierax.load(run), PIXELS), rtol=0, atol=1e-6
    )


def test_gradient_checkpointing_changes_nothing(run: Path, data: Path, base: Path, tmp_path: Path) -> None:
    again = trained(data, tmp_path / "run", base, gradient_checkpointing=True)
    assert same(weights(again), weights(run))


@pytest.mark.slow
def test_compiled_steps_train_the_same_adapter(run: Path, data: Path, base: Path, tmp_path: Path) -> None:
    compiled = trained(data, tmp_path / "run", base, compile=True)
    for name, tensor in weights(compiled).items():
        torch.testing.assert_close(tensor, weights(run)[name], rtol=0, atol=1e-3)


def test_an_adapter_learns_from_labels_and_a_teacher(data: Path, base: Path, tmp_path: Path) -> None:
    options: Any = {"source": base, "teacher": base, "device": "cpu", "quiet": True}
    run = finetune(data, out=tmp_path / "run", recipe=lora(epochs=1), **options)
    assert torch.equal(logits(hierax.load(run / "adapter"), PIXELS), logits(hierax.load(run), PIXELS))
    with pytest.raises(ValueError, match="adapter is 'lora', but nothing is learned from labels; expected none"):
        finetune(data, out=tmp_path / "other", recipe=lora(label_weight=0.0), **options)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("adapter=foo", "adapter is 'foo'; expected none, lora"),
        ("adapter=lora rank=0", "rank is 0; expected a whole number above 0"),
        ("adapter=lora rank=4.5", "rank is 4.5; expected a whole number or none"),
        ("adapter=lora alpha=0", "alpha is 0.0; expected above 0"),
        ("adapter=lora adapter_dropout=1", "adapter_dropout is 1.0; expected 0 to below 1"),
        ("adapter=lora target_modules=q", r"target_modules is \('q',\); expected some of attn.qkv, attn.proj, mlp.fc1"),
        ("adapter=lora target_modules=3", "target_modules is 3; expected words with commas or none"),
        ("rank=8", "rank is 8, but adapter is none; expected adapter=lora"),
        ("target_modules=qkv", r"target_modules is \('qkv',\), but adapter is none; expected adapter=lora"),
    ],
)
def test_wrong_settings_are_refused_before_data_are_read(settings: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        finetune(tmp_path / "none", out=tmp_path / "run", settings=settings.split(), quiet=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 100}, "rank is 100; expected at most 64, the width of the widest layer that is adapted"),
        ({"freeze": "all"}, "freeze is 'all', which leaves no layer for the adapter; expected 0 to 3"),
        ({"freeze": 4}, "freeze is 4, which leaves no layer for the adapter; expected 0 to 3"),
    ],
)
def test_what_the_model_does_not_allow_is_refused(
    changes: Any, message: str, data: Path, base: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        trained(data, tmp_path / "run", base, **changes)


def test_pretraining_has_no_adapter() -> None:
    with pytest.raises(ValueError, match="adapter is 'lora', but pretrain trains the whole model; expected none"):
        toy("pretrain", adapter="lora")


def test_none_is_the_name_of_no_adapter() -> None:
    assert toy("finetune", adapter="none") == toy("finetune")
    assert toy("finetune").overridden(["adapter=none"]) == toy("finetune")


def test_random_weights_have_no_adapter(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="adapter is 'lora', but no weights are loaded; expected none"):
        finetune(data, out=tmp_path / "run", source=None, recipe=lora(), quiet=True)


def test_an_adapter_is_adapted_after_it_was_merged(run: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"adapter is an adapter, and adapter is 'lora'; expected a model to adapt"):
        trained(data, tmp_path / "run", run / "adapter")
    assert main(["convert", str(run / "adapter"), "-o", str(tmp_path / "merged")]) == 0
    trained(data, tmp_path / "run", tmp_path / "merged", epochs=1)
    finetune(data, out=tmp_path / "full", source=run / "adapter", recipe=toy("finetune", overrides={}), quiet=True)


def test_without_peft_one_line_says_what_to_install(
    data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = extras.is_installed
    monkeypatch.setattr(extras, "is_installed", lambda module: module != "peft" and there(module))
    assert main(["finetune", str(data), "--from", str(base), "-o", str(tmp_path / "run"), "adapter=lora"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said.endswith(
        "a run with adapter=lora needs the package peft: pip install 'peft>=0.18' (part of hierax[adapters])"
    )
    assert not (tmp_path / "run").exists()


def test_other_settings_of_the_adapter_are_another_run(run: Path, data: Path, base: Path, tmp_path: Path) -> None:
    copy = unfinished(Path(shutil.copytree(run, tmp_path / "run")))
    with pytest.raises(ValueError, match="rank was 4, now 2"):
        trained(data, copy, base, rank=2)
