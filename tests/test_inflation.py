"""A model of clips that begins with the weights of one of pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hierax
from hierax.model.config import HieraConfig
from small import abs_win_config, image_config, video_config


def picture_model(kind: Callable[[HieraConfig], Any], config: HieraConfig) -> Any:
    torch.manual_seed(0)
    model = kind(config).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.preprocessing = hierax.Preprocessing().replace(size=72, crop_size=64)
    return model


POOLINGS = {
    "absolute": image_config(),
    "abs_win": abs_win_config(),
    "two poolings": image_config(num_query_pool=2),
    "no pooling": image_config(num_query_pool=0),
    "units that three poolings do not divide": image_config(num_query_pool=2, masked_unit_size=4),
    "large units": image_config(num_query_pool=1, masked_unit_size=16),
}


@pytest.mark.parametrize("config", POOLINGS.values(), ids=POOLINGS)
@torch.no_grad()
def test_a_clip_in_which_nothing_moves_has_the_features_of_its_picture(config: HieraConfig) -> None:
    model = picture_model(hierax.HieraForImageClassification, config)
    made = hierax.inflate(model, frames=8)
    pixels = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    clip = pixels[:, :, None].expand(-1, -1, 8, -1, -1)
    assert isinstance(made, hierax.HieraForVideoClassification)
    assert torch.allclose(made.pooled(clip), model.pooled(pixels), rtol=0, atol=1e-10)
    assert torch.allclose(made(clip).logits, model(pixels).logits, rtol=0, atol=1e-10)


@torch.no_grad()
def test_the_mean_kernel_sees_a_still_clip_alike_but_at_its_ends() -> None:
    model = picture_model(hierax.HieraModel, image_config())
    made = hierax.inflate(model, frames=8, patch="mean").get_submodule("encoder.patch_embed.proj")
    pixels = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    tokens = made(pixels[:, :, None].expand(-1, -1, 8, -1, -1))
    wanted = model.get_submodule("encoder.patch_embed.proj")(pixels)
    assert torch.allclose(tokens[:, :, 1:].movedim(2, 0), wanted.expand(3, *wanted.shape))
    assert not torch.allclose(tokens[:, :, 0], wanted)


def test_it_is_a_model_of_clips_like_any_other(tmp_path: Path) -> None:
    made = hierax.inflate(picture_model(hierax.HieraForImageClassification, image_config()), frames=8)
    wanted = hierax.HieraForVideoClassification(video_config())
    assert {n: p.shape for n, p in made.state_dict().items()} == {n: p.shape for n, p in wanted.state_dict().items()}
    assert made.config == wanted.config
    made.save_pretrained(tmp_path)
    assert torch.equal(hierax.load(tmp_path, dtype="auto").head.weight, made.head.weight)  # type: ignore[union-attr]


def test_its_record_samples_frames_and_keeps_mean_and_deviation() -> None:
    record = hierax.inflate(picture_model(hierax.HieraModel, image_config()), frames=8).preprocessing
    assert record is not None
    assert (record.num_frames, record.sampling_rate, record.fps) == (8, 4, 30.0)
    assert record.image_mean == hierax.Preprocessing().image_mean


def test_of_a_masked_autoencoder_the_encoder_is_left() -> None:
    model = picture_model(hierax.HieraForPreTraining, image_config(num_query_pool=2))
    made = hierax.inflate(model, frames=8)
    assert type(made) is hierax.HieraModel
    assert made.loading_report is not None
    assert made.loading_report.ignored == ["fusion", "encoder_norm", "decoder"]
    assert made.loading_report.reinitialized == ["norm"]
    assert "ignored: fusion, encoder_norm, decoder" in str(made.loading_report)
    assert torch.equal(made.encoder.blocks[0].norm1.weight, model.encoder.blocks[0].norm1.weight)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"frames": 7}, "frames is 7; expected a multiple of 2"),
        ({"frames": 0}, "frames is 0; expected a multiple of 2"),
        ({"patch": "median"}, "patch is 'median'; expected one of 'center', 'mean'"),
    ],
)
def test_what_cannot_be_is_named(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        hierax.inflate(picture_model(hierax.HieraModel, image_config()), **arguments)


def test_a_model_of_clips_is_refused() -> None:
    with pytest.raises(ValueError, match="takes 3 axes; expected an image model"):
        hierax.inflate(hierax.HieraForVideoClassification(video_config()))
