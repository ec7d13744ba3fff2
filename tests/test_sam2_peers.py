"""The image encoders of SAM 2 against the packages sam2 and timm, through their own files. Needs both."""
# pyright: reportMissingImports=false

from pathlib import Path
from typing import Any

import pytest
import torch

import hierax
from small import relative

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

STAGES, LEVELS = ("stage1", "stage2", "stage3", "stage4"), ("p1", "p2", "p3")
SIZES = [(224, 224), (256, 256), (320, 480), (96, 64)]
LETTERS = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}


def redraw(model: torch.nn.Module) -> None:
    """Random weights with biases and tables that are not zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 or not ("norm" in name and name.endswith("weight")):
                std = 1.0 if "pos_embed" in name else 0.2 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
                parameter.copy_(std * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("name", LETTERS)
def test_maps_of_stages_and_neck_are_those_of_the_authors(name: str, tmp_path: Path) -> None:
    build = pytest.importorskip("sam2.build_sam").build_sam2
    model: Any = build(f"configs/sam2.1/sam2.1_hiera_{LETTERS[name]}.yaml", device="cpu").eval()
    redraw(model.image_encoder)
    torch.save({"model": model.state_dict()}, tmp_path / f"sam2.1_hiera_{name}.pt")
    ours: Any = hierax.HieraBackbone.from_pretrained(
        tmp_path / f"sam2.1_hiera_{name}.pt", out_features=(*STAGES, *LEVELS)
    ).eval()
    for size in SIZES:
        x = torch.randn(1, 3, *size)
        with torch.no_grad():
            expected = [*model.image_encoder.trunk(x), *model.image_encoder(x)["backbone_fpn"]]
            for map_, wanted in zip(ours(x).feature_maps, expected, strict=True):
                assert relative(map_, wanted) < 1e-5


@pytest.mark.parametrize("name", LETTERS)
def test_maps_of_stages_are_those_of_timm(name: str, tmp_path: Path) -> None:
    model: Any = pytest.importorskip("timm").create_model(f"sam2_hiera_{name}", num_classes=0).eval()
    redraw(model)
    torch.save(model.state_dict(), tmp_path / f"sam2_hiera_{name}.pth")
    ours: Any = hierax.HieraBackbone.from_pretrained(tmp_path / f"sam2_hiera_{name}.pth", out_features=STAGES).eval()
    for size in SIZES:
        x = torch.randn(1, 3, *size)
        with torch.no_grad():
            expected = model.forward_intermediates(x, intermediates_only=True)
            for map_, wanted in zip(ours(x).feature_maps, expected, strict=True):
                assert relative(map_, wanted) < 1e-5
