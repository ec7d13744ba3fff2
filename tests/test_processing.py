"""The image processor: pixels equal to transformers', the fast path close to them, the batch it returns."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BitImageProcessorPil
from transformers.utils import logging as transformers_logging

from hierax.processing import (
    IMAGENET,
    AutoImageProcessor,
    BatchFeature,
    HieraImageProcessor,
    Preprocessing,
    decode,
    geometry,
)
from hierax.processing.processor import Field, RecordedProcessor

MEAN_STD = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
LEVELS: dict[str, Any] = {"do_rescale": False, "do_normalize": False}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Black and white noise: where clipping and the order of the passes show most."""
    levels = np.random.default_rng(seed).integers(0, 2, (height, width, 3)) * 255
    return Image.fromarray(levels.astype(np.uint8))


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth shapes under a little grain."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8))
    levels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((levels + rng.integers(-8, 9, levels.shape)).clip(0, 255).astype(np.uint8))


def theirs(image: Any, **fields: Any) -> torch.Tensor:
    transformers_logging.set_verbosity_error()
    values: dict[str, Any] = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
    return BitImageProcessorPil(**{**values, **MEAN_STD, **fields})(images=image, return_tensors="pt")["pixel_values"]


def exact_levels(image: Any) -> torch.Tensor:
    return HieraImageProcessor(**LEVELS)(image).pixel_values


def fast_levels(image: Any) -> torch.Tensor:
    return HieraImageProcessor(fast=True, **LEVELS)(image).pixel_values


SIZES = [
    *((500, 375), (375, 500), (501, 333), (333, 501), (257, 255), (224, 224), (256, 256)),
    *((640, 480), (480, 640), (600, 400), (400, 600), (320, 256), (1280, 720), (720, 1280)),
    *((17, 23), (1, 1), (1, 7), (33, 500), (500, 33), (262, 862), (200, 700), (1700, 1290)),
]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pixels_equal_transformers_bit_for_bit_at_every_shape(width: int, height: int) -> None:
    image = noise(width, height)
    assert torch.equal(HieraImageProcessor()(image).pixel_values, theirs(image))


@pytest.mark.parametrize("resample", range(6))
@pytest.mark.parametrize(("width", "height"), [(300, 200), (211, 305), (90, 61), (1000, 750)])
def test_pixels_equal_transformers_bit_for_bit_with_every_interpolation(resample: int, width: int, height: int) -> None:
    image = noise(width, height)
    ours = HieraImageProcessor(resample=resample)(image).pixel_values
    assert torch.equal(ours, theirs(image, resample=resample))


@pytest.mark.parametrize(
    "fields",
    [
        {"size": {"shortest_edge": 100}, "crop_size": {"height": 224, "width": 224}},
        {"size": {"shortest_edge": 101}, "crop_size": {"height": 200, "width": 131}},
        {"size": {"shortest_edge": 117}, "crop_size": {"height": 64, "width": 223}},
        {"size": {"height": 120, "width": 77}, "crop_size": {"height": 100, "width": 100}},
        {"do_resize": False},
        {"do_center_crop": False},
        {"do_normalize": False},
        {"do_rescale": False},
        {"rescale_factor": 1 / 127.5},
    ],
    ids=str,
)
def test_pixels_equal_transformers_bit_for_bit_whatever_the_record_says(fields: dict[str, Any]) -> None:
    image = noise(301, 222)
    assert torch.equal(HieraImageProcessor(**fields)(image).pixel_values, theirs(image, **fields))


def test_pixels_equal_transformers_at_many_random_shapes_and_records() -> None:
    rng = np.random.default_rng(3)
    for trial in range(60):
        width, height = (int(edge) for edge in rng.integers(8, 420, 2))
        fields: dict[str, Any] = {
            "size": {"shortest_edge": int(rng.choice([256, 128, 64, 37, 100]))},
            "crop_size": {"height": int(rng.choice([224, 97, 64])), "width": int(rng.choice([224, 33, 64]))},
        }
        image = noise(width, height, seed=trial)
        assert torch.equal(HieraImageProcessor(**fields)(image).pixel_values, theirs(image, **fields)), (image, fields)


def test_an_array_and_a_tensor_give_the_pixels_of_the_image() -> None:
    image = noise(1200, 1100)  # over a million pixels: several strips
    pixels = HieraImageProcessor()(image).pixel_values
    array = np.asarray(image)
    for same in (array, array.transpose(2, 0, 1), torch.from_numpy(array.copy()), torch.from_numpy(array.copy()).mT.mT):
        assert torch.equal(HieraImageProcessor()(same).pixel_values, pixels)


def test_the_shortcuts_are_left_alone_with_a_pillow_nobody_has_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    from hierax.processing import resize

    def refuse(*_: object) -> None:
        raise AssertionError("a shortcut was taken")

    monkeypatch.setattr(resize, "_two_passes", refuse)
    with pytest.raises(AssertionError, match="shortcut"):
        HieraImageProcessor()(noise(500, 375))
    monkeypatch.setattr(resize, "_PILLOW", 99)
    assert torch.equal(HieraImageProcessor()(noise(500, 375)).pixel_values, theirs(noise(500, 375)))


