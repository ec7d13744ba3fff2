"""What can be read as a picture, how each kind becomes RGB, and what the errors say."""

from __future__ import annotations

import io
import os
import pickle
import struct
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from hierax.processing import HieraImageProcessor, ImageError, load_image
from hierax.processing.color import upright_array
from hierax.processing.decode import pillow_is_quiet

WHITE, RED = (255, 255, 255), (200, 30, 40)


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def levels(source: Any, **options: Any) -> np.ndarray:
    return np.asarray(load_image(source, **options))


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


# --- kinds of sources ---


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "QOI", "JPEG2000"])
def test_lossless_files_give_the_pixels_that_were_saved(kind: str, tmp_path: Path) -> None:
    image = picture()
    (tmp_path / "a.dat").write_bytes(encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {})))
    for source in (tmp_path / "a.dat", str(tmp_path / "a.dat"), (tmp_path / "a.dat").read_bytes()):
        assert np.array_equal(levels(source), np.asarray(image))


@pytest.mark.parametrize("kind", ["JPEG", "AVIF", "GIF"])
def test_lossy_files_are_read(kind: str) -> None:
    flat = Image.new("RGB", (40, 30), RED)
    assert np.abs(levels(encoded(flat, kind)).astype(int) - RED).max() <= 4


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_is_read(kind: str) -> None:
    first, second = Image.new("RGB", (40, 30), RED), Image.new("RGB", (40, 30), "blue")
    options = {"lossless": True} if kind == "WEBP" else {}
    file = encoded(first, kind, save_all=True, append_images=[second], **options)
    assert np.array_equal(levels(file), np.asarray(first))


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_orientation_tag_is_applied_once(tag: int, kind: str) -> None:
    image = picture(40, 24)
    file = encoded(image, kind, exif=exif(tag), **({"lossless": True} if kind == "WEBP" else {}))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")
    loaded = load_image(file)
    assert loaded.size == ((40, 24) if tag < 5 else (24, 40))
    assert np.array_equal(np.asarray(loaded), np.asarray(upright))
    opened = Image.open(io.BytesIO(file))
    for again in (loaded, opened, upright):  # a tag that stayed on the result would turn it once more
        assert np.array_equal(levels(again), np.asarray(upright))


@pytest.mark.parametrize("tag", range(1, 9))
def test_arrays_are_turned_as_images_are(tag: int) -> None:
    image = picture(40, 24)
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(image, "PNG", exif=exif(tag)))))
    assert np.array_equal(upright_array(np.asarray(image), tag), np.asarray(turned))


def test_an_image_of_the_caller_is_left_as_it_was() -> None:
    image = Image.open(io.BytesIO(encoded(picture(40, 24), "PNG", exif=exif(6))))
    before = (image.size, image.mode, image.tobytes(), dict(image.info))
    load_image(image)
    assert (image.size, image.mode, image.tobytes(), dict(image.info)) == before
    plain = picture()
    assert load_image(plain) is plain  # no copy where nothing is to do


# --- color modes ---


def test_gray_and_one_bit_are_repeated_in_three_channels() -> None:
    gray = picture().convert("L")
    assert np.array_equal(levels(encoded(gray, "PNG")), np.asarray(gray)[:, :, None].repeat(3, 2))
    bits = gray.convert("1")
    assert np.array_equal(levels(encoded(bits, "PNG")), np.asarray(bits)[:, :, None].repeat(3, 2) * np.uint8(255))


def test_transparency_of_every_kind_is_laid_over_white() -> None:
    rgba = Image.new("RGBA", (4, 4), (*RED, 255))
    rgba.putpixel((0, 0), (1, 2, 3, 0))
    rgba.putpixel((1, 0), (0, 0, 0, 128))
    half = tuple(levels(rgba)[0, 1])
    assert half == (127, 127, 127)
    for source in (rgba, encoded(rgba, "PNG"), encoded(rgba, "WEBP", lossless=True, exact=True), rgba.convert("RGBa")):
        shown = levels(source)
        assert (tuple(shown[0, 0]), tuple(shown[2, 2])) == (WHITE, RED)
    gray = Image.new("LA", (4, 4), (70, 255))
    gray.putpixel((0, 0), (70, 0))
    for source in (gray, encoded(gray, "PNG"), gray.convert("La")):
        assert (tuple(levels(source)[0, 0]), tuple(levels(source)[2, 2])) == (WHITE, (70, 70, 70))


