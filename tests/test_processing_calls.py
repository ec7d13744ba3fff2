"""What a call of the processor takes beside the images: the arguments of transformers' processors."""

from typing import Any

import numpy as np
import pytest
import torch

import hierax
from hierax import HieraImageProcessor

ARRAY = np.random.default_rng(0).random((70, 90, 3), dtype=np.float32)


@pytest.mark.parametrize(
    "given",
    [
        {"do_rescale": False},
        {"do_resize": False},
        {"size": {"height": 64, "width": 48}, "do_center_crop": False},
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
        {"do_center_crop": False},
        {"do_normalize": False},
        {"image_mean": [0.5] * 3, "image_std": [0.25] * 3},
        {"resample": 2},
        {"rescale_factor": 1 / 127.5},
    ],
)
def test_an_argument_of_a_call_is_that_of_a_processor_made_with_it(given: dict[str, Any]) -> None:
    made = HieraImageProcessor(**given)(ARRAY).pixel_values
    processor = HieraImageProcessor()
    torch.testing.assert_close(processor(ARRAY, **given).pixel_values, made, rtol=0, atol=0)
    torch.testing.assert_close(processor.preprocess(ARRAY, **given).pixel_values, made, rtol=0, atol=0)
    assert processor.record == hierax.Preprocessing()


def test_values_that_the_caller_scaled_are_normalized_alone() -> None:
    processor = HieraImageProcessor(do_resize=False, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    pixels = processor(ARRAY, do_rescale=False, return_tensors="np").pixel_values
    np.testing.assert_allclose(pixels[0], (ARRAY.transpose(2, 0, 1) - 0.5) / 0.25, atol=1e-6)


def test_none_replaces_nothing() -> None:
    processor = HieraImageProcessor()
    torch.testing.assert_close(processor(ARRAY, do_resize=None, size=None).pixel_values, processor(ARRAY).pixel_values)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_an_ambiguous_shape_is_read_as_input_data_format_says(kind: Any) -> None:
    processor = HieraImageProcessor(do_resize=False, do_center_crop=False, do_normalize=False)
    array = np.random.default_rng(1).random((3, 5, 3), dtype=np.float32)
    last = processor(kind(array), input_data_format="channels_last", return_tensors="np").pixel_values[0]
    first = processor(kind(array), input_data_format="channels_first", return_tensors="np").pixel_values[0]
    np.testing.assert_allclose(last, array.transpose(2, 0, 1), atol=1e-6)
    np.testing.assert_allclose(first, array, atol=1e-6)


def test_what_is_no_argument_is_named() -> None:
    with pytest.raises(TypeError, match="'do_resise' is not a field of the preprocessing record"):
        HieraImageProcessor()(ARRAY, do_resise=False)
    with pytest.raises(ValueError, match="rescale_factor is 'x'"):
        HieraImageProcessor()(ARRAY, rescale_factor="x")
    with pytest.raises(ValueError, match="input_data_format is 'HWC'; expected 'channels_first'"):
        HieraImageProcessor()(ARRAY, input_data_format="HWC")  # type: ignore[arg-type]


def test_the_text_of_a_processor_shows_what_differs_from_the_defaults() -> None:
    assert repr(HieraImageProcessor()) == "HieraImageProcessor()"
    other = HieraImageProcessor(size=181, fast=True, max_pixels=None)
    assert repr(other) == "HieraImageProcessor(size={'shortest_edge': 181}, fast=True, max_pixels=None)"