def test_the_long_side_and_the_offsets_are_rounded_down() -> None:
    plan = geometry(IMAGENET, height=333, width=500)
    assert (plan.resized_height, plan.resized_width) == (256, 384)  # 384.38
    assert (geometry(IMAGENET.replace(crop_size=223), height=256, width=256).top) == 16  # 16.5
    assert (geometry(IMAGENET.replace(size=100, crop_size=223), height=9, width=9).left) == -62  # -61.5


@pytest.mark.parametrize(("width", "height"), [(600, 451), (451, 600), (1280, 720), (90, 61), (420, 1300)])
def test_the_fast_path_is_within_one_gray_level_of_pillow_on_photographs(width: int, height: int) -> None:
    image = photo(width, height)
    exact, array = exact_levels(image), np.asarray(image)
    flipped = np.ascontiguousarray(array[:, ::-1])[:, ::-1]  # negative strides, which torch refuses
    for same in (image, array, flipped, torch.from_numpy(array.copy()).permute(2, 0, 1)):
        assert (fast_levels(same) - exact).abs().max() <= 1


def test_the_fast_path_is_the_exact_one_near_the_same_size_and_above() -> None:
    for image in (noise(300, 280), noise(90, 61)):
        assert torch.equal(fast_levels(image), exact_levels(image))


def test_the_fast_path_is_rarely_two_gray_levels_off_on_the_worst_noise() -> None:
    off = [(fast_levels(image) - exact_levels(image)).abs() for image in (noise(343, 449, seed) for seed in range(20))]
    differences = torch.stack(off)
    assert 0 < differences.max() <= 2  # no difference at all would mean that it is not the fast path
    assert (differences > 1).float().mean() < 1e-5


@pytest.mark.parametrize("tag", range(1, 9))
def test_the_fast_path_applies_the_orientation_tag(tag: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = tag
    photo(520, 450).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert (fast_levels(tmp_path / "turned.jpg") - exact_levels(tmp_path / "turned.jpg")).abs().max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_the_fast_path_reads_every_kind_of_jpeg(mode: str) -> None:
    file = io.BytesIO()
    photo(520, 450).convert(mode).save(file, "JPEG", progressive=True)
    assert (fast_levels(file.getvalue()) - exact_levels(file.getvalue())).abs().max() <= 1


def test_the_fast_path_decodes_jpegs_with_simplejpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    simplejpeg = pytest.importorskip("simplejpeg")
    file = io.BytesIO()
    photo(120, 90).save(file, "JPEG")
    monkeypatch.setattr(decode, "load", None)  # Pillow's decoder
    assert HieraImageProcessor(fast=True)(file.getvalue()).pixel_values.shape == (1, 3, 224, 224)
    decoded = simplejpeg.decode_jpeg(file.getvalue(), "RGB")
    assert np.array_equal(decoded, np.asarray(Image.open(file)))


def test_the_fast_path_needs_no_simplejpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    photo(120, 90).save(file, "JPEG")
    expected = HieraImageProcessor(fast=True)(file.getvalue()).pixel_values
    monkeypatch.setattr(decode, "simplejpeg", lambda: None)
    assert torch.equal(HieraImageProcessor(fast=True)(file.getvalue()).pixel_values, expected)


def test_a_list_a_batch_and_single_pictures_give_the_same_rows() -> None:
    images = [noise(60, 50, seed) for seed in range(3)]
    processor = HieraImageProcessor()
    rows = torch.cat([processor(image).pixel_values for image in images])
    stacked = np.stack([np.asarray(image) for image in images])
    for batch in (images, tuple(images), stacked, torch.from_numpy(stacked), list(torch.from_numpy(stacked))):
        assert torch.equal(processor(images=batch, return_tensors="pt")["pixel_values"], rows)


def test_return_tensors_choose_the_kind_and_not_the_values() -> None:
    processor, images = HieraImageProcessor(), [noise(60, 50), noise(50, 60)]
    tensor, array, arrays = (processor(images, return_tensors=kind).pixel_values for kind in ("pt", "np", None))
    assert isinstance(tensor, torch.Tensor)
    assert isinstance(array, np.ndarray)
    assert isinstance(arrays, list)
    assert array.dtype == np.float32
    assert np.array_equal(tensor.numpy(), array)
    assert np.array_equal(array, np.stack(arrays))


def test_without_a_crop_pictures_of_different_sizes_come_as_a_list_or_not_at_all() -> None:
    processor, images = HieraImageProcessor(do_center_crop=False), [noise(60, 50), noise(50, 60)]
    assert [one.shape for one in processor(images, return_tensors=None).pixel_values] == [(3, 256, 307), (3, 307, 256)]
    with pytest.raises(ValueError, match=r"images\[1\] has pixels \[3, 307, 256\] and images\[0\] \[3, 256, 307\]"):
        processor(images)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(TypeError, match=r"'sise' is not a field of the preprocessing record \(did you mean size\?\)"):
        HieraImageProcessor(sise=3)
    with pytest.raises(ValueError, match=r"max_pixels is 0; expected"):
        HieraImageProcessor(max_pixels=0)
    with pytest.raises(ValueError, match="images is empty"):
        HieraImageProcessor()([])
    with pytest.raises(ValueError, match="return_tensors is 'tf'; expected"):
        HieraImageProcessor()(noise(9, 9), return_tensors="tf")  # pyright: ignore[reportArgumentType]


def test_the_batch_splats_into_a_model_and_moves() -> None:
    batch = HieraImageProcessor()(noise(60, 50))
    assert (lambda pixel_values: pixel_values)(**batch) is batch.pixel_values
    assert batch.to(torch.bfloat16) is batch
    assert batch.pixel_values.dtype == torch.bfloat16
    assert batch.to("meta", torch.float32).pixel_values.device.type == "meta"
    assert batch["pixel_values"].dtype == torch.float32
    assert BatchFeature(ids=torch.ones(1, dtype=torch.int64)).to(torch.float16).ids.dtype == torch.int64
    with pytest.raises(AttributeError, match="'labels' is not in this batch; it contains pixel_values"):
        _ = batch.labels
    with pytest.raises(TypeError, match="return_tensors='pt'"):
        HieraImageProcessor()(noise(60, 50), return_tensors="np").to("cpu")
    assert isinstance(pickle.loads(pickle.dumps(batch)), BatchFeature)


def test_a_processor_survives_pickling() -> None:
    processor = HieraImageProcessor(size=128, crop_size=96, fast=True)
    again = pickle.loads(pickle.dumps(processor))
    assert (again.record, again.fast) == (processor.record, True)
    assert torch.equal(again(noise(60, 50)).pixel_values, processor(noise(60, 50)).pixel_values)


def test_attributes_are_those_of_transformers() -> None:
    ours, reference = HieraImageProcessor(), BitImageProcessorPil(size={"shortest_edge": 256}, **MEAN_STD)
    for name in [name for name, value in vars(RecordedProcessor).items() if isinstance(value, Field)]:
        if name == "image_processor_type":
            continue  # a class keeps its own name otherwise
        assert getattr(ours, name) == getattr(reference, name), name
    assert ours.model_input_names == reference.model_input_names


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_records_of_any_number_of_channels_take_arrays(channels: int) -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (60, 80, channels), dtype=np.uint8)
    mean, std = rng.random(channels).tolist(), rng.uniform(0.1, 1, channels).tolist()
    record = IMAGENET.replace(size=40, crop_size=32, image_mean=mean, image_std=std)
    for fast in (False, True):
        pixels = HieraImageProcessor(record, fast=fast)(array).pixel_values
        for c in range(channels):
            alone = IMAGENET.replace(size=40, crop_size=32, image_mean=[mean[c]], image_std=[std[c]])
            assert torch.equal(pixels[:, [c]], HieraImageProcessor(alone, fast=fast)(array[:, :, c]).pixel_values)


