"""Recipes: every one builds its model, and those of the paper hold the values of its tables."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hierax.model.config import variant_config
from hierax.model.tasks import HieraForImageClassification, HieraForPreTraining, HieraForVideoClassification
from hierax.train import RECIPES, Recipe, finetune, recipe
from hierax.train.modes import MODES
from hierax.train.pixels import augmentation
from hierax.train.recipes import source_of
from hierax.train.setting_values import assignments_of
from hierax.train.settings import RESUMABLE_SETTINGS, fields

SIZES = ("tiny", "small", "base", "base_plus", "large", "huge")
BIG = ("base", "base_plus", "large", "huge")

# The paper's tables, a row per column of theirs, written by hand. Order of the sizes: T S B B+ L H.
IN1K_PRETRAIN = {
    "mode": "pretrain", "optimizer": "adamw", "betas": (0.9, 0.95), "weight_decay": 0.05, "lr": 8e-4,
    "warmup_epochs": 40, "batch_size": 4096, "crop_scale": (0.2, 1.0), "flip": True, "mask_ratio": 0.6, "mixup": 0.0,
    "cutmix": 0.0, "label_smoothing": 0.0, "layer_decay": 1.0, "clip_grad": None, "rand_augment": None, "repeats": 1,
}  # fmt: skip
IN1K_DROP = (0.0, 0.0, 0.2, 0.2, 0.2, 0.3)
IN1K_FINETUNE = {
    "mode": "finetune", "optimizer": "adamw", "betas": (0.9, 0.999), "weight_decay": 0.05, "warmup_epochs": 5,
    "batch_size": 1024, "rand_augment": (9.0, 0.5), "mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1,
    "clip_grad": None, "dropout": None, "repeats": 1,
}  # fmt: skip
IN1K_TUNED = {  # epochs, lr, layer decay and drop path after 400 epochs, and after 1600
    "tiny": (300, 2e-3, (0.65, 0.1), (0.65, 0.1)),
    "small": (200, 2e-3, (0.65, 0.1), (0.65, 0.1)),
    "base": (100, 2e-3, (0.7, 0.1), (0.7, 0.1)),
    "base_plus": (100, 1e-3, (0.7, 0.1), (0.7, 0.1)),
    "large": (50, 1e-3, (0.9, 0.2), (0.85, 0.1)),
    "huge": (50, 1e-3, (0.85, 0.3), (0.85, 0.3)),
}
K400_PRETRAIN = {
    "mode": "pretrain", "betas": (0.9, 0.95), "weight_decay": 0.05, "warmup_epochs": 120, "batch_size": 512,
    "repeats": 4, "crop_scale": (0.5, 1.0), "flip": True, "mask_ratio": 0.9, "clip_grad": None,
    "overrides": {"decoder_num_heads": 8},
}  # fmt: skip
K400_PRETRAINED = {  # (size, epochs): lr, drop path
    **{("base", epochs): (8e-4, 0.1) for epochs in (800, 1600, 3200)},
    **{("base_plus", epochs): (8e-4, 0.2) for epochs in (800, 1600, 3200)},
    **{("large", epochs): (8e-4, 0.2) for epochs in (800, 1600, 3200)},
    ("huge", 1600): (8e-4, 0.3),
    ("huge", 3200): (3.2e-4, 0.4),
}
K400_FINETUNE = {
    "mode": "finetune", "betas": (0.9, 0.999), "weight_decay": 0.05, "warmup_epochs": 10, "batch_size": 256,
    "repeats": 2, "rand_augment": (7.0, 0.5), "mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1, "clip_grad": 5.0,
}  # fmt: skip
K400_TUNED = {  # (size, pretrained): epochs, lr, drop path, dropout, layer decay
    ("base", 1600): (150, 8e-4, 0.2, 0.3, 0.85),
    ("base", 3200): (150, 8e-4, 0.2, 0.3, 0.8),
    ("base_plus", 1600): (150, 8e-4, 0.2, 0.3, 0.85),
    ("base_plus", 3200): (150, 8e-4, 0.2, 0.3, 0.8),
    ("large", 800): (100, 8e-4, 0.2, 0.5, 0.925),
    ("large", 1600): (100, 8e-4, 0.2, 0.5, 0.9),
    ("large", 3200): (100, 8e-4, 0.2, 0.5, 0.875),
    ("huge", 800): (100, 4e-4, 0.3, 0.5, 0.925),
    ("huge", 1600): (100, 4e-4, 0.3, 0.5, 0.9),
    ("huge", 3200): (100, 4e-4, 0.3, 0.5, 0.875),
}


def _paper() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {}
    for size, drop in zip(SIZES, IN1K_DROP, strict=True):
        for epochs in (400, 1600):
            table[f"mae_in1k_{size}_{epochs}"] = {**IN1K_PRETRAIN, "epochs": epochs, "drop_path": drop}
        epochs, lr, *cells = IN1K_TUNED[size]
        for pretrained, (decay, drop_path) in zip((400, 1600), cells, strict=True):
            values = {"epochs": epochs, "lr": lr, "layer_decay": decay, "drop_path": drop_path}
            table[f"in1k_{size}_from_{pretrained}"] = {**IN1K_FINETUNE, **values}
    for (size, epochs), (lr, drop) in K400_PRETRAINED.items():
        table[f"mae_k400_{size}_{epochs}"] = {**K400_PRETRAIN, "epochs": epochs, "lr": lr, "drop_path": drop}
    for (size, pretrained), (epochs, lr, drop, dropout, decay) in K400_TUNED.items():
        values = {"epochs": epochs, "lr": lr, "drop_path": drop, "dropout": dropout, "layer_decay": decay}
        table[f"k400_{size}_from_{pretrained}"] = {**K400_FINETUNE, **values}
    table["mae_ssv2_large_1600"] = {
        **K400_PRETRAIN, "epochs": 1600, "lr": 8e-4, "warmup_epochs": 30, "batch_size": 1024, "clip_grad": 0.02,
        "flip": False, "drop_path": 0.2,
    }  # fmt: skip
    table["ssv2_large_from_1600"] = {
        "mode": "finetune", "optimizer": "sgd", "lr": 0.16, "weight_decay": 1e-4, "epochs": 40, "warmup_epochs": 3,
        "batch_size": 256, "mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1, "drop_path": 0.1, "dropout": 0.5,
        "layer_decay": 0.875,
    }  # fmt: skip
    return table


PAPER = _paper()


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_of_the_paper_holds_the_values_of_its_tables(name: str) -> None:
    chosen = recipe(name)
    assert {key: getattr(chosen, key) for key in PAPER[name]} == PAPER[name]
    assert chosen.peak_lr == chosen.lr, "the paper's rates are for the paper's batches"
    assert chosen.min_lr == 0


def test_every_other_recipe_says_that_it_is_not_from_the_paper() -> None:
    others = [recipe(name) for name in RECIPES if name not in PAPER]
    assert len(others) == 16
    assert all("not from the paper" in one.source for one in others)
    assert {name for mode in MODES.values() for name in mode.recipes.values()} <= {one.name for one in others}


@pytest.mark.parametrize(
    ("name", "batch", "lr"),
    [
        ("mae_tiny_small_data", 256, 1.5e-4),
        ("finetune_tiny_small_data", 256, 5e-4),
        ("mae_tiny_small_data_cpu", 32, 7e-4),
        ("finetune_tiny_small_data_cpu", 32, 5e-4),
    ],
)
def test_the_rate_of_a_recipe_for_small_data_is_that_of_its_own_batch(name: str, batch: int, lr: float) -> None:
    chosen = recipe(name)
    assert (chosen.batch_size, chosen.reference_batch, chosen.peak_lr) == (batch, batch, lr)
    assert ("its rate" in chosen.source) == name.endswith("_cpu")


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_small_data_is_fine_tuned_at_the_paper_s_rate_for_the_batch(size: str) -> None:
    small, paper = recipe(f"finetune_{size}_small_data"), recipe(f"in1k_{size}_from_400")
    assert small.peak_lr == paper.replace(batch_size=small.batch_size).peak_lr


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_its_model(name: str) -> None:
    chosen = recipe(name)
    assert chosen.name == name
    size = {"image_size": chosen.image_size} if chosen.image_size else {}
    with torch.device("meta"):
        config = variant_config(
            chosen.model, **chosen.overrides, **size, drop_path_rate=chosen.drop_path or 0, dropout=chosen.dropout or 0
        )
        if chosen.mode == "pretrain":
            model: Any = HieraForPreTraining(config.replace(mask_ratio=chosen.mask_ratio))
            assert config.num_query_pool == 2
        else:
            model = (HieraForVideoClassification if config.is_video else HieraForImageClassification)(config)
    assert len(model.layer_groups()) == sum(config.depths) + 2


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json(name: str) -> None:
    chosen = recipe(name)
    assert Recipe.from_dict(json.loads(json.dumps(chosen.to_dict()))) == chosen


def test_few_epochs_shorten_the_warm_up_in_proportion() -> None:
    base = recipe("finetune_tiny_small_data_cpu")  # 2 of 20 epochs
    assert base.overridden(["epochs=1"]).warmup_epochs == 0.1
    assert base.overridden(["epochs=3"]).warmup_epochs == 2
    assert base.overridden(["epochs=1", "warmup_epochs=2"]).warmup_epochs == 2


def test_settings_are_read_as_json_or_as_text() -> None:
    base = recipe("mae_tiny_small_data_cpu")
    changed = base.overridden(
        ["epochs=3", "lr=5e-4", "image_size=64", "betas=0.9,0.98", "clip_grad=none", "flip=false", "target=hog",
         "num_channels=4", "decoder_depth=2", "model=mae_hiera_small_224", "rand_augment=[7, 0.5]"]
    )  # fmt: skip
    assert (changed.epochs, changed.lr, changed.image_size, changed.betas) == (3, 5e-4, (64, 64), (0.9, 0.98))
    assert (changed.clip_grad, changed.flip, changed.target) == (None, False, "hog")
    assert (changed.model, changed.rand_augment) == ("mae_hiera_small_224", (7, 0.5))
    assert changed.overrides == {"num_channels": 4, "decoder_depth": 2}
    assert base.overridden([]) == base


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("epocs=3", "epocs is not a setting of a recipe; did you mean epochs"),
        ("epochs", "'epochs' is not a setting; expected key=value"),
        ("epochs=3.5", "epochs is 3.5; expected a whole number"),
        ("num_chanels=1", "num_chanels is not a setting of a recipe; did you mean num_channels"),
        ("quux=1", "quux is not a setting of a recipe; hierax recipes NAME lists them"),
        ("epochs=0", "epochs is 0; expected a whole number above 0"),
        ("epochs=true", "epochs is True; expected a whole number"),
        ("lr=fast", "lr is 'fast'; expected a number"),
        ("lr=0,001", "lr is '0,001'; expected a number with a point, such as 0.001"),
        ("mixup=0,5", "mixup is '0,5'; expected a number with a point, such as 0.5"),
        ("image_size=100000", "image_size is .*; expected at most 134,217,728 pixels in all"),
        ("betas=0,001,3", "betas is .*; expected two numbers"),
        ("weights=first", "weights is 'first'; expected best, last"),
        ("lr=-1", "lr is -1.0; expected 0 or more"),
        ("lr=NaN", "lr is nan; expected 0 or more"),
        ("lr=1e10", "lr is 10000000000.0; expected 0 or more, at most 1e9"),
        ("workers=5000", "workers is 5000; expected 0 to 4096"),
        ("rand_augment=[1, NaN]", r"rand_augment is \(1, nan\); expected magnitude and deviation, 0 to 10"),
        ("rand_augment=[1, Infinity]", r"rand_augment is \(1, inf\)"),
        (
            "problem_type=regression",
            "overrides has 'problem_type', which follows from the labels: one class or several",
        ),
        ("label2id={}", "overrides has 'label2id', which follows from the data"),
        ("layer_decay=0", "layer_decay is 0.0; expected above 0, at most 1"),
        ("precision=int8", "precision is 'int8'; expected fp32, bf16, fp16, fp64"),
        ("target=edges", "target is 'edges'; expected normalized, pixels, hog"),
        ("class_weights=sqrt", "class_weights is 'sqrt'; expected balanced, or weights above 0 by class"),
        (
            'class_weights={"crack": -1}',
            "class_weights is {'crack': -1}; expected balanced, or weights above 0 by class",
        ),
        ("class_weights={}", "class_weights is {}; expected balanced, or weights above 0 by class"),
        ("betas=0.9", "betas is 0.9; expected 2 numbers with a comma"),
        ("betas=[0.9, 1.0]", "betas is .*; expected two numbers"),
        ("crop_scale=[0.9, 0.5]", "crop_scale is .*; expected two numbers above 0, ascending, at most 4"),
        ('image_size=["a"]', "image_size is .*; expected whole numbers with commas or none"),
        ("freeze=most", "freeze is 'most'; expected a number of stages, or 'all'"),
        ("ema=1", "ema is 1.0; expected above 0 and below 1"),
        ("patience=0", "patience is 0; expected a whole number above 0"),
        ("seed=-1", "seed is -1; expected 0 to 4294967295"),
        ("drop_path_rate=0.3", "overrides has 'drop_path_rate', which is the setting drop_path"),
        ("num_labels=3", "overrides has 'num_labels', which follows from the data"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe("mae_tiny_small_data_cpu").overridden([assignment])


def test_settings_may_be_a_mapping() -> None:
    given = {"epochs": 3, "crop_scale": (0.5, 1), "adapter": None, "flip": False, "model": "hiera_tiny_224"}
    texts = ["epochs=3", "crop_scale=0.5,1", "adapter=none", "flip=false", "model=hiera_tiny_224"]
    base = recipe("finetune_tiny_small_data_cpu")
    assert base.overridden(assignments_of(given)) == base.overridden(assignments_of(texts))
    for wrong in ("epochs=1", [("epochs", 1)]):
        with pytest.raises(TypeError, match=r"settings is .*; expected a list such as \[\"epochs=5\"\], or"):
            assignments_of(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [["a.png"], torch.zeros(4, 3, 8, 8)])
@pytest.mark.parametrize("name", ["data", "validation"])
def test_data_that_are_no_path_are_refused_by_name(data: Any, name: str, tmp_path: Path) -> None:
    given: Any = {"data": tmp_path, name: data}
    with pytest.raises(TypeError, match=f"{name} is a {type(data).__name__}; expected a folder, a file"):
        finetune(given.pop("data"), out=tmp_path / "run", **given)


def test_a_field_of_the_model_belongs_into_overrides() -> None:
    base = recipe("mae_tiny_small_data_cpu")
    with pytest.raises(
        ValueError, match=r"decoder_depth is a field of the model; expected overrides=\{'decoder_depth': 4\}"
    ):
        base.replace(decoder_depth=4)
    assert base.replace(overrides={"decoder_depth": 4}).overrides["decoder_depth"] == 4
    with pytest.raises(ValueError, match="drop_path_rate is the setting drop_path"):
        base.replace(drop_path_rate=0.1)


def test_an_unknown_recipe_is_refused_with_those_near_it() -> None:
    with pytest.raises(ValueError, match=r"no recipe 'mae_tiny'; did you mean .*mae_tiny_small_data"):
        recipe("mae_tiny")


def test_a_recipe_that_lacks_its_name_is_refused() -> None:
    with pytest.raises(ValueError, match="the recipe lacks mode, name"):
        Recipe.from_dict({"epochs": 3})


def test_the_source_of_a_recipe_is_code() -> None:
    assert source_of("mae_k400_huge_3200").startswith("# _pretrain_k400('huge', 3200)\ndef _pretrain_k400(")


def test_pictures_are_mirrored_and_arrays_are_not_unless_a_recipe_says_so() -> None:
    config = variant_config("mae_hiera_tiny_224")
    for flip, (picture, array) in {None: (True, False), True: (True, True), False: (False, False)}.items():
        chosen = recipe("mae_tiny_small_data").replace(flip=flip)
        assert augmentation(chosen, config, arrays=False).flip is picture
        assert augmentation(chosen, config, arrays=True).flip is array
    assert recipe("mae_tiny_small_data").flip is recipe("finetune_tiny_small_data").flip is None
    assert recipe("mae_tiny_small_data").overridden(["flip=true"]).overridden(["flip=null"]).flip is None


def test_settings_may_be_written_as_python_writes_numbers() -> None:
    changed = recipe("mae_tiny_small_data").overridden(["lr=.001", "weight_decay=5.e-2", "drop_path=-.0"])
    assert (changed.lr, changed.weight_decay, changed.drop_path) == (0.001, 0.05, 0.0)


def test_overrides_may_be_given_whole_and_one_by_one() -> None:
    changed = recipe("mae_tiny_small_data").overridden(["embed_dim=8", 'overrides={"decoder_depth": 2}'])
    assert changed.overrides == {"embed_dim": 8, "decoder_depth": 2}


@pytest.mark.parametrize(("key", "instead"), [("source", "--from names the weights"), ("mode", "it is the command")])
def test_what_is_no_setting_of_a_run_is_refused(key: str, instead: str) -> None:
    with pytest.raises(ValueError, match=f"{key} cannot be set: .*{instead}"):
        recipe("finetune_tiny_small_data").overridden([f"{key}=runs/mae"])


def test_settings_that_teach_nothing_are_settings() -> None:
    assert set(fields()) > RESUMABLE_SETTINGS


def test_the_former_spelling_of_the_target_is_the_same_setting() -> None:
    pretraining = recipe("mae_tiny_small_data")
    assert pretraining.target == "normalized"
    assert pretraining.overridden(["target=normalised"]) == pretraining.replace(target="normalised") == pretraining


def test_an_override_that_is_no_field_is_named() -> None:
    with pytest.raises(ValueError, match="'a' is not a field of HieraConfig"):
        recipe("mae_tiny_small_data").replace(overrides={"a": None})
