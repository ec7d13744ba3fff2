"""What fine-tuning starts from: runs, every dialect, heads, sizes, channels, frozen stages."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hierax import HieraForImageClassification, HieraForPreTraining, HieraModel, load
from hierax.checkpoint.save import save_model
from hierax.train import finetune, pretrain
from small import image_config, randomize
from training import held, weights

pytest_plugins = ("runs",)


def tuned(data: Path, source: Path | None, out: Path, **changes: Any) -> Any:
    recipe = held("finetune", **{"epochs": 1, "overrides": {}, **changes})
    return load(finetune(data, source=source, out=out, recipe=recipe, device="cpu", quiet=True))


def test_fine_tuning_starts_from_a_run(pretrained: Path, data: Path, tmp_path: Path) -> None:
    model = tuned(data, pretrained, tmp_path / "run", lr=0.0)
    before, after = load(pretrained).state_dict(), model.state_dict()
    assert isinstance(model, HieraForImageClassification)
    assert model.config.id2label == {0: "class0", 1: "class1"}
    assert model.config.num_query_pool == 3
    shared = [name for name in after if name.startswith("encoder.")]
    assert all(torch.equal(after[name], before[name]) for name in shared)


@pytest.mark.parametrize("dialect", ["transformers", "timm", "official"])
@pytest.mark.parametrize("kind", [HieraForImageClassification, HieraForPreTraining, HieraModel])
def test_fine_tuning_starts_from_every_dialect(data: Path, tmp_path: Path, dialect: str, kind: Any) -> None:
    if dialect == "timm" and kind is HieraForPreTraining:
        pytest.skip("timm has no decoder")
    pooled = {"num_query_pool": 2} if kind is HieraForPreTraining else {}
    source = randomize(kind(image_config(**pooled)))
    save_model(source, tmp_path / "source", dialect=dialect)  # type: ignore[arg-type]
    model = tuned(data, tmp_path / "source", tmp_path / "run", lr=0.0)
    weight = "encoder.blocks.3.mlp.fc1.weight"
    assert torch.equal(model.get_parameter(weight), source.get_parameter(weight))


def test_a_head_for_the_same_classes_is_kept(data: Path, tmp_path: Path) -> None:
    source = randomize(HieraForImageClassification(image_config(id2label={0: "class0", 1: "class1"}, num_labels=2)))
    save_model(source, tmp_path / "source")  # type: ignore[arg-type]
    model = tuned(data, tmp_path / "source", tmp_path / "run", lr=0.0)
    assert torch.equal(model.head.weight, source.get_parameter("head.weight"))


def test_a_head_for_as_many_other_classes_is_new(data: Path, tmp_path: Path) -> None:
    source = randomize(HieraForImageClassification(image_config(id2label={0: "class1", 1: "class0"}, num_labels=2)))
    save_model(source, tmp_path / "source")  # type: ignore[arg-type]
    model = tuned(data, tmp_path / "source", tmp_path / "run", lr=0.0)
    assert model.config.id2label == {0: "class0", 1: "class1"}
    assert model.head.weight.std() < 0.01 < source.get_parameter("head.weight").std()


def test_fine_tuning_at_another_size_resizes_the_positions(pretrained: Path, data: Path, tmp_path: Path) -> None:
    model = tuned(data, pretrained, tmp_path / "run", image_size=(96, 128))
    assert model.config.image_size == (96, 128)
    assert model.preprocessing.crop_size == {"height": 96, "width": 128}


def test_fine_tuning_on_gray_pictures(pretrained: Path, data: Path, tmp_path: Path) -> None:
    model = tuned(data, pretrained, tmp_path / "run", overrides={"num_channels": 1}, lr=0.0)
    before = load(pretrained).get_parameter("encoder.patch_embed.proj.weight")
    after = model.get_parameter("encoder.patch_embed.proj.weight")
    torch.testing.assert_close(after, before.mean(1, keepdim=True) * 3)
    assert len(model.preprocessing.image_mean) == 1


@pytest.mark.parametrize("freeze", [2, "all"])
def test_frozen_stages_stay_as_they_are(pretrained: Path, data: Path, tmp_path: Path, freeze: Any) -> None:
    model = tuned(data, pretrained, tmp_path / "run", freeze=freeze, drop_path=0.5)
    before, after = load(pretrained).state_dict(), model.state_dict()
    changed = {name for name in after if name in before and not torch.equal(after[name], before[name])}
    last = {f"encoder.blocks.{i}" for i in ((2, 3) if freeze == 2 else ())}
    assert {".".join(name.split(".")[:3]) for name in changed} == last


@pytest.mark.parametrize(
    ("freeze", "message"), [(5, "expected 0 to 4 stages, or 'all'"), (2, "no weights are loaded; expected 0")]
)
def test_freezing_what_cannot_be_is_refused(
    pretrained: Path, data: Path, tmp_path: Path, freeze: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tuned(data, pretrained if freeze == 5 else None, tmp_path / "run", freeze=freeze)
    assert not (tmp_path / "run").exists()


def test_a_hog_run_exports_its_encoder_which_can_be_fine_tuned(data: Path, tmp_path: Path) -> None:
    run = pretrain(data, out=tmp_path / "hog", recipe=held(target="hog"), device="cpu", quiet=True)
    model: Any = load(run, reinit=("norm",))
    assert isinstance(model, HieraModel)
    assert not any("decoder" in name for name in weights(run))
    assert not (run / "reconstructions").exists()
    tuned = finetune(
        data, source=run, out=tmp_path / "tuned", recipe=held("finetune", lr=0.0), device="cpu", quiet=True
    )
    name = "encoder.blocks.2.attn.qkv.weight"
    assert torch.equal(load(tuned).get_parameter(name), model.get_parameter(name))