def test_palettes_are_looked_up_with_and_without_transparency() -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([9, 9, 9, *RED])
    palette.putpixel((0, 0), 0)
    for kind in ("PNG", "GIF"):
        assert tuple(levels(encoded(palette, kind))[0, 0]) == (9, 9, 9)
        shown = levels(encoded(palette, kind, transparency=0))
        assert (tuple(shown[0, 0]), tuple(shown[2, 2])) == (WHITE, RED)
    several = levels(encoded(palette, "PNG", transparency=bytes([0, 255])))  # about which Pillow warns
    assert (tuple(several[0, 0]), tuple(several[2, 2])) == (WHITE, RED)


def test_a_key_color_is_transparent() -> None:
    image = Image.new("RGB", (4, 4), RED)
    image.putpixel((0, 0), (1, 2, 3))
    shown = levels(encoded(image, "PNG", transparency=(1, 2, 3)))
    assert (tuple(shown[0, 0]), tuple(shown[2, 2])) == (WHITE, RED)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_gray_is_scaled_and_not_clipped(kind: str) -> None:
    deep = np.array([[0, 257, 128 * 257, 65535], [200, 300, 40000, 65000]], np.uint16)
    assert np.array_equal(levels(encoded(Image.fromarray(deep), kind))[:, :, 0], np.rint(deep / 257).astype(np.uint8))


def test_float_images_are_read_in_either_convention_and_stretched_outside() -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    expected = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for values in (ramp, ramp * 255, ramp * 9000 - 4000, np.where(ramp == 0, np.nan, ramp)):
        source = Image.fromarray(values.astype(np.float32))
        assert np.abs(levels(source)[1:, :, 0].astype(int) - expected[1:]).max() == 0
    assert levels(Image.fromarray(np.full((4, 4), np.nan, np.float32))).max() == 0
    assert levels(encoded(Image.fromarray(ramp), "TIFF")).max() == 255


def test_cmyk_becomes_rgb() -> None:
    ink = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    for source in (ink, encoded(ink, "TIFF"), encoded(ink, "JPEG", quality=100)):
        assert np.abs(levels(source).astype(int) - (255, 0, 0)).max() <= 3


def test_records_that_do_not_convert_refuse_other_modes() -> None:
    processor = HieraImageProcessor(do_convert_rgb=False)
    assert processor(picture()).pixel_values.shape == (1, 3, 224, 224)
    with pytest.raises(ImageError, match=r"image: color mode L; expected .*do_convert_rgb is false"):
        processor(picture().convert("L"))


# --- arrays ---


def test_floats_and_sixteen_bits_agree_with_eight() -> None:
    array = np.asarray(picture(300, 280)) // 2 + 64  # no overshoot, which 8 bits clip between the passes
    processor = HieraImageProcessor(do_normalize=False)
    expected = processor(array).pixel_values
    unit = (array / 255).astype(np.float32)
    same = (unit, unit.astype(np.float64), torch.from_numpy(unit), array.astype(np.uint16) * np.uint16(257))
    for source in same:  # 8 bits round twice by half a level, the first of which bicubic weights amplify by about 1.3
        assert (processor(source).pixel_values - expected).abs().max() < 1.25 / 255
    half = torch.from_numpy(unit).permute(2, 0, 1).bfloat16()
    assert (processor(half).pixel_values - expected).abs().max() < 2 / 255


def test_floats_do_not_overshoot() -> None:
    step = np.repeat(np.array([0, 1], np.float32), 8)[None, :, None].repeat(16, 0)
    pixels = HieraImageProcessor(do_normalize=False)(step).pixel_values
    assert (pixels.min(), pixels.max()) == (0, 1)


def test_values_are_taken_as_they_are_where_the_record_does_not_rescale() -> None:
    array = np.random.default_rng(0).normal(0, 1000, (224, 224, 3)).astype(np.float32)
    processor = HieraImageProcessor(do_resize=False, do_rescale=False, do_normalize=False)
    assert np.array_equal(processor(array).pixel_values[0].permute(1, 2, 0).numpy(), array)


