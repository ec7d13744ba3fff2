"""A toy set of actions on a CPU: what only movement tells apart is learned, by pretraining and fine-tuning on clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hierax
from hierax.data.sources import open_dataset
from hierax.processing import HieraVideoProcessor
from hierax.processing.video_file import VideoFile
from hierax.train import finetune, pretrain
from hierax.train.evaluation import evaluate
from hierax.train.settings import Recipe
from videos import DIRECTIONS, action_set

MODEL: dict[str, Any] = {
    "embed_dim": 32, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8], "decoder_hidden_size": 64, "decoder_depth": 1,
    "decoder_num_heads": 4,
}  # fmt: skip
COMMON: dict[str, Any] = {
    "overrides": MODEL, "image_size": (8, 64, 64), "frame_stride": 2, "crop_scale": None, "flip": False,
    "batch_size": 32, "reference_batch": 32, "workers": 1,
}  # fmt: skip
OPPOSITE = {"down": "up", "up": "down", "left": "right", "right": "left"}


def seen(paths: list[Path], model: Any, *, turned: bool = False, still: bool = False) -> list[str]:
    """What a model says of videos, of their frames in reverse order, or of one frame that stays."""
    processor, found = HieraVideoProcessor(model.preprocessing), []
    for path in paths:
        with VideoFile(path) as file:
            frames = np.stack([shot.pixels for shot in file.walk()])
        frames = frames[::-1] if turned else frames[len(frames) // 2 :][:1].repeat(len(frames), 0) if still else frames
        with torch.inference_mode():
            logits = model(processor(np.ascontiguousarray(frames), fps=30).pixel_values).logits[0]
        found.append(model.config.id2label[int(logits.argmax())])
    return found


@pytest.mark.slow
def test_directions_are_learned_by_pretraining_and_finetuning(tmp_path: Path) -> None:
    data = tmp_path / "actions"
    action_set(data / "train", each=100, seed=0)
    action_set(data / "val", each=25, seed=1)
    mae = Recipe(
        name="toy", mode="pretrain", model="mae_hiera_base_16x224", epochs=20, warmup_epochs=2, lr=1e-3,
        betas=(0.9, 0.95), mask_ratio=0.75, repeats=2, evaluate_every=5, **COMMON,
    )  # fmt: skip
    tune = Recipe(
        name="toy", mode="finetune", model="hiera_base_16x224", epochs=15, warmup_epochs=2, lr=1e-3, drop_path=0.0,
        evaluate_every=5, **COMMON,
    )  # fmt: skip
    pretrained = pretrain(data, out=tmp_path / "mae", recipe=mae, device="cpu", quiet=True)
    run = finetune(data, source=pretrained, out=tmp_path / "run", recipe=tune, device="cpu", quiet=True)
    top1 = evaluate(data, model=run, device="cpu").metrics["top1"]
    print(f"top-1 on {4 * 25} held-out videos: {100 * top1:.1f} %")
    assert top1 >= 0.9
    model = hierax.load(run)
    held = open_dataset(data / "val")
    paths = [Path(held.sample(i).content.video) for i in range(0, len(held), 5)]
    right = [path.parent.name for path in paths]
    turned = [OPPOSITE[name] == found for name, found in zip(right, seen(paths, model, turned=True), strict=True)]
    still = [name == found for name, found in zip(right, seen(paths, model, still=True), strict=True)]
    print(f"backwards the opposite: {np.mean(turned):.2f}; of one frame that stays: {np.mean(still):.2f} right")
    assert np.mean(turned) >= 0.8
    assert np.mean(still) <= 0.5
    assert set(right) == set(DIRECTIONS)
