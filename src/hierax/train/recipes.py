"""Named recipes: those of the paper's tables, and smaller ones for one GPU and for a CPU."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from hierax.train.settings import Recipe

_PAPER = "Ryali et al., ICML 2023"
_SIZES = {"tiny": "T", "small": "S", "base": "B", "base_plus": "B+", "large": "L", "huge": "H"}
_SMALL_DATA = "hierax: a starting point for small data, not from the paper"
_MEASURED = {  # on drawings and photos, with a narrow model: docs/log.md
    "pretrain": "; its rate of 7e-4 at batch 32 worked for 6,872 images at 64 pixels",
    "finetune": "; its rate follows from 3e-4, the best of four at batch 16 for 1,853 images",
    "segment": "; its rate of 1e-3 at batch 8 worked for 400 drawn shapes with a narrow model",
    "frozen": "; its rate of 2e-3 at batch 8 was better than 5e-3 for 400 drawn shapes with a narrow model",
}
_FINETUNED = {"epochs": {"tiny": 300, "small": 200, "base": 100, "base_plus": 100, "large": 50, "huge": 50}}


def _pretrain_in1k(size: str, epochs: int) -> Recipe:
    return Recipe(
        name=f"mae_in1k_{size}_{epochs}",
        mode="pretrain",
        model=f"mae_hiera_{size}_224",
        epochs=epochs,
        warmup_epochs=40,
        batch_size=4096,
        lr=8e-4,
        reference_batch=4096,
        betas=(0.9, 0.95),
        drop_path={"tiny": 0.0, "small": 0.0, "huge": 0.3}.get(size, 0.2),
        crop_scale=(0.2, 1.0),
        flip=True,
        mask_ratio=0.6,
        precision="bf16",
        source=f"{_PAPER}, appendix (IN1K pretraining, {epochs} epochs)",
    )


def _finetune_in1k(size: str, pretrained: int) -> Recipe:
    large_drop, large_decay = (0.2, 0.9) if pretrained == 400 else (0.1, 0.85)
    return Recipe(
        name=f"in1k_{size}_from_{pretrained}",
        mode="finetune",
        model=f"hiera_{size}_224",
        epochs=_FINETUNED["epochs"][size],
        warmup_epochs=5,
        batch_size=1024,
        lr=2e-3 if size in ("tiny", "small", "base") else 1e-3,
        reference_batch=1024,
        layer_decay={"tiny": 0.65, "small": 0.65, "base": 0.7, "base_plus": 0.7, "large": large_decay}.get(size, 0.85),
        drop_path={"large": large_drop, "huge": 0.3}.get(size, 0.1),
        flip=True,
        rand_augment=(9.0, 0.5),
        mixup=0.8,
        cutmix=1.0,
        label_smoothing=0.1,
        precision="bf16",
        source=f"{_PAPER}, appendix (IN1K fine-tuning, after {pretrained} epochs of pretraining)",
    )


def _pretrain_k400(size: str, epochs: int) -> Recipe:
    huge = {1600: 0.3, 3200: 0.4}
    return Recipe(
        name=f"mae_k400_{size}_{epochs}",
        mode="pretrain",
        model=f"mae_hiera_{size}_16x224",
        overrides={"decoder_num_heads": 8},
        epochs=epochs,
        warmup_epochs=120,
        batch_size=512,
        lr=3.2e-4 if size == "huge" and epochs == 3200 else 8e-4,
        reference_batch=512,
        betas=(0.9, 0.95),
        drop_path=huge[epochs] if size == "huge" else {"base": 0.1}.get(size, 0.2),
        crop_scale=(0.5, 1.0),
        flip=True,
        repeats=4,
        mask_ratio=0.9,
        precision="bf16",
        source=f"{_PAPER}, appendix (K400 pretraining, {epochs} epochs)",
    )


_K400_DECAY = {
    "base": {1600: 0.85, 3200: 0.8},
    "base_plus": {1600: 0.85, 3200: 0.8},
    "large": {800: 0.925, 1600: 0.9, 3200: 0.875},
    "huge": {800: 0.925, 1600: 0.9, 3200: 0.875},
}


def _finetune_k400(size: str, pretrained: int) -> Recipe:
    large = size in ("large", "huge")
    return Recipe(
        name=f"k400_{size}_from_{pretrained}",
        mode="finetune",
        model=f"hiera_{size}_16x224",
        epochs=100 if large else 150,
        warmup_epochs=10,
        batch_size=256,
        lr=4e-4 if size == "huge" else 8e-4,
        reference_batch=256,
        layer_decay=_K400_DECAY[size][pretrained],
        clip_grad=5.0,
        drop_path=0.3 if size == "huge" else 0.2,
        dropout=0.5 if large else 0.3,
        flip=True,
        rand_augment=(7.0, 0.5),
        repeats=2,
        mixup=0.8,
        cutmix=1.0,
        label_smoothing=0.1,
        precision="bf16",
        source=f"{_PAPER}, appendix (K400 fine-tuning, after {pretrained} epochs of pretraining)",
    )


def _pretrain_ssv2() -> Recipe:
    return _pretrain_k400("large", 1600).replace(
        name="mae_ssv2_large_1600",
        warmup_epochs=30.0,
        batch_size=1024,
        reference_batch=1024,
        clip_grad=0.02,
        flip=False,
        drop_path=0.2,
        source=f"{_PAPER}, appendix (SSv2 pretraining)",
    )


def _finetune_ssv2() -> Recipe:
    return Recipe(
        name="ssv2_large_from_1600",
        mode="finetune",
        model="hiera_large_16x224",
        epochs=40,
        warmup_epochs=3,
        batch_size=256,
        optimizer="sgd",
        lr=0.16,
        reference_batch=256,
        weight_decay=1e-4,
        layer_decay=0.875,
        drop_path=0.1,
        dropout=0.5,
        flip=False,
        mixup=0.8,
        cutmix=1.0,
        label_smoothing=0.1,
        precision="bf16",
        source=f"{_PAPER}, appendix (SSv2 fine-tuning)",
    )


def _pretrain_small_data(size: str, place: str) -> Recipe:
    """Settings for a few thousand images on one GPU or a CPU: smaller batches, longer warm-up, no huge crops."""
    cpu = place == "cpu"
    return Recipe(
        name=f"mae_{size}_small_data" + ("_cpu" if cpu else ""),
        mode="pretrain",
        model=f"mae_hiera_{size}_224",
        image_size=(96, 96) if cpu else None,
        epochs=50 if cpu else 400,
        warmup_epochs=2 if cpu else 20,
        batch_size=32 if cpu else 256,
        lr=7e-4 if cpu else 1.5e-4,
        reference_batch=32 if cpu else 256,
        betas=(0.9, 0.95),
        drop_path=0.0,
        crop_scale=(0.2, 1.0),
        mask_ratio=0.6,
        precision="fp32" if cpu else "bf16",
        validation_fraction=0.1,
        source=_SMALL_DATA + (_MEASURED["pretrain"] if cpu else ""),
    )


def _finetune_small_data(size: str, place: str) -> Recipe:
    """Settings for a few thousand images on one GPU or a CPU: smaller batches, longer warm-up, no huge crops."""
    cpu = place == "cpu"
    return Recipe(
        name=f"finetune_{size}_small_data" + ("_cpu" if cpu else ""),
        mode="finetune",
        model=f"hiera_{size}_224",
        image_size=(96, 96) if cpu else None,
        epochs=20 if cpu else 100,
        warmup_epochs=2 if cpu else 5,
        batch_size=32 if cpu else 256,
        lr=5e-4,
        reference_batch=32 if cpu else 256,
        layer_decay=0.65,
        clip_grad=1.0,
        drop_path=0.1,
        crop_scale=(0.35, 1.0),
        rand_augment=None if cpu else (7.0, 0.5),
        mixup=0.0 if cpu else 0.2,
        label_smoothing=0.1,
        ema=None if cpu else 0.999,
        precision="fp32" if cpu else "bf16",
        validation_fraction=0.1,
        source=_SMALL_DATA + (_MEASURED["finetune"] if cpu else ""),
    )


def _segment_small_data(size: str, place: str, *, frozen: bool) -> Recipe:
    """Settings for semantic segmentation of some dozens to a few thousand images on one GPU or a CPU."""
    cpu = place == "cpu"
    return Recipe(
        name=f"segment_{size}_small_data" + ("_frozen" if frozen else "") + ("_cpu" if cpu else ""),
        mode="segment",
        model=f"hiera_{size}_224",
        image_size=(160, 160) if cpu else (512, 512),
        epochs=40 if cpu else 100,
        warmup_epochs=2 if cpu else 5,
        batch_size=8 if cpu else 16,
        lr=2e-3 if frozen else 1e-3 if cpu else 5e-4,
        reference_batch=8 if cpu else 16,
        layer_decay=1.0 if frozen else 0.8,
        clip_grad=1.0,
        drop_path=0.0 if frozen else 0.1,
        crop_scale=(0.25, 1.0),
        freeze="all" if frozen else 0,
        rand_augment=None,
        precision="fp32" if cpu else "bf16",
        validation_fraction=0.1,
        source=_SMALL_DATA + (_MEASURED["frozen" if frozen else "segment"] if cpu else ""),
    )


def _all() -> dict[str, partial[Recipe]]:
    builders: list[partial[Recipe]] = []

    def add(build: Callable[..., Recipe], *arguments: Any) -> None:
        builders.append(partial(build, *arguments))

    for place in ("gpu", "cpu"):
        for size in ("tiny", "small", "base") if place == "gpu" else ("tiny",):
            add(_pretrain_small_data, size, place)
            add(_finetune_small_data, size, place)
            builders += [partial(_segment_small_data, size, place, frozen=frozen) for frozen in (False, True)]
    for size in _SIZES:
        for epochs in (400, 1600):
            add(_pretrain_in1k, size, epochs)
            add(_finetune_in1k, size, epochs)
    for size in ("base", "base_plus", "large"):
        for epochs in (800, 1600, 3200):
            add(_pretrain_k400, size, epochs)
    for epochs in (1600, 3200):
        add(_pretrain_k400, "huge", epochs)
    for size, decays in _K400_DECAY.items():
        for pretrained in decays:
            add(_finetune_k400, size, pretrained)
    add(_pretrain_ssv2)
    add(_finetune_ssv2)
    return {build().name: build for build in builders}


RECIPES = _all()
"""Recipes by name; each is a function that returns a complete configuration."""


def recipe(name: str) -> Recipe:
    """A named recipe.

    Raises:
        ValueError: the name is unknown; lists the nearest names.
    """
    if name not in RECIPES:
        import difflib

        longer = [known for known in RECIPES if known.startswith(name)]
        near = longer or difflib.get_close_matches(name, RECIPES, 5, 0.6)
        hint = f"; did you mean {', '.join(near[:5])}?" if name and near else ""
        raise ValueError(f"no recipe {name!r}{hint} (hierax recipes lists all)")
    return RECIPES[name]()


def source_of(name: str) -> str:
    """A function that makes a recipe, with its arguments."""
    build = RECIPES[recipe(name).name]
    return f"# {build.func.__name__}{build.args}{build.keywords or ''}\n{inspect.getsource(build.func)}"
