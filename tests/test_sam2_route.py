"""SAM 2 in transformers, fed with the maps of hierax's image encoder, answers as with its own."""

from typing import Any

import pytest
import torch
import transformers

import hierax
from sam2_small import trunk_in_transformers
from small import randomize

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own
SIZE = 256


def small_sam() -> Any:
    trunk = trunk_in_transformers(image_size=[SIZE, SIZE])
    vision = transformers.Sam2VisionConfig(
        backbone_config=trunk,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[SIZE // stride] * 2 for stride in (4, 8, 16)],
    )
    model = transformers.Sam2Model(
        transformers.Sam2Config(vision_config=vision, prompt_encoder_config={"image_size": SIZE})
    ).eval()
    randomize(model)
    return model


def embeddings(sam: Any, maps: Any) -> list[torch.Tensor]:
    """What SAM 2's decoder takes, of the maps of the neck."""
    fine, middle, coarse = maps
    decoder = sam.mask_decoder
    return [decoder.conv_s0(fine), decoder.conv_s1(middle), coarse + sam.no_memory_embedding.view(1, -1, 1, 1)]


def test_masks_and_scores_are_those_of_transformers(tmp_path: Any) -> None:
    sam = small_sam()
    sam.save_pretrained(tmp_path)
    encoder: Any = hierax.load(tmp_path).eval()
    assert isinstance(encoder, hierax.HieraBackbone)
    pixels = torch.randn(1, 3, SIZE, SIZE)
    prompt = {"input_points": torch.tensor([[[[130.0, 90.0]]]]), "input_labels": torch.ones(1, 1, 1, dtype=torch.int)}
    with torch.no_grad():
        expected = sam(pixel_values=pixels, **prompt)
        ours = embeddings(sam, encoder(pixels).feature_maps)
        answer = sam(image_embeddings=ours, **prompt)
    for map_, wanted in zip(ours, expected.image_embeddings, strict=True):
        torch.testing.assert_close(map_, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())
    torch.testing.assert_close(answer.iou_scores, expected.iou_scores, rtol=1e-5, atol=1e-6)
    largest = expected.pred_masks.abs().max().item()
    torch.testing.assert_close(answer.pred_masks, expected.pred_masks, rtol=1e-4, atol=1e-5 * largest)
    assert answer.pred_masks.std() > 0


@pytest.mark.hub
def test_the_published_encoder_finds_the_truck() -> None:
    """The scores that transformers' tests state for one point on its window. They hold within a resize's rounding."""
    from huggingface_hub import hf_hub_download

    try:
        photo = hf_hub_download("hf-internal-testing/sam2-fixtures", "truck.jpg", repo_type="dataset")
        sam: Any = transformers.Sam2Model.from_pretrained("facebook/sam2.1-hiera-tiny").eval()
    except OSError as error:
        pytest.skip(f"the Hub cannot be reached: {error}")
    encoder: Any = hierax.load("facebook/sam2.1-hiera-tiny").eval()
    image = hierax.load_image(photo)
    pixels = hierax.AutoImageProcessor.from_pretrained("facebook/sam2.1-hiera-tiny")(image)["pixel_values"]
    point = [500 * 1024 / image.width, 375 * 1024 / image.height]
    with torch.no_grad():
        out = sam(
            image_embeddings=embeddings(sam, encoder(pixels).feature_maps),
            input_points=torch.tensor([[[point]]]),
            input_labels=torch.ones(1, 1, 1, dtype=torch.int),
        )
    scores = out.iou_scores.flatten().sort(descending=True).values
    torch.testing.assert_close(scores, torch.tensor([0.9547, 0.4932, 0.0427]), rtol=0, atol=0.01)
