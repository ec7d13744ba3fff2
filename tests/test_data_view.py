"""What a step sees of a sample, in training and in evaluation."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hierax.data import Augmentation, EvaluationView, SampleKey, TrainingView
from hierax.data.partial_decode import read_crop, resize
from hierax.data.view import Example, Unreadable
from hierax.processing import HieraImageProcessor, ImageError, Preprocessing
from hierax.processing.reading import read_image
from samples import Listed, encoded, picture
from small import fresh_seed

CAT = Path(__file__).parents[1] / "src" / "hierax" / "assets" / "cat.jpg"
PNG = encoded(picture())


def seen(view: Any, key: Any) -> Example:
    found = view[key]
    assert isinstance(found, Example), found
    return found


def problem(view: Any, key: Any) -> str:
    found = view[key]
    assert isinstance(found, Unreadable), found
    return f"{found.name}: {found.problem}"


def training(contents: list[Any], size: tuple[int, ...] = (16, 16), *, seed: int = 0, **changes: Any) -> TrainingView:
    return TrainingView(Listed(contents), Augmentation(size, **changes), seed=seed)


def plain(**changes: Any) -> dict[str, Any]:
    return {"crop_scale": None, "flip": False, **changes}


# -- decoding a part --------------------------------------------------------------------------------------------------


def part_of(source: Any, box: tuple[int, int, int, int], size: tuple[int, int], channels: int = 3) -> np.ndarray:
    return read_crop(source, channels=channels, name="x", part=lambda *_: box, size=size)


def oriented(image: Image.Image, tag: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = tag
    return encoded(image, "JPEG", exif=exif, quality=95)


KINDS = {
    "jpeg": encoded(picture(), "JPEG"),
    "progressive": encoded(picture(), "JPEG", progressive=True),
    "gray": encoded(picture(channels=1), "JPEG"),
    "cmyk": encoded(picture().convert("CMYK"), "JPEG"),
    "rgb": encoded(picture(), "JPEG", keep_rgb=True),
    "png": PNG,
    "alpha": encoded(picture(channels=4)),
    **{f"turned {tag}": oriented(picture(), tag) for tag in range(1, 9)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_is_that_of_the_upright_picture(kind: str, tmp_path: Path) -> None:
    whole = np.asarray(read_image(KINDS[kind], channels=3, name="x", fast=True))
    (tmp_path / "x").write_bytes(KINDS[kind])
    sizes: list[tuple[int, int]] = []

    def part(height: int, width: int) -> tuple[int, int, int, int]:
        sizes.append((height, width))
        return 3, 5, 14, 12

    for source in (KINDS[kind], str(tmp_path / "x")):
        found = read_crop(source, channels=3, name="x", part=part, size=(8, 8))
        assert np.array_equal(found, resize(np.ascontiguousarray(whole[3:17, 5:17]), (8, 8)))
    assert sizes == [whole.shape[:2]] * 2


@pytest.mark.parametrize("tag", [1, 3, 6])
@pytest.mark.parametrize("times", [4, 8])
def test_a_part_much_larger_than_its_target_is_decoded_at_a_smaller_scale(tag: int, times: int) -> None:
    """The photo of the demo, at its own size; a few levels at edges are what two ways of shrinking differ by."""
    photo = Image.open(CAT).convert("RGB").crop((0, 0, 448, 296))
    data = oriented(photo, tag)
    whole = np.asarray(read_image(data, channels=3, name="x", fast=True))
    height, width = whole.shape[0] - 32, whole.shape[1] - 32
    box, size = (16, 16, height, width), (height // times, width // times)
    expected = resize(np.ascontiguousarray(whole[16 : 16 + height, 16 : 16 + width]), size)
    apart = np.abs(part_of(data, box, size).astype(int) - expected)
    assert apart.any()  # it was another way
    assert apart.mean() < 1
    assert np.quantile(apart, 0.98) <= 3


def test_a_part_that_is_moved_to_whole_pixels_stays_inside() -> None:
    """Of 451 x 301 pixels: no multiple of any scale."""
    data = encoded(Image.open(CAT).convert("RGB").resize((451, 301)), "JPEG")
    for box in ((0, 0, 301, 451), (150, 225, 151, 226), (1, 3, 299, 447), (300, 450, 1, 1)):
        for size in ((9, 9), (37, 40), (75, 75)):
            assert part_of(data, box, size).shape == (*size, 3)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_are_read_as_they_are(channels: int) -> None:
    image = picture(channels=channels)
    found = part_of(encoded(image), (0, 0, 24, 32), (24, 32), channels)
    assert np.array_equal(found.squeeze(), np.asarray(image))


def test_damaged_and_oversized_pictures_are_named() -> None:
    cut = encoded(picture(200, 300), "JPEG", quality=95)[:3000]
    header = bytearray(encoded(picture(), "JPEG"))
    place = header.index(b"\xff\xc0")
    header[place + 5 : place + 9] = b"\xff\xff\xff\xff"  # height and width: 65535 each
    for data, text in ((cut, "damaged"), (bytes(header), "max_pixels"), (b"\xff\xd8\xff", "JPEG"), (b"", "empty")):
        with pytest.raises(ImageError, match=f"^x: .*{text}"):
            part_of(data, (0, 0, 8, 8), (8, 8))
    with pytest.raises(ImageError, match="x: no such file"):
        part_of("missing.jpg", (0, 0, 8, 8), (8, 8))


def test_resizing_is_that_of_pillow_within_a_level() -> None:
    photo = Image.open(CAT).convert("RGB")
    theirs = np.asarray(photo.resize((96, 64), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(resize(np.asarray(photo), (64, 96)) - theirs).max() <= 1


def test_resizing_takes_views_that_run_backwards() -> None:
    pixels = np.asarray(picture())
    expected = resize(np.ascontiguousarray(pixels[::-1, ::-1]), (8, 8))
    assert np.array_equal(resize(pixels[::-1, ::-1], (8, 8)), expected)


# -- training ---------------------------------------------------------------------------------------------------------

EVERYTHING: dict[str, Any] = {"rand_augment": (9.0, 0.5), "erasing": 0.5, "mask_units": 4}


def test_a_draw_looks_the_same_whenever_it_is_seen() -> None:
    seed = fresh_seed()
    first, again = (training([PNG, encoded(picture(seed=1))], seed=seed, **EVERYTHING) for _ in range(2))
    draws = [SampleKey(index, epoch, repeat) for index in range(2) for epoch in range(3) for repeat in range(2)]
    forwards = {draw: seen(first, draw) for draw in draws}
    for draw in reversed(draws):
        one = seen(again, draw)
        assert np.array_equal(one.pixels, forwards[draw].pixels)
        assert np.array_equal(one.noise, forwards[draw].noise)  # type: ignore[arg-type]


def test_every_epoch_repeat_and_seed_looks_otherwise() -> None:
    views = [training([PNG], seed=seed, **EVERYTHING) for seed in (1, 2)]
    found = [seen(view, SampleKey(0, epoch, repeat)) for view in views for epoch in range(2) for repeat in range(2)]
    for a, one in enumerate(found):
        for other in found[:a]:
            assert not np.array_equal(one.pixels, other.pixels)
            assert not np.array_equal(one.noise, other.noise)  # type: ignore[arg-type]


def test_masks_do_not_depend_on_how_pictures_are_augmented() -> None:
    few, many = plain(mask_units=6), {**EVERYTHING, "mask_units": 6}
    noise, other = (seen(training([PNG], **changes), SampleKey(0, 3)).noise for changes in (few, many))
    assert noise is not None
    assert other is not None
    assert np.array_equal(noise, other)
    assert (noise.dtype, noise.shape) == (np.float32, (6,))
    assert seen(training([PNG]), SampleKey(0, 3)).noise is None


def test_what_is_seen_are_gray_levels_channels_first() -> None:
    for channels in (1, 3):
        found = seen(training([PNG], (12, 20), channels=channels, **EVERYTHING), SampleKey(0, 0))
        assert (found.pixels.dtype, found.pixels.shape) == (np.uint8, (channels, 12, 20))
        assert found.pixels.flags.c_contiguous
        assert (found.name, found.index) == ("s0", 0)


def test_without_a_crop_the_center_is_seen_in_its_aspect() -> None:
    pixels = np.asarray(picture(24, 32))
    found = seen(training([PNG], (24, 24), **plain()), SampleKey(0, 0)).pixels
    assert np.array_equal(found, pixels[:, 4:28].transpose(2, 0, 1))
    found = seen(training([PNG], (8, 32), **plain()), SampleKey(0, 0)).pixels
    assert np.array_equal(found, pixels[8:16].transpose(2, 0, 1))


def test_half_of_the_pictures_are_mirrored() -> None:
    view = training([PNG], (24, 32), crop_scale=None)
    straight = np.asarray(picture()).transpose(2, 0, 1)
    found = [seen(view, SampleKey(0, epoch)).pixels for epoch in range(400)]
    mirrored = [np.array_equal(one, straight[:, :, ::-1]) for one in found]
    assert all(m or np.array_equal(one, straight) for m, one in zip(mirrored, found, strict=True))
    assert 0.4 < np.mean(mirrored) < 0.6


@pytest.mark.parametrize("size", [(32, 32), (16, 64)])
def test_crops_have_the_shares_and_aspects_that_are_asked_for(size: tuple[int, int]) -> None:
    """Read off a picture whose levels are its coordinates; the aspect is within 3/4 and 4/3 of that of the target."""
    y, x = np.mgrid[0:250, 0:250]
    image = Image.fromarray(np.stack([y, x, 0 * x], axis=2).astype(np.uint8))
    view = training([image], size, crop_scale=(0.1, 0.2), flip=False)
    shares, aspects = [], []
    for epoch in range(200):
        rows, columns, _ = seen(view, SampleKey(0, epoch)).pixels.astype(float)
        # between the centers of the first and the last pixel lies one less than all of them
        height = np.ptp(rows.mean(1)) * size[0] / (size[0] - 1)
        width = np.ptp(columns.mean(0)) * size[1] / (size[1] - 1)
        shares.append(height * width / 250**2)
        aspects.append(width / height / (size[1] / size[0]))
    assert 0.09 < min(shares) < 0.12
    assert 0.18 < max(shares) < 0.21
    assert 0.7 < min(aspects) < 0.85
    assert 1.2 < max(aspects) < 1.42


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"crop_scale": (0.5, 0.2)}, r"crop_scale is \(0.5, 0.2\)"),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale"),
        ({"rand_augment": (11.0, 0.5)}, "a magnitude from 0 to 10"),
        ({"rand_augment": (9.0, 0.5), "channels": 4}, "rand_augment needs 1 or 3 channels, not 4"),
        ({"erasing": 1.5}, "erasing is 1.5; expected a number from 0 to 1"),
    ],
)
def test_augmentation_that_cannot_be_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Augmentation((16, 16), **changes)


@pytest.mark.parametrize("size", [(64,), (4, 16, 16)])
def test_pictures_are_refused_for_models_of_other_axes(size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"the data is images; the model takes {len(size)} axes"):
        training([PNG], size)
    with pytest.raises(ValueError, match="the data is images"):
        EvaluationView(Listed([PNG]), Preprocessing(), size=size)


# -- what cannot be read ----------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_named_with_its_problem(tmp_path: Path) -> None:
    contents = [b"no picture", str(tmp_path / "x.jpg"), OSError("no\nconnection"), None]
    for view, keys in (
        (training(contents), [SampleKey(i, 0) for i in range(4)]),
        (evaluation(contents, 16), list(range(4))),
    ):
        assert problem(view, keys[0]).startswith("s0: not an image")
        assert problem(view, keys[1]) == "s1: no such file"
        assert problem(view, keys[2]) == "sample 2: no connection"
        assert problem(view, keys[3]).startswith("s3: NoneType is not an image")


def test_a_bad_sample_is_replaced_by_the_next_of_its_part() -> None:
    good = [encoded(picture(seed=seed)) for seed in range(5)]
    view = training([b"bad", good[1], b"bad", b"bad", good[4], b"bad"])
    found = view.__getitems__([SampleKey(index, 2) for index in range(6)])
    assert [one.index for one in found.examples] == [1, 1, 4, 4, 4, 1]  # after the last comes the first
    assert [one.index for one in found.bad] == [0, 2, 3, 5]
    assert np.array_equal(found.examples[0].pixels, seen(view, SampleKey(1, 2)).pixels)


def test_a_part_of_bad_samples_alone_goes_on_in_the_dataset() -> None:
    view = training([PNG, b"bad", b"bad", b"bad"])
    found = view.__getitems__([SampleKey(2, 1)])
    assert [one.index for one in found.examples] == [0]
    assert sorted(one.index for one in found.bad) == [2, 3]
    assert training([b"bad"] * 3).__getitems__([SampleKey(0, 0)]).examples == []


# -- evaluation -------------------------------------------------------------------------------------------------------


def record(size: int = 24, crop: int = 16, **changes: Any) -> Preprocessing:
    return Preprocessing().replace(size=size, crop_size=crop, **changes)


def evaluation(contents: list[Any], crop: int, **changes: Any) -> EvaluationView:
    return EvaluationView(Listed(contents), record(crop * 3 // 2, crop, **changes), size=(crop, crop))


@pytest.mark.parametrize("size", [(60, 80), (200, 90), (20, 20), (16, 300)])
@pytest.mark.parametrize("resize", [24, 16, 12])
def test_evaluation_sees_what_the_processor_makes(size: tuple[int, int], resize: int) -> None:
    """Also where the crop is larger than the picture, and the rest is black."""
    data = encoded(picture(*size), "JPEG")
    chosen = record(resize)
    found = seen(EvaluationView(Listed([data]), chosen, size=(16, 16)), 0).pixels
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (chosen.image_mean, chosen.image_std))
    expected = HieraImageProcessor(chosen, fast=True)(data, return_tensors="np")["pixel_values"][0]
    assert np.abs((found / np.float32(255) - mean) / std - expected).max() < 1e-5


def test_evaluation_always_sees_the_same() -> None:
    view = evaluation([PNG], 16)
    assert np.array_equal(seen(view, 0).pixels, seen(view, 0).pixels)


def test_a_record_of_another_size_is_refused() -> None:
    for chosen in (record(), record(do_center_crop=False), record(do_center_crop=False, do_resize=False)):
        with pytest.raises(
            ValueError, match=r"the images have .* after preprocessing; expected height and width \(32, 32\)"
        ):
            EvaluationView(Listed([PNG]), chosen, size=(32, 32))


def test_a_record_that_squeezes_needs_no_crop() -> None:
    chosen = record(do_center_crop=False).replace(size={"height": 16, "width": 16})
    assert seen(EvaluationView(Listed([PNG]), chosen, size=(16, 16)), 0).pixels.shape == (3, 16, 16)


def test_a_picture_too_long_to_be_resized_is_unreadable() -> None:
    stream = io.BytesIO()
    Image.new("L", (60_000, 1)).save(stream, "PNG")
    view = EvaluationView(Listed([stream.getvalue()]), record(224, 224), size=(224, 224))
    assert "too long and narrow" in problem(view, 0)


# -- arrays -----------------------------------------------------------------------------------------------------------

SHAPES = {"signal": (3, 40), "map": (5, 20, 24), "volume": (1, 8, 10, 12)}


def array(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float64).reshape(shape)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_evaluation_sees_the_center_of_arrays(shape: tuple[int, ...]) -> None:
    size = tuple(n - 4 for n in shape[1:])
    found = seen(EvaluationView(Listed([array(shape)]), Preprocessing(), size=size), 0).pixels
    assert found.dtype == np.float32
    assert np.array_equal(found, array(shape)[(slice(None), *[slice(2, -2)] * len(size))])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_training_sees_any_part_of_arrays_and_its_mirror(shape: tuple[int, ...]) -> None:
    """The first value says where the part begins, for every value is another."""
    size = tuple(n - 1 for n in shape[1:])
    view = training([array(shape)], size, channels=shape[0])
    starts = set()
    for epoch in range(200):
        found = seen(view, SampleKey(0, epoch)).pixels
        assert found.shape == (shape[0], *size)
        mirrored = found[(0,) * found.ndim] > found[(*(0,) * (found.ndim - 1), -1)]
        first = (found[..., ::-1] if mirrored else found)[(0,) * found.ndim]
        starts.add((bool(mirrored), float(first)))
    assert len(starts) == 2 * 2 ** len(size)


def test_without_a_crop_training_sees_the_center_of_arrays() -> None:
    found = seen(training([array((3, 40))], (36,), **plain()), SampleKey(0, 5)).pixels
    assert np.array_equal(found, array((3, 40))[:, 2:-2])


def test_whole_numbers_become_floats() -> None:
    found = seen(training([np.full((3, 8), 200, np.uint8)], (8,), **plain()), SampleKey(0, 0)).pixels
    assert (found.dtype, float(found.max())) == (np.float32, 200.0)


def test_arrays_that_do_not_fit_are_named() -> None:
    good = np.zeros((3, 20))
    bad = [np.zeros((2, 20)), np.zeros((3, 9)), np.zeros((3, 20, 20)), np.full((3, 20), np.nan), np.zeros(())]
    texts = ["shape [2, 20]; expected [3, 16]", "expected at least 16 on axis 1", "[3, 20, 20]", "not finite", "[]"]
    contents = [good, *bad]
    views = training(contents, (16,)), EvaluationView(Listed(contents), Preprocessing(), size=(16,))
    for i, text in enumerate(texts, start=1):
        assert text in problem(views[0], SampleKey(i, 0))
        assert text in problem(views[1], i)


def test_labels_go_along() -> None:
    several = np.array([0, 1], np.float32)
    for label in (3, several, None):
        dataset = Listed([PNG], [label])
        found = seen(TrainingView(dataset, Augmentation((16, 16)), seed=0), SampleKey(0, 0))
        assert found.label is label
