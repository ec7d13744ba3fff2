"""Training on videos: the loop of pictures, with clips."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import hierax
from hierax.data.split import open_splits
from hierax.train import finetune, pretrain
from hierax.train.evaluation import evaluate
from hierax.train.recipes import recipe
from hierax.train.settings import Recipe
from small import image_config
from training import same, weights
from videos import DIRECTIONS, action_set, video

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)
MODEL: dict[str, Any] = {
    "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "decoder_hidden_size": 16, "decoder_depth": 1,
    "decoder_num_heads": 2,
}  # fmt: skip


def quick(task: str, **changes: Any) -> Recipe:
    """A recipe of two epochs on clips of 4 frames of 64 pixels."""
    prefix = "mae_" if task == "pretrain" else ""
    fields: dict[str, Any] = {
        "name": "quick", "mode": task, "model": f"{prefix}hiera_base_16x224", "overrides": MODEL, "epochs": 2,
        "image_size": (4, 64, 64), "batch_size": 4, "reference_batch": 4, "warmup_epochs": 1, "workers": 0,
        "frame_stride": 2, "crop_scale": (0.5, 1.0), "mask_ratio": 0.75 if task == "pretrain" else None,
    }  # fmt: skip
    return Recipe(**{**fields, **changes})


@pytest.fixture(scope="module")
def actions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of three short videos to train on, two to validate on."""
    folder = tmp_path_factory.mktemp("actions")
    action_set(folder / "train", each=3, seed=0, frames=12)
    action_set(folder / "val", each=2, seed=1, frames=12)
    return folder


def test_pretraining_then_finetuning_then_evaluation(actions: Path, tmp_path: Path) -> None:
    mae = pretrain(actions, out=tmp_path / "mae", recipe=quick("pretrain", repeats=2), device="cpu", quiet=True)
    model = hierax.load(mae)
    assert isinstance(model, hierax.HieraForPreTraining)
    record = model.preprocessing
    assert record is not None
    assert (record.num_frames, record.sampling_rate, record.image_mean) == (4, 2, (0.45, 0.45, 0.45))
    assert list((mae / "reconstructions").glob("step-*.png"))
    tune = quick("finetune", mixup=0.8, cutmix=1.0)
    run = finetune(actions, source=mae, out=tmp_path / "run", recipe=tune, device="cpu", quiet=True)
    classifier = hierax.load(run)
    assert isinstance(classifier, hierax.HieraForVideoClassification)
    assert tuple(classifier.config.id2label.values()) == tuple(sorted(DIRECTIONS))
    found = evaluate(actions, model=run, device="cpu")
    assert found.count == 8


def test_views_are_averaged_as_probabilities(actions: Path, tmp_path: Path) -> None:
    run = finetune(actions, source=None, out=tmp_path / "run", recipe=quick("finetune"), device="cpu", quiet=True)
    found = evaluate(actions, model=run, device="cpu", views=(2, 3)).predictions
    model = hierax.load(run)
    processor = hierax.AutoImageProcessor.from_pretrained(run)
    _, held = open_splits(actions, fraction=0, seed=0)
    assert held is not None
    paths = [held.sample(i).content.video for i in range(len(held))]
    with torch.no_grad():
        logits = model(processor(paths, views=(2, 3)).pixel_values).logits
    wanted = logits.softmax(-1).view(len(paths), 6, -1).mean(1)
    assert torch.allclose(found.logits.softmax(-1), wanted, atol=1e-5)


def test_processes_that_decode_change_nothing(actions: Path, tmp_path: Path) -> None:
    here = pretrain(actions, out=tmp_path / "here", recipe=quick("pretrain"), device="cpu", quiet=True)
    there = pretrain(actions, out=tmp_path / "there", recipe=quick("pretrain", workers=2), device="cpu", quiet=True)
    assert same(weights(here), weights(there))


def test_a_model_of_pictures_is_inflated(actions: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = hierax.HieraForPreTraining(image_config(num_query_pool=2))
    model.preprocessing = hierax.Preprocessing().replace(size=72, crop_size=64)
    model.save_pretrained(tmp_path / "pictures")
    run = finetune(
        actions, source=tmp_path / "pictures", out=tmp_path / "run", recipe=quick("finetune", epochs=1, overrides={}),
        device="cpu", quiet=True,
    )  # fmt: skip
    found = hierax.load(run)
    assert found.config.image_size == (4, 64, 64)
    assert found.preprocessing is not None
    assert found.preprocessing.image_mean == hierax.Preprocessing().image_mean  # what its weights know
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert any(math.isfinite(line.get("loss", math.nan)) for line in lines)


def test_videos_for_a_model_of_pictures_are_refused(actions: Path, tmp_path: Path) -> None:
    wrong = quick("pretrain", model="mae_hiera_tiny_224", image_size=(64, 64), mask_ratio=0.6)
    with pytest.raises(ValueError, match=r"the data are videos; the model takes \[3, 64, 64\]"):
        pretrain(actions, out=tmp_path / "run", recipe=wrong, device="cpu", quiet=True)


def test_a_video_that_cannot_be_read_is_replaced_and_named(tmp_path: Path) -> None:
    action_set(tmp_path / "set", each=4, seed=0, frames=8)
    (tmp_path / "set" / "left" / "000.mp4").write_bytes(b"nothing of the kind")
    run = finetune(
        tmp_path / "set", source=None, out=tmp_path / "run",
        recipe=quick("finetune", epochs=1, max_bad=0.5), device="cpu", quiet=True,
    )  # fmt: skip
    assert (run / "unreadable.txt").read_text().startswith(f"{tmp_path}/set/left/000.mp4: not a video")
    assert hierax.load(run).config.num_labels == 4


def test_the_recipes_of_the_paper_are_of_clips() -> None:
    mae, tune = recipe("mae_k400_base_1600"), recipe("k400_base_from_1600")
    assert (mae.model, mae.repeats, mae.mask_ratio, mae.overrides) == (
        "mae_hiera_base_16x224", 4, 0.9, {"decoder_num_heads": 8},
    )  # fmt: skip
    assert (tune.model, tune.repeats, tune.clip_grad) == ("hiera_base_16x224", 2, 5.0)
    assert recipe("mae_ssv2_large_1600").flip is False


def test_evaluate_takes_views(run: Run, actions: Path, tmp_path: Path) -> None:
    made = finetune(actions, source=None, out=tmp_path / "made", recipe=quick("finetune"), device="cpu", quiet=True)
    code, out, _ = run("evaluate", str(actions), "--model", str(made), "--views", "2x1", "--device", "cpu", "--json")
    assert (code, json.loads(out)["samples"]) == (0, 8)
    (tmp_path / "one.mp4").write_bytes(video(20))
    code, out, _ = run(
        "classify", str(tmp_path / "one.mp4"), "--model", str(made), "--views", "2x1", "--per-view", "--json"
    )
    views = json.loads(out)["views"]
    assert (code, len(views), views[0]["start"]) == (0, 2, 0.0)
