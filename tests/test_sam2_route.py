"""SAM 2 in transformers, fed with the maps of hierax's image encoder, answers as with its own."""

from typing import Any

import pytest
import torch

import hierax
from sam2_small import SIZE, embeddings, small_sam

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own


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
