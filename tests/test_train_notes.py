"""What a run says before its first step."""

from pathlib import Path
from typing import Any

import pytest

from hierax.data.dataset import Subset
from hierax.data.order import Order
from hierax.data.sources import open_dataset
from hierax.train import finetune, pretrain
from hierax.train.summary import about_classes, remarks, unused_settings
from samples import Listed
from small import image_config
from training import held, toy

pytest_plugins = ("runs",)


def said(data: Path, *, fresh: bool = True, validated: bool = True, **changes: Any) -> list[str]:
    """The remarks on a run, of which 64 samples are held out."""
    train, recipe = open_dataset(data), toy(**changes)
    order = Order(len(train), recipe.batch_size, 0)
    held = Subset(train, [0] * 64) if validated else None
    found = remarks(recipe, image_config(), order, train, held, fresh=fresh)
    return [line for line in found if line is not None]


def test_where_all_is_well_nothing_is_said(data: Path) -> None:
    for task in ("pretrain", "finetune"):
        assert said(data, mode=task) == []


def test_layers_that_hardly_learn_from_scratch_are_told(data: Path) -> None:
    (line,) = said(data, mode="finetune", layer_decay=0.65)
    assert line == (
        "layer_decay is 0.65 and the weights are random: the first layer learns at 0.021 of the learning rate, so "
        "it hardly changes; layer_decay=1 trains all layers at the same rate"
    )
    assert said(data, mode="finetune", layer_decay=0.65, fresh=False) == []


@pytest.mark.parametrize("changes", [{}, {"target": "pixels"}])
def test_that_nothing_is_held_out_to_be_drawn_is_told(data: Path, changes: dict[str, Any]) -> None:
    (line,) = said(data, validated=False, **changes)
    assert line.startswith("no images of reconstructions: nothing is held out; pass validation_fraction=0.1 or")
    assert said(data, validated=False, mode="finetune") == []


def test_that_histograms_are_no_pictures_is_told(data: Path) -> None:
    for validated in (True, False):
        (line,) = said(data, validated=validated, target="hog")
        assert line.startswith("no images of reconstructions and no decoder in the saved model: target=hog")


def test_a_warm_up_without_an_end_is_told(data: Path) -> None:
    (line,) = said(data, warmup_epochs=2)
    assert line == "warmup_epochs is 2 of 2 epochs: the learning rate never reaches its peak"


def test_a_run_says_it_all_on_the_terminal(pretrained: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    finetune(data, source=None, out=tmp_path / "a", recipe=held("finetune", epochs=1, layer_decay=0.5), device="cpu")
    assert "layer_decay is 0.5 and the weights are random" in capsys.readouterr().err
    tuning = held("finetune", epochs=1, layer_decay=0.5, overrides={})
    finetune(data, source=pretrained, out=tmp_path / "b", recipe=tuning, device="cpu")
    assert "layer_decay" not in capsys.readouterr().err
    run = pretrain(data, out=tmp_path / "c", recipe=toy(epochs=1), device="cpu")
    lines = capsys.readouterr().err.splitlines()
    assert "hierax: 1 of 4 mask units are visible (mask_ratio 0.6, image_size 64x64)" in lines
    assert sum(line.startswith("hierax: no images of reconstructions: ") for line in lines) == 1
    assert not (run / "reconstructions").exists()


def test_settings_that_a_run_does_not_use_are_told(data: Path) -> None:
    train = open_dataset(data)

    def told(mode: str, *given: str, validated: bool = True, **changes: Any) -> list[str]:
        return unused_settings(toy(mode, **changes), given, train, validated=validated, drawn=False, taught=False)

    assert told("pretrain", "mixup", "class_weights", "lr", "mask_ratio") == [
        "warning: class_weights, mixup: no effect in pretrain"
    ]
    assert told("finetune", "mask_ratio", "target", "mixup", "frame_stride") == [
        "warning: mask_ratio, target: no effect in finetune",
        "warning: frame_stride: no effect on data that are not videos",
    ]
    assert told("segment", "label_weight", "mask_ratio") == ["warning: label_weight, mask_ratio: no effect in segment"]
    assert told("finetune", "patience", "validation_fraction") == [
        "warning: validation_fraction: no effect on data with a validation set"
    ]
    (line,) = told("finetune", "patience", "validation_fraction", validated=False)
    assert line.startswith("warning: patience: no effect without validation data")
    assert told("finetune", "teacher_logits") == ["warning: teacher_logits: no effect without a teacher (--teacher)"]
    assert told("finetune", "betas", "momentum", "reference_batch", optimizer="sgd") == [
        "warning: betas: no effect with optimizer=sgd",
        "warning: reference_batch: no effect with scale_lr=false",
    ]


def test_a_run_warns_of_settings_that_it_does_not_use(data: Path, tmp_path: Path, capsys: Any) -> None:
    settings = ("mask_ratio=0.5", "patience=3", "mixup=0.2")
    finetune(data, source=None, out=tmp_path, recipe=toy("finetune", epochs=1), settings=settings, device="cpu")
    lines = [line for line in capsys.readouterr().err.splitlines() if "no effect" in line]
    assert [line.partition(": no effect")[0] for line in lines] == [
        "hierax: warning: mask_ratio",
        "hierax: warning: patience",
    ]


@pytest.mark.parametrize(("each", "warned"), [(1, True), (2, False)])
def test_that_most_classes_have_one_sample_is_told(each: int, warned: bool) -> None:
    train: Any = Listed([b""] * 12 * each, list(range(12)) * each, classes=12)
    order = Order(len(train), 4, 0)
    found = remarks(toy("finetune"), image_config(), order, train, None, fresh=False)
    told = [line for line in found if line and "only one training sample" in line]
    assert [line.partition(";")[0] for line in told] == (
        ["warning: 12 of 12 classes have only one training sample"] if warned else []
    )


def test_that_few_are_validated_on_is_told(data: Path) -> None:
    train = open_dataset(data)
    order, few = Order(16, 4, 0), Subset(train, range(6))
    for weights, luck in (("best", True), ("last", False)):
        recipe = toy("finetune", weights=weights)
        lines = [line for line in remarks(recipe, image_config(), order, train, few, fresh=False) if line]
        (line,) = lines
        assert line.startswith("warning: only 6 samples to validate on (validation_fraction or --validation sets more)")
        assert ("--weights last" in line) == luck


@pytest.mark.parametrize(
    ("batch", "advice"),
    [
        (16, "only 1 step, since batch_size is 16 of 16 samples; batch_size=4"),
        (8, "only 2 steps, since batch_size is 8 of 16 samples; batch_size=4"),
    ],
)
def test_that_an_epoch_has_hardly_any_steps_is_told(data: Path, batch: int, advice: str) -> None:
    (line,) = said(data, batch_size=batch)
    assert advice in line
    assert line.startswith("warning: ")


def test_the_classes_are_said_with_how_many_samples_each_has(data: Path) -> None:
    train, recipe = open_dataset(data), toy("finetune")
    assert about_classes(recipe, train, None) == "2 classes: class0 (8), class1 (8)"
    assert about_classes(recipe, Subset(train, range(6)), Subset(train, range(6, 16))) == (
        "2 classes: class0 (8), class1 (8)"
    )
    assert about_classes(toy(), train, None) is None
    many = Listed([b""] * 40, list(range(40)), classes=40)
    assert str(about_classes(recipe, many, None)).endswith("11 (1), and 28 more")
