"""Clips of other lengths and sizes than a model was made for: maps, gradients, half precision, export."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hierax.model.config import HieraConfig
from hierax.model.tasks import HieraForPreTraining, HieraForVideoClassification
from plain import encoder, every_map, every_stage, plain_maps
from small import fresh_seed, pixels, randomize, relative, video_config

FRAMES = [6, 8, 16, 32]
SIZES = [(160, 160), (224, 224), (256, 320)]
SHAPES = [(frames, *size) for frames in FRAMES for size in SIZES]
COMPARED = [(6, 160, 160), (8, 224, 224), (16, 256, 320), (32, 160, 160)]

# inductor imports a part of PyTorch that PyTorch itself has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


def config(**changes: Any) -> HieraConfig:
    """The sizes of `*_16x224`, but narrow and shallow."""
    return video_config(image_size=(16, 224, 224), depths=(1, 1, 1, 1), **changes)


def classifier() -> Any:
    return randomize(HieraForVideoClassification(config()), 0.2).eval()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_length_and_size_gives_maps_and_gradients(shape: tuple[int, ...]) -> None:
    model = classifier().train()
    x = pixels(model.config, 1, shape, requires_grad=True)
    out = model(x, output_hidden_states=True)
    assert out.reshaped_hidden_states[-1].shape[1:-1] == (shape[0] // 2, shape[1] // 32, shape[2] // 32)
    out.logits.square().sum().backward()
    assert x.grad is not None
    for gradient in (x.grad, *(p.grad for p in model.parameters())):
        assert gradient is not None
        assert gradient.isfinite().all()
        assert gradient.count_nonzero()


@pytest.mark.parametrize("shape", COMPARED, ids=str)
def test_maps_and_gradients_are_those_of_a_plain_implementation(shape: tuple[int, ...]) -> None:
    fresh_seed()
    model = encoder(config()).double()
    x = pixels(model.config, 1, shape, dtype=torch.float64)
    found: list[dict[str, torch.Tensor]] = []
    maps = []
    for run in (lambda: every_map(every_stage(model, x)), lambda: plain_maps(model, x)):
        model.zero_grad()
        maps.append(run())
        maps[-1][-1].square().sum().backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert max(relative(a, b) for a, b in zip(*maps, strict=True)) < 1e-12
    assert found[0].keys() == found[1].keys()
    assert max(relative(found[0][name], found[1][name]) for name in found[0]) < 1e-10


@pytest.mark.parametrize("shape", COMPARED, ids=str)
@torch.no_grad()
def test_half_precision_is_near_full(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = classifier()
    x = pixels(model.config, 2, shape)
    full = model(x).logits
    with torch.autocast("cpu", torch.bfloat16):
        assert relative(model(x).logits, full) < 0.03
    half = model.bfloat16()(x.bfloat16()).logits
    assert half.dtype == torch.bfloat16
    assert relative(half, full) < 0.05


@pytest.mark.parametrize("shape", [(6, 160, 160), pytest.param((16, 256, 320), marks=pytest.mark.slow)], ids=str)
@torch.no_grad()
def test_they_are_exported_with_a_dynamic_batch(shape: tuple[int, ...]) -> None:
    model = classifier().double()
    batch = torch.export.Dim("batch", min=1, max=64)
    example = pixels(model.config, 3, shape, dtype=torch.float64)
    program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},)).module()
    for size in (1, 2, 5):
        x = pixels(model.config, size, shape, dtype=torch.float64)
        assert relative(program(x).logits, model(x).logits) < 1e-10


@pytest.mark.parametrize("shape", [(6, 160, 160), (8, 224, 224), (32, 160, 160)], ids=str)
def test_a_masked_autoencoder_takes_them(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model: Any = randomize(HieraForPreTraining(config(num_query_pool=2, mask_ratio=0.9, decoder_depth=1)), 0.2).train()
    out = model(pixels(model.config, 1, shape))
    units = shape[0] // 2 * (shape[1] // 32) * (shape[2] // 32)
    assert int(out.bool_masked_pos.sum()) == 4 * int(units * (1 - 0.9))  # what is seen, in cells of the decoder
    out.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
