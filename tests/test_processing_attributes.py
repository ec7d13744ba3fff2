"""Processors as code written for transformers uses them: attributes that are assigned, arguments, integer arrays."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BitImageProcessorPil

import hierax
from hierax import AutoImageProcessor, HieraImageProcessor, HieraVideoProcessor
from hierax.notices import Notice

LEVELS = np.random.default_rng(0).integers(0, 256, (70, 90, 3)).astype(np.uint8)
FRAMES = np.random.default_rng(1).integers(0, 256, (4, 40, 50, 3)).astype(np.uint8)
CHANGES: list[dict[str, Any]] = [
    {"size": 48, "crop_size": 32},
    {"size": {"height": 40, "width": 50}, "do_center_crop": False},
    {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.3, 0.4]},
    {"do_resize": False},
    {"do_rescale": False},
    {"rescale_factor": 1 / 127.5},
    {"do_normalize": False},
    {"resample": 2},
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: "-".join(changes))
def test_attributes_that_are_assigned_act_as_those_of_the_constructor(changes: dict[str, Any]) -> None:
    processor, clips = HieraImageProcessor(size=64, crop_size=48), HieraVideoProcessor(size=64, crop_size=48)
    for name, value in changes.items():
        setattr(processor, name, value)
        setattr(clips, name, value)
    given = {"size": 64, "crop_size": 48, **changes}
    assert processor.record == HieraImageProcessor(**given).record
    torch.testing.assert_close(processor(LEVELS).pixel_values, HieraImageProcessor(**given)(LEVELS).pixel_values)
    torch.testing.assert_close(clips(FRAMES).pixel_values, HieraVideoProcessor(**given)(FRAMES).pixel_values)


def test_an_edge_of_a_size_can_be_assigned() -> None:
    processor = HieraImageProcessor()
    processor.size["shortest_edge"] = 48
    processor.crop_size["height"] = 32
    assert processor.size == {"shortest_edge": 48}
    assert processor.crop_size == {"height": 32, "width": 224}
    assert processor(LEVELS).pixel_values.shape == (1, 3, 32, 224)
    with pytest.raises(ValueError, match=r"size is .*'height': 5.*; expected \{'shortest_edge': pixels\}"):
        processor.size["height"] = 5
    with pytest.raises(TypeError, match=r"size cannot be changed in this way: assign a mapping to processor\.size"):
        processor.size.update(height=3)
    assert processor.size == {"shortest_edge": 48}


def test_a_copy_of_a_size_is_a_plain_dictionary() -> None:
    processor = HieraImageProcessor()
    for copied in (copy.deepcopy(processor.size), pickle.loads(pickle.dumps(processor.size)), dict(processor.size)):
        copied["shortest_edge"] = 1
    assert json.dumps(processor.size) == '{"shortest_edge": 256}'
    assert copy.deepcopy(processor).record == processor.record


def test_a_value_that_cannot_be_assigned_changes_nothing() -> None:
    processor, clips = HieraImageProcessor(), HieraVideoProcessor()
    with pytest.raises(ValueError, match="do_resize is 'no'; expected true or false"):
        processor.do_resize = "no"  # type: ignore[assignment]
    with pytest.raises(ValueError, match="image_std is"):
        processor.image_mean = (0.5,)
    with pytest.raises(ValueError, match="num_frames"):
        clips.record = hierax.Preprocessing()
    assert processor.record == hierax.Preprocessing()
    assert clips.record == HieraVideoProcessor().record


@pytest.mark.parametrize(
    ("given", "fast"),
    [({}, False), ({"use_fast": True}, True), ({"use_fast": False}, False), ({"use_fast": None}, False),
     ({"backend": "torchvision"}, True), ({"backend": "pil", "use_fast": False}, False), ({"fast": True}, True)],
)  # fmt: skip
def test_how_fast_a_processor_is_can_be_said_in_words_of_transformers(given: dict[str, Any], fast: bool) -> None:
    for made in (
        AutoImageProcessor.from_pretrained("hierax/femto", **given),
        HieraImageProcessor.from_pretrained("hierax/femto", **given),
        HieraImageProcessor(**given),
    ):
        assert isinstance(made, HieraImageProcessor)
        assert made.fast is fast
    assert HieraVideoProcessor(**given).fast is (fast or not given or given == {"use_fast": None})


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"use_fast": True, "fast": False}, "fast and use_fast contradict each other"),
        ({"use_fast": "yes"}, "use_fast is 'yes'; expected true or false"),
        ({"backend": "cv2"}, "backend is 'cv2'; expected 'pil'"),
        ({"force_download": True}, "force_download is True; expected False: delete the model from the Hub's cache"),
        ({"subfolder": "x"}, "subfolder is 'x'; expected '': download the folder and give its path"),
        ({"return_unused_kwargs": True}, "return_unused_kwargs is True; expected False"),
        ({"use_auth_token": "a", "token": "b"}, "token and use_auth_token differ"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_what_cannot_be_done_for_code_of_transformers_is_one_sentence(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        AutoImageProcessor.from_pretrained("hierax/femto", **given)


def test_arguments_of_transformers_that_change_nothing_are_taken() -> None:
    given = {"trust_remote_code": True, "force_download": False, "revision": None, "subfolder": "", "proxies": None}
    processor = AutoImageProcessor.from_pretrained("hierax/femto", **given)  # type: ignore[arg-type]
    assert processor(LEVELS, disable_grouping=True, do_pad=False, device="cpu").pixel_values.shape == (1, 3, 160, 160)


def test_pixels_are_put_on_a_device() -> None:
    assert HieraImageProcessor()(LEVELS, device="meta").pixel_values.device.type == "meta"
    assert HieraVideoProcessor()(FRAMES, device="meta").pixel_values.device.type == "meta"
    for made in (HieraImageProcessor(), HieraVideoProcessor()):
        with pytest.raises(ValueError, match="device is 'cpu'; expected None unless return_tensors is 'pt'"):
            made(LEVELS if isinstance(made, HieraImageProcessor) else FRAMES, device="cpu", return_tensors="np")


def test_saving_gives_the_list_of_files_as_transformers_does(tmp_path: Path) -> None:
    for made in (HieraImageProcessor(size=64), HieraVideoProcessor()):
        assert made.save_pretrained(tmp_path, push_to_hub=False) == [str(tmp_path / "preprocessor_config.json")]
        assert json.loads(made.to_json_string()) == made.to_dict()
    with pytest.raises(ValueError, match=r"push_to_hub is True; expected False: call push_to_hub\(repo_id\)"):
        HieraImageProcessor().save_pretrained(tmp_path, push_to_hub=True)
    with pytest.raises(TypeError, match="'folders'"):
        HieraImageProcessor().save_pretrained(tmp_path, folders=1)
    with pytest.raises(NotImplementedError, match="uploaded with its model"):
        HieraImageProcessor().push_to_hub("me/mine")


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint32", "uint64"])
@pytest.mark.parametrize("changes", [{}, {"do_normalize": False}, {"do_resize": False}], ids=str)
def test_integers_of_any_type_are_the_pixels_of_transformers(dtype: str, changes: dict[str, Any]) -> None:
    array = (LEVELS // 2 if dtype == "int8" else LEVELS).astype(dtype)
    ours, theirs = HieraImageProcessor(size=64, crop_size=48), BitImageProcessorPil(size=64, crop_size=48)  # type: ignore[arg-type]
    expected = theirs(array, return_tensors="np", do_convert_rgb=False, image_mean=[0.485, 0.456, 0.406],
                      image_std=[0.229, 0.224, 0.225], **changes)["pixel_values"]  # fmt: skip
    found = ours(array, return_tensors="np", **changes)["pixel_values"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_integers_of_a_tensor_are_gray_levels() -> None:
    processor, pixels = HieraImageProcessor(), HieraImageProcessor()(LEVELS).pixel_values
    torch.testing.assert_close(processor(torch.from_numpy(LEVELS.astype(np.int64))).pixel_values, pixels)
    clip = HieraVideoProcessor()(FRAMES).pixel_values
    torch.testing.assert_close(HieraVideoProcessor()(FRAMES.astype(np.int32)).pixel_values, clip)


def test_values_beyond_gray_levels_are_taken_where_nothing_is_rescaled() -> None:
    processor = HieraImageProcessor(
        do_resize=False,
        do_center_crop=False,
        do_rescale=False,
        image_mean=(0.0,),
        image_std=(2.0,),
        do_convert_rgb=False,
    )
    array = np.arange(-600, 600, dtype=np.int16).reshape(30, 40)
    np.testing.assert_array_equal(processor(array, return_tensors="np").pixel_values[0, 0], array / 2)


def test_gray_levels_in_an_array_of_16_bits_are_said_to_be_nearly_black() -> None:
    with pytest.warns(Notice, match="no value above 255: it is nearly black"):
        HieraImageProcessor()(LEVELS.astype(np.uint16))


@pytest.mark.parametrize("changes", [*CHANGES, {"num_frames": 8, "sampling_rate": 2}], ids=lambda c: "-".join(c))
def test_an_argument_of_a_call_is_that_of_a_video_processor_made_with_it(changes: dict[str, Any]) -> None:
    made = HieraVideoProcessor(**changes)(FRAMES, fps=10.0).pixel_values
    processor = HieraVideoProcessor()
    torch.testing.assert_close(processor(FRAMES, fps=10.0, **changes).pixel_values, made)
    assert processor.record == HieraVideoProcessor().record


def test_an_argument_of_a_call_of_the_video_processor_that_is_no_field_is_named() -> None:
    with pytest.raises(TypeError, match="'do_resise' is not a field"):
        HieraVideoProcessor()(FRAMES, do_resise=False)
