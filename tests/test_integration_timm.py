"""hierax's models in timm's registry, and in segmentation-models-pytorch. Needs timm, which needs torchvision."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import hierax

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

FEMTO = "hierax_hiera_femto_160"


@pytest.fixture(scope="module")
def timm() -> Any:
    module = pytest.importorskip("timm")
    importlib.import_module("hierax.integrations.timm").register()
    return module


def test_the_names_are_those_of_the_variants(timm: Any) -> None:
    assert {FEMTO, "hierax_hiera_tiny_224", "hierax_hiera_huge_224"} <= set(timm.list_models("hierax*"))
    assert "hierax_hiera_tiny_224.mae_in1k_ft_in1k" in timm.list_models("hierax*", pretrained=True)
    assert "hiera_tiny_224" in timm.list_models("hiera*")  # timm's own stay


def test_maps_are_those_of_the_backbone_at_any_size(timm: Any) -> None:
    model = timm.create_model(FEMTO, pretrained=True, features_only=True, out_indices=(0, -1)).eval()
    own = hierax.HieraBackbone.from_pretrained("hierax/femto", out_features=("stage1", "stage4"))
    image = torch.randn(1, 3, 100, 130)
    with torch.no_grad():
        maps, expected = model(image), own(image).feature_maps
    assert [torch.equal(a, b) for a, b in zip(maps, expected, strict=True)] == [True, True]
    assert (model.feature_info.channels(), model.feature_info.reduction()) == ([40, 320], [4, 32])


def test_logits_are_those_of_the_classifier(timm: Any) -> None:
    model, own = timm.create_model(FEMTO, pretrained=True).eval(), hierax.load("hierax/femto").eval()
    image = torch.randn(2, 3, 100, 130)
    with torch.no_grad():
        torch.testing.assert_close(model(image), own(image).logits, rtol=0, atol=1e-6)
    assert model.num_classes == own.config.num_labels


def test_other_classes_channels_and_no_head(timm: Any) -> None:
    model = timm.create_model(FEMTO, pretrained=True, num_classes=5, in_chans=4, img_size=96, drop_path_rate=0.1)
    assert model(torch.randn(1, 4, 64, 64)).shape == (1, 5)
    model.reset_classifier(7)
    assert model(torch.randn(1, 4, 64, 64)).shape == (1, 7)
    model.reset_classifier(0)
    assert model(torch.randn(1, 4, 64, 64)).shape == (1, model.num_features)
    with pytest.raises(ValueError, match="global_pool is 'max'; expected 'avg'"):
        timm.create_model(FEMTO, global_pool="max")


def test_layers_have_learning_rates_of_their_own(timm: Any) -> None:
    factory = importlib.import_module("timm.optim")
    model = timm.create_model(FEMTO)
    groups = factory.create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.5).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(parameter)]: group for group in groups for parameter in group["params"]}
    assert found.keys() == set(names.values())
    scales = {name.removeprefix("model."): group["lr_scale"] for name, group in found.items()}
    assert scales["head.weight"] == scales["norm.weight"] == 1
    assert [scales[f"encoder.blocks.{block}.attn.qkv.weight"] for block in range(9)] == [
        2.0 ** -(9 - b) for b in range(9)
    ]
    assert scales["encoder.pos_embed.weight"] == scales["encoder.patch_embed.proj.weight"] == 2.0**-10
    assert found["model.encoder.pos_embed.weight"]["weight_decay"] == 0
    assert found["model.encoder.blocks.3.mlp.fc1.weight"]["weight_decay"] == 0.05
    by_stage = importlib.import_module("timm.models").group_parameters(model, model.group_matcher(coarse=True))
    assert next(len(names) for names in by_stage.values()) == 3
    assert len(by_stage) == 6  # the stem, four stages, norm and head


def test_maps_between_are_those_of_the_backbone(timm: Any) -> None:
    model, image = timm.create_model(FEMTO, pretrained=True).eval(), torch.randn(1, 3, 100, 130)
    own = hierax.HieraBackbone.from_pretrained("hierax/femto", out_features=("stage3", "stage4"))
    with torch.no_grad():
        last, maps = model.forward_intermediates(image, indices=2)
        expected = own(image).feature_maps
        assert torch.equal(last, model.forward_features(image))
        rows = model.forward_intermediates(image, output_fmt="NHWC", intermediates_only=True)
    assert [torch.equal(a, b) for a, b in zip(maps, expected, strict=True)] == [True, True]
    assert [tuple(each.shape) for each in rows] == [(1, 25, 33, 40), (1, 13, 17, 80), (1, 7, 9, 160), (1, 4, 5, 320)]
    with pytest.raises(ValueError, match="norm is True"):
        model.forward_intermediates(image, norm=True)


def test_weights_of_a_file_are_taken(timm: Any, tmp_path: Path) -> None:
    hierax.load("hierax/femto").save_pretrained(tmp_path)
    model = timm.create_model(FEMTO, pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path)})
    own = hierax.load("hierax/femto", task="classification")
    assert torch.equal(model.get_classifier().weight, own.head.get_parameter("weight"))


@pytest.mark.parametrize("name", ["Unet", "UnetPlusPlus", "FPN", "UPerNet", "Segformer", "MAnet", "Linknet"])
def test_models_of_segmentation_models_pytorch_train(name: str, timm: Any) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = getattr(smp, name)(f"tu-{FEMTO}", encoder_weights=None, classes=3)
    out = model(torch.randn(2, 3, 128, 96))
    assert out.shape == (2, 3, 128, 96)
    out.square().mean().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "patch_embed" in n)


def test_the_programs_of_the_guide(timm: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    guide = (Path(__file__).parents[1] / "docs" / "integrations.md").read_text(encoding="utf-8")
    programs = [
        text for text in re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL) if "integrations.timm" in text
    ]
    for program in programs:
        exec(program, {})
    assert len(programs) == 2
    printed = capsys.readouterr().out
    assert "8 (1, 80, 13, 17)" in printed
    assert "torch.Size([1, 5])" in printed
    assert "torch.Size([1, 3, 96, 128])" in printed


def test_maps_are_chosen_as_in_timm_and_others_are_refused(timm: Any) -> None:
    assert timm.create_model(FEMTO, features_only=True, out_indices=2).feature_info.out_indices == (2, 3)
    assert timm.create_model(FEMTO, features_only=True, out_indices=(-2,)).feature_info.out_indices == (2,)
    for wrong in ((4,), (1, 2, 3, 4), (3, 1), (1, 1), (), 5, 0):
        with pytest.raises(ValueError, match=re.escape(f"out_indices is {wrong!r}; expected stages from 0 to 3")):
            timm.create_model(FEMTO, features_only=True, out_indices=wrong)


def test_a_new_head_has_the_precision_of_the_model(timm: Any) -> None:
    model = timm.create_model(FEMTO).bfloat16()
    model.reset_classifier(7)
    assert model(torch.randn(1, 3, 64, 64)).dtype == torch.bfloat16
