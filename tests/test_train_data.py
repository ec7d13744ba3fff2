"""Kinds of data: few samples, unbalanced classes, several labels, signals and volumes, and what does not fit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hierax import load
from hierax.train import finetune, pretrain
from training import log, pictures, toy

pytest_plugins = ("runs",)


def test_a_tiny_dataset_is_one_batch(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", classes=3, each=1)
    recipe = toy("finetune", batch_size=256)
    run = finetune(data, source=None, out=tmp_path / "run", recipe=recipe, device="cpu", quiet=True)
    assert json.loads((run / "run.json").read_text())["facts"] == {"samples": 3, "held_out": 0, "batch": 3}


def test_weighted_classes_count_by_the_inverse_of_their_frequency() -> None:
    from hierax.train.class_weights import balanced_class_weights

    assert balanced_class_weights([0] * 6 + [1] * 2, 2).tolist() == pytest.approx([8 / 12, 8 / 4])
    assert balanced_class_weights([0, 0], 2).tolist() == [0.5, 1.0], "a class without samples weighs as one with one"


def test_imbalanced_data_are_trained_with_weights(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", each=6)
    for number in range(1, 6):
        (data / "class1" / f"{number}.png").unlink()
    recipe = toy("finetune", class_weights="balanced")
    assert finetune(data, source=None, out=tmp_path / "run", recipe=recipe, device="cpu", quiet=True).is_dir()


def test_several_true_labels_are_trained_with_binary_cross_entropy(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", random.normal(size=(12, 3, 64, 64)).astype(np.float32))
    np.save(tmp_path / "x.labels.npy", random.integers(0, 2, (12, 4)).astype(np.float32))
    recipe = toy("finetune", validation_fraction=0.25, mixup=0.5)
    run = finetune(tmp_path / "x.npy", source=None, out=tmp_path / "run", recipe=recipe, device="cpu", quiet=True)
    model: Any = load(run)
    assert (model.config.problem_type, model.config.num_labels) == ("multi_label_classification", 4)
    checks = [entry["validation"] for entry in log(run) if "validation" in entry]
    assert {"loss", "mean_average_precision", "score"} == set(checks[0])
    assert log(run)[0]["loss"] == pytest.approx(0.693, abs=0.02)
    recipe = recipe.replace(class_weights="balanced")
    with pytest.raises(ValueError, match="class_weights is 'balanced', but samples have none or several labels"):
        finetune(tmp_path / "x.npy", source=None, out=tmp_path / "other", recipe=recipe, device="cpu", quiet=True)


@pytest.mark.parametrize("shape", [(8, 512), (1, 32, 64, 64)])
def test_signals_and_volumes_are_pretrained_and_fine_tuned(tmp_path: Path, shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", (5 + 3 * random.normal(size=(6, *shape))).astype(np.float32))
    np.save(tmp_path / "x.labels.npy", np.arange(6) % 2)
    recipe = toy(image_size=None, batch_size=2, epochs=1, validation_fraction=0.34)
    run = pretrain(tmp_path / "x.npy", out=tmp_path / "run", recipe=recipe, device="cpu", quiet=True)
    model: Any = load(run)
    assert (model.config.image_size, model.config.num_channels) == (shape[1:], shape[0])
    assert model.preprocessing.image_mean == pytest.approx((5.0,) * shape[0], abs=0.3)
    assert not (run / "reconstructions").exists()
    recipe = toy("finetune", image_size=None, batch_size=2, epochs=1)
    tuned = finetune(tmp_path / "x.npy", source=run, out=tmp_path / "tuned", recipe=recipe, device="cpu", quiet=True)
    assert load(tuned).config.image_size == shape[1:]


def test_arrays_that_do_not_fit_the_model_are_refused(tmp_path: Path, pretrained: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((6, 8, 512), np.float32))
    with pytest.raises(ValueError, match=r"the data are arrays of shape \[8, 512\]; the model takes \[8, 64, 64\]"):
        pretrain(tmp_path / "x.npy", out=tmp_path / "run", recipe=toy(), source=pretrained, device="cpu", quiet=True)


def test_pictures_for_a_clip_model_are_refused(tmp_path: Path, data: Path) -> None:
    recipe = toy(model="mae_hiera_base_16x224", image_size=(4, 64, 64))
    with pytest.raises(ValueError, match=r"the data are images; the model takes \[3, 4, 64, 64\]"):
        pretrain(data, out=tmp_path / "run", recipe=recipe, device="cpu", quiet=True)


def test_data_without_classes_cannot_be_fine_tuned_on(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ValueError, match="the data has no classes"):
        finetune(data / "class0", source=None, out=tmp_path / "run", recipe=toy("finetune"), device="cpu", quiet=True)
