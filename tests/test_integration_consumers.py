"""Detection and segmentation models of transformers around `HieraxBackbone`: built, trained, saved, reopened."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor

import hierax
from hierax.integrations.transformers import HieraxBackbone, HieraxConfig, register

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own

SIZE, LABELS = 64, 5
ALL, COARSE = ["stage1", "stage2", "stage3", "stage4"], ["stage2", "stage3", "stage4"]
WIDTHS = [8, 16, 32, 64]
SMALL: dict[str, Any] = {"num_labels": LABELS}


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    register()


def backbone_config(name: str) -> HieraxConfig:
    channels, features = 4 if name == "ViTMatte" else 3, CONSUMERS[name][-1]
    values: dict[str, Any] = {
        "num_channels": channels,
        "embed_dim": 8,
        "depths": (1, 1, 2, 1),
        "num_heads": (1, 1, 2, 2),
        "image_size": (SIZE, SIZE),
        "out_features": features,
    }
    return HieraxConfig(**values)


def pixels(channels: int = 3) -> Tensor:
    return torch.randn(2, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def semantic() -> dict[str, Any]:
    labels = torch.randint(0, LABELS, (2, SIZE, SIZE), generator=torch.Generator().manual_seed(1))
    labels[:, :4] = 255
    return {"pixel_values": pixels(), "labels": labels}


def instances() -> dict[str, Any]:
    masks = torch.zeros(2, SIZE, SIZE)
    masks[0, : SIZE // 2], masks[1, SIZE // 2 :] = 1, 1
    return {"pixel_values": pixels(), "mask_labels": [masks] * 2, "class_labels": [torch.tensor([0, 1])] * 2}


def boxes() -> dict[str, Any]:
    one = {"class_labels": torch.tensor([0, 1]), "boxes": torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.6, 0.6, 0.3, 0.2]])}
    return {"pixel_values": pixels(), "labels": [one] * 2}


def matting() -> dict[str, Any]:
    return {"pixel_values": pixels(4)}  # transformers has no loss for it


def task_tokens() -> dict[str, Any]:
    return {"pixel_values": pixels(), "task_inputs": torch.randint(0, 100, (2, 77))}


def _decoder(decoder_layers: int = 2, **extra: Any) -> dict[str, Any]:
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 6}
    return (
        {"d_model": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "decoder_layers": decoder_layers} | heads | extra
    )


_DETR = {**_decoder(), "encoder_layers": 1, **SMALL}
_RT = {
    **_decoder(encoder_hidden_dim=32, encoder_in_channels=WIDTHS[1:], decoder_in_channels=[32] * 3, num_denoising=0),
    **SMALL,
}
_MASKS = {"mask_feature_size": 32, **SMALL}
_QUERIES = {"encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "num_queries": 6, "hidden_dim": 32}
_UPERNET = {"hidden_size": 16, "auxiliary_in_channels": WIDTHS[2], "auxiliary_channels": 8, **SMALL}

# model, configuration, its values, inputs, maps
CONSUMERS: dict[str, tuple[str, str, dict[str, Any], Callable[[], dict[str, Any]], list[str]]] = {
    "UperNet": (
        "UperNetForSemanticSegmentation",
        "UperNetConfig",
        {**_UPERNET, "use_auxiliary_head": False},
        semantic,
        ALL,
    ),
    "UperNet with auxiliary head": ("UperNetForSemanticSegmentation", "UperNetConfig", _UPERNET, semantic, ALL),
    "MaskFormer": ("MaskFormerForInstanceSegmentation", "MaskFormerConfig", _MASKS, instances, ALL),
    "Mask2Former": (
        "Mask2FormerForUniversalSegmentation",
        "Mask2FormerConfig",
        {
            **_MASKS,
            **_QUERIES,
            "feature_size": 32,
            "encoder_feedforward_dim": 32,
            "dim_feedforward": 32,
            "train_num_points": 64,
        },
        instances,
        ALL,
    ),
    "OneFormer": (
        "OneFormerModel",
        "OneFormerConfig",
        {
            **_QUERIES,
            "conv_dim": 32,
            "mask_dim": 32,
            "encoder_feedforward_dim": 32,
            "dim_feedforward": 32,
            "is_training": False,
        },
        task_tokens,
        ALL,
    ),
    "DETR": ("DetrForObjectDetection", "DetrConfig", _DETR, boxes, ALL),
    "Conditional DETR": ("ConditionalDetrForObjectDetection", "ConditionalDetrConfig", _DETR, boxes, ALL),
    "Deformable DETR": (
        "DeformableDetrForObjectDetection",
        "DeformableDetrConfig",
        {**_DETR, "num_feature_levels": 3},
        boxes,
        COARSE,
    ),
    "Table Transformer": ("TableTransformerForObjectDetection", "TableTransformerConfig", _DETR, boxes, ALL),
    "DAB-DETR": (
        "DabDetrForObjectDetection",
        "DabDetrConfig",
        {**{k: v for k, v in _DETR.items() if k != "d_model"}, "hidden_size": 32},
        boxes,
        ALL,
    ),
    "RT-DETR": ("RTDetrForObjectDetection", "RTDetrConfig", _RT, boxes, COARSE),
    "RT-DETRv2": ("RTDetrV2ForObjectDetection", "RTDetrV2Config", _RT, boxes, COARSE),
    "D-FINE": ("DFineForObjectDetection", "DFineConfig", {**_RT, "eval_idx": -1}, boxes, COARSE),
    "ViTMatte": (
        "VitMatteForImageMatting",
        "VitMatteConfig",
        {"hidden_size": WIDTHS[2], "convstream_hidden_sizes": [8, 16, 32], "fusion_hidden_sizes": [32, 16, 8, 8]},
        matting,
        ["stage3"],
    ),
}


def build(name: str, backbone: Any) -> Any:
    model, config, values, _, _ = CONSUMERS[name]
    if name == "MaskFormer":
        inner = transformers.DetrConfig(**_DETR, backbone_config=backbone)
        values = {**values, "fpn_feature_size": 32, "decoder_config": inner}
    made = getattr(transformers, config)(backbone_config=backbone, **values)
    torch.manual_seed(0)
    return getattr(transformers, model)(made)


def loss_of(out: Any) -> Tensor:
    loss = out.get("loss")
    if loss is None:  # a model without a loss, or whose loss transformers does not compute
        loss = next(value for value in out.values() if isinstance(value, Tensor)).float().square().mean()
    return loss


def first(out: Any) -> Tensor:
    return next(v for k, v in out.items() if isinstance(v, Tensor) and k != "loss" and v.is_floating_point())


@pytest.mark.parametrize("name", CONSUMERS)
def test_models_of_transformers_train_and_are_reopened(name: str, tmp_path: Path) -> None:
    inputs = CONSUMERS[name][3]
    model = build(name, backbone_config(name))
    backbone = next(m for m in model.modules() if isinstance(m, HieraxBackbone))
    table = backbone.get_parameter("embeddings.position_embeddings")
    before = table.detach().clone()
    batch, optimizer = inputs(), torch.optim.AdamW(model.parameters(), 1e-3)
    model.train()
    for _ in range(3):
        loss = loss_of(model(**batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert math.isfinite(loss.item())
    assert not torch.equal(table, before)
    model.eval()
    model.save_pretrained(tmp_path)
    again, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert any(isinstance(m, HieraxBackbone) for m in again.modules())
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    saved, read = model.state_dict(), again.state_dict()
    assert all(torch.equal(tensor, read[key]) for key, tensor in saved.items())
    with torch.no_grad():
        torch.testing.assert_close(first(again.eval()(**batch)), first(model(**batch)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["UperNet", "Mask2Former", "DETR", "RT-DETR"])
def test_models_of_transformers_are_built_from_a_dictionary(name: str) -> None:
    config = backbone_config(name)
    made, from_dict = build(name, config), build(name, config.to_dict())
    assert [(n, p.shape) for n, p in made.named_parameters()] == [(n, p.shape) for n, p in from_dict.named_parameters()]
    assert any(isinstance(m, HieraxBackbone) for m in from_dict.modules())


PLACES = {
    "UperNet": "backbone",
    "ViTMatte": "backbone",
    "MaskFormer": "model.pixel_level_module.encoder",
    "Mask2Former": "model.pixel_level_module.encoder",
    "DETR": "model.backbone.model",
    "RT-DETR": "model.backbone.model",
    "DAB-DETR": "model.backbone.conv_encoder.model",
    "Table Transformer": "model.backbone.conv_encoder.model",
}


@pytest.mark.parametrize("name", PLACES)
def test_hierax_s_own_backbone_can_be_put_in_its_place(name: str) -> None:
    config, inputs = backbone_config(name), CONSUMERS[name][3]
    model, (parent, _, child) = build(name, config).train(), PLACES[name].rpartition(".")
    own = hierax.HieraBackbone(config.to_hierax(), out_features=config.out_features)
    setattr(model.get_submodule(parent), child, own)
    loss_of(model(**inputs())).backward()
    assert all(p.grad is not None for p in own.parameters())


# -- pipelines -----------------------------------------------------------------------------------------------------

CAT = Path(hierax.__file__).parent / "assets" / "cat.jpg"


@pytest.mark.parametrize("name", ["UperNet", "Mask2Former"])
def test_pipelines_segment_with_a_saved_model(name: str, tmp_path: Path) -> None:
    build(name, backbone_config(name)).save_pretrained(tmp_path)
    transformers.SegformerImageProcessor(size={"height": 96, "width": 96}).save_pretrained(tmp_path)
    if name == "Mask2Former":
        transformers.Mask2FormerImageProcessor(size={"height": 96, "width": 96}).save_pretrained(tmp_path)
    segment = transformers.pipeline("image-segmentation", model=str(tmp_path))
    assert any(isinstance(m, HieraxBackbone) for m in segment.model.modules())
    answers: Any = segment(str(CAT), subtask="semantic")
    with Image.open(CAT) as image:
        assert answers
        assert all(answer["mask"].size == image.size for answer in answers)


@pytest.mark.parametrize("name", ["DETR", "RT-DETR"])
def test_pipelines_detect_with_a_saved_model(name: str, tmp_path: Path) -> None:
    build(name, backbone_config(name)).save_pretrained(tmp_path)
    of_model = transformers.DetrImageProcessor if name == "DETR" else transformers.RTDetrImageProcessor
    of_model(size={"height": 96, "width": 96}, do_pad=False).save_pretrained(tmp_path)
    detect = transformers.pipeline("object-detection", model=str(tmp_path))
    assert any(isinstance(m, HieraxBackbone) for m in detect.model.modules())
    answers: Any = detect(str(CAT), threshold=0.0)
    assert len(answers) == 6
    assert set(answers[0]["box"]) == {"xmin", "ymin", "xmax", "ymax"}
