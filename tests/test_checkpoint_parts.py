"""Which parts of a file go into which class, what starts anew, and what the report says of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from folders import edit, report_of, tensors_of
from hierax import (
    Hiera,
    HieraBackbone,
    HieraForImageClassification,
    HieraForPreTraining,
    HieraForVideoClassification,
    HieraModel,
    load,
)
from hierax.model.config import HieraConfig
from small import CONFIGS, image_config, pixels, video_config

Save = Callable[..., Path]
MAE = {"num_query_pool": 2}
STAGES = ("stage1", "stage2", "stage3", "stage4")


# -- parts ------------------------------------------------------------------------------------------------------------


def test_a_whole_file_leaves_nothing_to_report(classifier: Path) -> None:
    report = report_of(HieraForImageClassification.from_pretrained(classifier))
    assert (report.source, report.dialect) == (str(classifier), "transformers")
    assert not any(
        (report.missing, report.unexpected, report.ignored, report.resized, report.reinitialized, report.changed)
    )
    assert str(report) == f"{classifier} (transformers)"


@pytest.mark.parametrize(
    ("kind", "cls", "missing", "advice"),
    [
        ("features", HieraForImageClassification, "head.weight, head.bias (the file is for features);",
         "pass reinit=('head',) for random weights, or num_labels="),
        ("mae", HieraForImageClassification, "4 tensors are missing: norm.weight, norm.bias, head.weight, head.bias",
         "pass reinit=('head', 'norm',) for random weights"),
        ("mae", HieraModel, "norm.weight, norm.bias", "pass reinit=('norm',) for random weights"),
        ("classifier", HieraForPreTraining, "fusion.convs.0.weight",
         "pass reinit=('decoder', 'encoder_norm', 'fusion',) for random weights"),
    ],
)  # fmt: skip
def test_missing_parts_are_an_error_that_lists_them_and_says_what_to_pass(
    kind: str, cls: Any, missing: str, advice: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(kind)
    with pytest.raises(ValueError, match="tensors are missing") as caught:
        cls.from_pretrained(folder)
    message = str(caught.value)
    assert str(folder / "model.safetensors") in message
    assert missing in message
    assert advice in message


def test_num_labels_without_the_norm_still_names_the_norm(mae: Path) -> None:
    with pytest.raises(ValueError, match=r"norm.weight, norm.bias \(the file is for mae\); pass reinit=\('norm',\)"):
        HieraForImageClassification.from_pretrained(mae, num_labels=3)


def test_a_missing_tensor_of_the_encoder_is_named(features: Path) -> None:
    tensors = tensors_of(features)
    del tensors["encoder.stages.1.layers.1.mlp.fc1.bias"]
    save_file(tensors, features / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 tensor is missing: encoder\.blocks\.2\.mlp\.fc1\.bias$"):
        HieraModel.from_pretrained(features, reinit=("norm",))


def test_num_labels_renews_the_head_and_nothing_else(classifier: Path) -> None:
    model = HieraForImageClassification.from_pretrained(classifier, num_labels=7)
    assert model.head.weight.shape == (7, 64)
    assert model.config.id2label[6] == "LABEL_6"
    report = report_of(model)
    assert (report.reinitialized, report.missing, report.changed) == (["head"], [], ["num_labels 5 -> 7"])
    before = HieraForImageClassification.from_pretrained(classifier).state_dict()
    after = model.state_dict()
    assert [n for n in before if not n.startswith("head.") and not torch.equal(before[n], after[n])] == []


def test_a_new_head_is_drawn_as_a_fresh_models_head(classifier: Path) -> None:
    """Specification, section 2: truncated normal of 0.02 and biases 0.02, all times 0.001."""
    head = HieraForImageClassification.from_pretrained(classifier, num_labels=500).head
    assert float(head.weight.detach().std()) == pytest.approx(2e-5, rel=0.05)
    assert torch.allclose(head.bias, torch.full((500,), 2e-5))


def test_named_parts_start_anew_whether_or_not_the_file_has_them(features: Path, classifier: Path) -> None:
    for folder in (features, classifier):
        model = HieraForImageClassification.from_pretrained(folder, reinit=("norm", "head"))
        assert torch.equal(model.norm.weight, torch.ones(64))
        assert torch.equal(model.norm.bias, torch.full((64,), 0.02))
        assert report_of(model).reinitialized == ["head", "norm"]
    assert report_of(model).missing == []


def test_one_part_may_be_named_without_a_tuple(features: Path) -> None:
    assert report_of(HieraForImageClassification.from_pretrained(features, reinit="head")).reinitialized == ["head"]


def test_reinit_is_read_under_its_former_name(features: Path) -> None:
    model = HieraForImageClassification.from_pretrained(features, new=("head",))
    assert report_of(model).reinitialized == report_of(model).renewed == ["head"]


def test_a_decoder_can_start_anew_on_a_classifier(classifier: Path) -> None:
    model = HieraForPreTraining.from_pretrained(classifier, reinit=("decoder", "encoder_norm", "fusion"))
    assert model.config.num_query_pool == 2
    assert torch.equal(model.encoder_norm.bias, torch.zeros(64))  # as an MAE is initialized
    assert torch.isfinite(model(pixels(model.config)).loss)


def test_an_unknown_part_is_refused_with_those_there_are(features: Path) -> None:
    with pytest.raises(
        ValueError, match=r"reinit names neck; expected encoder, head, norm, segmentation, decoder, fusion"
    ):
        HieraModel.from_pretrained(features, reinit=("neck",))


def test_parts_that_the_class_does_not_have_are_ignored_and_reported(mae: Path, classifier: Path) -> None:
    assert report_of(HieraModel.from_pretrained(mae, reinit="norm")).ignored == ["decoder", "encoder_norm", "fusion"]
    assert report_of(HieraBackbone.from_pretrained(classifier)).ignored == ["head", "norm"]
    assert report_of(Hiera.from_pretrained(classifier)).ignored == ["head", "norm"]


def test_names_that_are_none_of_hieras_are_reported(features: Path) -> None:
    save_file({**tensors_of(features), "optimizer.step": torch.ones(1)}, features / "model.safetensors")
    report = report_of(HieraModel.from_pretrained(features))
    assert report.unexpected == ["optimizer.step"]
    assert "unexpected: optimizer.step" in str(report)


def test_tensors_that_the_configuration_has_no_place_for_are_an_error(features: Path) -> None:
    edit(features, depths=[1, 2, 2, 2])
    with pytest.raises(
        ValueError, match=r"safetensors: the configuration has no place for encoder\.stages\.3\.layers\."
    ):
        HieraModel.from_pretrained(features)


def test_norms_of_a_backbone_are_read_where_a_file_has_them(saved: Save) -> None:
    folder = saved(HieraBackbone, image_config(out_features=("stage2", "stage4")), norms=True)
    model: Any = HieraBackbone.from_pretrained(folder, norms=True)
    assert torch.equal(
        model.norms["stage4"].weight, load_file(folder / "model.safetensors")["hidden_states_norms.stage4.weight"]
    )
    assert report_of(model).reinitialized == []
    assert len(HieraBackbone.from_pretrained(folder).norms) == 0


def test_norms_that_no_file_has_start_at_one_and_zero(saved: Save) -> None:
    folder = saved(HieraBackbone, image_config(out_features=("stage2", "stage4")), norms=True)
    model: Any = HieraBackbone.from_pretrained(folder, norms=True, out_features=STAGES)
    written = load_file(folder / "model.safetensors")["hidden_states_norms.stage2.weight"]
    assert torch.equal(model.norms["stage2"].weight, written)
    for name in ("stage1", "stage3"):
        assert torch.equal(model.norms[name].weight, torch.ones_like(model.norms[name].weight))
        assert torch.equal(model.norms[name].bias, torch.zeros_like(model.norms[name].bias))
    assert report_of(model).reinitialized == ["norms"]
    assert len(report_of(model).missing) == 4


# -- the last stage of MAE records ------------------------------------------------------------------------------------


def test_features_of_a_mae_record_keep_its_last_stage(mae: Path) -> None:
    assert HieraModel.from_pretrained(mae, reinit="norm").config.num_query_pool == 2
    assert HieraBackbone.from_pretrained(mae, out_features=STAGES).strides == [4, 8, 16, 16]


def test_a_classifier_opened_from_a_mae_record_pools_its_last_stage_and_says_so(mae: Path) -> None:
    model = HieraForImageClassification.from_pretrained(mae, reinit=("norm", "head"))
    assert model.config.num_query_pool == 3
    assert report_of(model).changed == ["num_query_pool 2 -> 3"]


def test_num_query_pool_overrides_both(mae: Path) -> None:
    assert HieraBackbone.from_pretrained(mae, num_query_pool=3, out_features=STAGES).strides == [4, 8, 16, 32]
    assert (
        HieraForImageClassification.from_pretrained(
            mae, reinit=("norm", "head"), num_query_pool=2
        ).config.num_query_pool
        == 2
    )


@pytest.mark.parametrize("pools", [0, 1, 2, 3])
def test_a_classifier_keeps_its_own_number_of_poolings(pools: int, saved: Save) -> None:
    folder = saved(HieraForImageClassification, image_config(num_query_pool=pools))
    for model in (
        HieraForImageClassification.from_pretrained(folder),
        HieraForImageClassification.from_pretrained(folder, num_labels=2),
        load(folder),
    ):
        assert model.config.num_query_pool == pools


def test_a_mae_keeps_its_own_number_of_poolings(saved: Save) -> None:
    folder = saved(HieraForPreTraining, image_config(num_query_pool=3))
    assert HieraForPreTraining.from_pretrained(folder).config.num_query_pool == 3


def test_a_classifier_pools_as_often_as_its_mask_unit_allows(saved: Save) -> None:
    folder = saved(HieraForPreTraining, image_config(masked_unit_size=4, num_query_pool=1))
    model = HieraForImageClassification.from_pretrained(folder, reinit=("norm", "head"))
    assert model.config.num_query_pool == 2


# -- load -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "config"),
    [
        (HieraModel, image_config()),
        (HieraBackbone, image_config(out_features=("stage1",))),
        (HieraForImageClassification, image_config()),
        (HieraForPreTraining, image_config(**MAE)),
        (HieraForVideoClassification, video_config()),
        (HieraForPreTraining, video_config(**MAE)),
        (HieraForImageClassification, CONFIGS["volume"]()),
        (HieraForVideoClassification, CONFIGS["volume"]()),
    ],
)
def test_load_finds_the_class(cls: Any, config: HieraConfig, saved: Save) -> None:
    assert type(load(saved(cls, config))) is cls


def test_load_keeps_a_backbones_norms(saved: Save) -> None:
    model = load(saved(HieraBackbone, image_config(), norms=True))
    assert isinstance(model, HieraBackbone)
    assert len(model.norms) == 1


@pytest.mark.parametrize(
    ("task", "cls"),
    [("features", HieraModel), ("backbone", HieraBackbone), ("classification", HieraForImageClassification)],
)
def test_task_overrides_what_load_finds(task: str, cls: Any, classifier: Path) -> None:
    assert type(load(classifier, task=task)) is cls


def test_num_labels_makes_load_a_classifier(features: Path) -> None:
    model = load(features, num_labels=3)
    assert isinstance(model, HieraForImageClassification)


def test_an_unknown_task_is_refused(classifier: Path) -> None:
    with pytest.raises(
        ValueError,
        match="task is 'detection'; expected one of classification, video-classification, segmentation, mae",
    ):
        load(classifier, task="detection")


def test_a_class_of_ones_own_loads_and_saves_as_its_base(classifier: Path, tmp_path: Path) -> None:
    class Mine(HieraForImageClassification):
        pass

    Mine.from_pretrained(classifier).save_pretrained(tmp_path / "mine")
    assert json.loads((tmp_path / "mine" / "config.json").read_text())["architectures"] == [
        "HieraForImageClassification"
    ]