def test_files_fill_records_of_one_or_four_channels() -> None:
    gray = IMAGENET.replace(image_mean=[0.5], image_std=[0.5])
    image = noise(60, 50)
    assert torch.equal(
        HieraImageProcessor(gray)(image).pixel_values, HieraImageProcessor(gray)(image.convert("L")).pixel_values
    )
    four = HieraImageProcessor(image_mean=[0.5] * 4, image_std=[0.5] * 4)
    rgba = np.random.default_rng(0).integers(0, 256, (50, 60, 4), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(rgba).save(file, "PNG")
    assert torch.equal(four(file.getvalue()).pixel_values, four(rgba).pixel_values)
    with pytest.raises(ValueError, match="image: color mode RGB; expected 4 channels of 8 bits"):
        four(image)


def test_from_pretrained_reads_what_save_pretrained_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hierax.checkpoint

    asked: dict[str, Any] = {}

    def load_preprocessing(source: str | os.PathLike[str], **options: Any) -> Preprocessing:
        asked.update(options)
        return Preprocessing.read(source)

    monkeypatch.setattr(hierax.checkpoint, "load_preprocessing", load_preprocessing, raising=False)
    HieraImageProcessor(size=300).save_pretrained(tmp_path / "new" / "folder")
    processor = AutoImageProcessor.from_pretrained(
        tmp_path / "new" / "folder", revision="main", crop_size=96, fast=True
    )
    assert isinstance(processor, HieraImageProcessor)
    assert processor.size == {"shortest_edge": 300}
    assert processor.crop_size == {"height": 96, "width": 96}
    assert processor.fast
    assert asked == {"revision": "main", "cache_dir": None, "token": None, "local_files_only": False}
    with pytest.raises(TypeError, match="'crop' is not a field"):
        AutoImageProcessor.from_pretrained(tmp_path / "new" / "folder", crop=96)


def test_importing_the_room_loads_neither_torch_nor_transformers() -> None:
    code = "import sys, hierax.processing; print([m for m in ('torch', 'transformers', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