def test_channels_are_found_last_in_arrays_and_first_in_tensors_where_both_fit() -> None:
    array = np.asarray(picture(3, 3))
    processor = HieraImageProcessor()
    expected = processor(Image.fromarray(array)).pixel_values
    assert torch.equal(processor(array).pixel_values, expected)
    assert torch.equal(processor(torch.from_numpy(array.transpose(2, 0, 1).copy())).pixel_values, expected)


def test_gray_arrays_are_repeated_in_three_channels() -> None:
    gray = np.asarray(picture().convert("L"))
    expected = HieraImageProcessor()(Image.fromarray(gray)).pixel_values
    for same in (gray, gray[:, :, None], gray[None], torch.from_numpy(gray.copy())):
        assert torch.equal(HieraImageProcessor()(same).pixel_values, expected)


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.zeros(5, np.uint8), r"shape \[5\]; expected \[height, width, channels\] or"),
        (np.zeros((2, 2, 4, 4, 3), np.uint8), r"shape \[2, 2, 4, 4, 3\]; expected \[height, width, channels\] or"),
        (
            np.zeros((5, 6, 4), np.uint8),
            r"shape \[5, 6, 4\]; expected channels as the first or last axis \(3 or 1\)",
        ),
        (np.full((5, 6, 3), 256), "int64 values from 256 to 256; expected gray levels 0..255"),
        (np.full((5, 6, 3), -1, np.int16), "int16 values from -1 to -1; expected gray levels 0..255"),
        (np.zeros((5, 6, 3), bool), "dtype bool; expected integers or a floating-point dtype"),
        (np.zeros((0, 6, 3), np.uint8), r"no pixels \(shape \[0, 6, 3\]\)"),
        (np.zeros((3, 0, 6), np.uint8), r"no pixels \(shape"),
        (np.full((5, 6, 3), 255.0), r"float values from 255 to 255; expected 0..1"),
        (np.full((5, 6, 3), np.nan), "contains values that are not finite"),
        (torch.zeros(5, 6, 7), r"shape \[5, 6, 7\]; expected channels as the first or last axis"),
    ],
    ids=range(11),
)
def test_arrays_that_are_no_picture_are_refused_with_the_reason(array: Any, problem: str) -> None:
    with pytest.raises(ImageError, match=f"^images\\[1\\]: {problem}"):
        HieraImageProcessor()([picture(), array])


# --- errors ---


def test_files_that_are_no_picture_are_named_with_the_reason(tmp_path: Path) -> None:
    good = encoded(picture(), "PNG")
    (tmp_path / "notes.txt").write_text("Python and BMW are words that begin like pictures")
    (tmp_path / "py.txt").write_text("P5 hello")
    (tmp_path / "bmw.txt").write_text("BMW")
    (tmp_path / "empty.png").touch()
    (tmp_path / "one.png").write_bytes(b"\x89")
    (tmp_path / "cut.png").write_bytes(good[:-200])
    (tmp_path / "cut.jpg").write_bytes(encoded(picture(200, 200), "JPEG")[:-500])
    (tmp_path / "head.png").write_bytes(good[:12])
    (tmp_path / "page.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    expected = {
        "notes.txt": "not an image (PNG, JPEG, WebP, … are read)",
        "py.txt": "not an image (PNG, JPEG, WebP, … are read)",
        "bmw.txt": "not an image (PNG, JPEG, WebP, … are read)",
        "one.png": "not an image (PNG, JPEG, WebP, … are read)",
        "page.eps": "not an image (PNG, JPEG, WebP, … are read)",
        "empty.png": "an empty file",
        "missing.jpg": "no such file",
        "": "a folder, not an image",
        "cut.png": "damaged or truncated",
        "cut.jpg": "damaged or truncated",
        "head.png": "a damaged PNG file",
        "nul\0.png": "cannot be opened",
    }
    for file, problem in expected.items():
        for fast in (False, True):
            path = os.path.join(tmp_path, file)
            with pytest.raises(ImageError) as caught:
                HieraImageProcessor(fast=fast)([path])
            assert str(caught.value).startswith(f"{path}: {problem}")
            assert caught.value.source == path
    with pytest.raises(ImageError, match=r"^image: not an image"):
        load_image(b"hello")


