"""What a call of the image processor may change, as users of transformers write it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import BitImageProcessorPil

from hierax.processing import IMAGENET, HieraImageProcessor, Preprocessing

MEAN_STD = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
LEVELS = np.random.default_rng(0).integers(0, 256, (70, 90, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    "given",
    [
        {"do_resize": False},
        {"size": {"height": 60, "width": 50}},
        {"size": (60, 50), "do_center_crop": False},
        {"size": {"shortest_edge": 40}, "do_center_crop": False, "resample": 2},
        {"do_center_crop": False},
        {"crop_size": {"height": 30, "width": 45}},
        {"crop_size": 32},
        {"do_rescale": False},
        {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5},
        {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.4, 0.3]},
        {"data_format": "channels_last"},
    ],
)
def test_fields_given_to_a_call_make_the_pixels_of_transformers(given: dict[str, Any]) -> None:
    ours = HieraImageProcessor(size=64, crop_size=48)
    theirs = BitImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 48, "width": 48}, **MEAN_STD)
    image = Image.fromarray(LEVELS)
    expected = theirs(image, return_tensors="np", **{k: v for k, v in given.items() if k != "data_format"})
    pixels = expected["pixel_values"]
    if "data_format" in given:
        pixels = pixels.transpose(0, 2, 3, 1)
    for call in (ours, ours.preprocess):
        np.testing.assert_array_equal(call(image, return_tensors="np", **given)["pixel_values"], pixels)
    assert ours.record == IMAGENET.replace(size=64, crop_size=48)


def test_lists_of_lists_are_taken_one_after_another() -> None:
    processor = HieraImageProcessor(size=32, crop_size=32)
    image = Image.fromarray(LEVELS)
    assert processor([[image, image], [image]])["pixel_values"].shape == (3, 3, 32, 32)


def test_the_text_of_a_record_shows_what_differs_from_the_defaults() -> None:
    assert repr(IMAGENET.replace(do_resize=False)) == "Preprocessing(do_resize=False)"
    assert eval(repr(IMAGENET.replace(crop_size=32))) == Preprocessing(crop_size={"height": 32, "width": 32})


def test_a_data_format_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="data_format is 'HWC'; expected"):
        HieraImageProcessor()(LEVELS, data_format="HWC")  # type: ignore[arg-type]