def test_a_png_with_a_wrong_checksum_is_damaged(tmp_path: Path) -> None:
    good = encoded(picture(), "PNG")
    place = good.index(b"IDAT") + 4 + int.from_bytes(good[good.index(b"IDAT") - 4 :][:4], "big")  # of its checksum
    bad = good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]
    Image.open(io.BytesIO(bad)).load()  # Pillow takes it
    for fast in (False, True):
        HieraImageProcessor(fast=fast)(good)
        with pytest.raises(ImageError, match="damaged or truncated"):
            HieraImageProcessor(fast=fast)(bad)


@pytest.mark.parametrize("url", ["http://a.b/c.png", "https://a.b/c.png", "s3://a/c.png", "data:image/png;base64,AAAA"])
def test_urls_are_not_fetched(url: str) -> None:
    with pytest.raises(ValueError, match="URLs are not downloaded"):
        HieraImageProcessor()(url)


def test_what_is_no_picture_at_all_is_named_by_its_type() -> None:
    with pytest.raises(ImageError, match=r"^images\[0\]: dict is not an image; expected a path, bytes, a PIL image"):
        HieraImageProcessor()([{}])  # pyright: ignore[reportArgumentType]


def test_an_image_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(ImageError("a.png", "an empty file")))
    assert (str(error), error.source, error.problem) == ("a.png: an empty file", "a.png", "an empty file")


def png_header(width: int, height: int) -> bytes:
    """A PNG of any size that holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_pictures_of_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    bomb = png_header(20_000, 10_000)
    for fast in (False, True):
        with pytest.raises(ImageError, match="image: larger than --max-pixels 178956970 \\(20000 x 10000 pixels"):
            HieraImageProcessor(fast=fast)(bomb)
    with pytest.raises(
        ImageError, match="image: larger than --max-pixels 1199 \\(40 x 30 pixels; in Python: max_pixels\\)"
    ):
        load_image(picture(), max_pixels=1199)
    assert load_image(encoded(picture(), "PNG"), max_pixels=1200).size == (40, 30)


def test_the_limit_is_ours_alone_and_not_the_one_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert load_image(encoded(picture(), "PNG")).size == (40, 30)
    with pytest.raises(ImageError, match="damaged or truncated"):  # so it went on to decode
        load_image(png_header(20_000, 10_000), max_pixels=None)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_shapes_whose_resize_would_explode_are_refused() -> None:
    for source in (np.zeros((1, 100_000, 3), np.uint8), encoded(Image.new("RGB", (100_000, 1)), "PNG")):
        with pytest.raises(ImageError, match="100000 x 1 pixels would become 25600000 x 256"):
            HieraImageProcessor()(source)
    large = np.zeros((1, 70_000_000, 1), np.uint8)  # nothing is made of a picture that stays as it is
    processor = HieraImageProcessor(do_resize=False, image_mean=[0.5], image_std=[0.5])
    assert processor(large, return_tensors="np").pixel_values.shape == (1, 1, 224, 224)


@pytest.fixture
def broken() -> bytes:
    """A JPEG with a malformed metadata block: Pillow warns of it (here that is an error), and the pixels are fine."""
    file = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0\x01\0\0\0\x01\0")
    with pytest.raises(UserWarning):
        Image.open(io.BytesIO(file)).getexif()
    return file


def test_warnings_of_pillow_stay_inside_until_the_last_reader_leaves(broken: bytes) -> None:
    with pillow_is_quiet():
        with pillow_is_quiet():
            pass
        Image.open(io.BytesIO(broken)).getexif()


def test_warnings_of_pillow_do_not_leak_from_any_thread(broken: bytes) -> None:
    before, failures = list(warnings.filters), []

    def work() -> None:
        try:
            for _ in range(30):
                load_image(broken)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert warnings.filters == before
    with pytest.raises(UserWarning):  # others hear them as before
        Image.open(io.BytesIO(broken)).getexif()
