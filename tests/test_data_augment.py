"""Augmentations, each against a derivation of its own."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hierax.data import augment
from hierax.data.augment import OPERATIONS, center_crop, erase, rand_augment, random_crop
from samples import picture
from small import fresh_seed

GRAY = (124, 116, 104)


def random() -> np.random.Generator:
    return np.random.default_rng(fresh_seed())


def uniform(values: np.ndarray, low: float, high: float) -> bool:
    """Whether the empirical distribution is that of even chances (Kolmogorov-Smirnov, one in some 10^7 fails)."""
    ranks = (np.sort(values) - low) / (high - low)
    even = (np.arange(len(values)) + 0.5) / len(values)
    return bool(np.abs(ranks - even).max() < 3 / math.sqrt(len(values)))


# -- crops ------------------------------------------------------------------------------------------------------------


def test_crops_have_even_areas_log_aspects_and_places() -> None:
    source = random()
    boxes = np.array([random_crop(source, 4000, 4000, scale=(0.1, 0.4)) for _ in range(3000)])
    top, left, height, width = boxes.T.astype(float)
    assert uniform(height * width / 4000**2, 0.1, 0.4)
    assert uniform(np.log(width / height), math.log(3 / 4), math.log(4 / 3))
    assert uniform(top / (4000 - height), 0, 1)
    assert uniform(left / (4000 - width), 0, 1)


def test_crops_of_a_photo_are_those_that_fit_at_the_first_try() -> None:
    """Against all draws at once, of which those that do not fit are thrown away."""
    source, n = random(), 40_000
    area = 375 * 500 * source.uniform(0.08, 1, n)
    aspect = np.exp(source.uniform(math.log(3 / 4), math.log(4 / 3), n))
    width, height = np.sqrt(area * aspect), np.sqrt(area / aspect)
    fits = (width < 500.5) & (height < 375.5)
    boxes = np.array([random_crop(source, 375, 500, scale=(0.08, 1.0)) for _ in range(4000)])
    for ours, theirs in ((boxes[:, 2], height[fits]), (boxes[:, 3], width[fits])):
        assert abs(ours.mean() - theirs.mean()) < 5 * theirs.std() / math.sqrt(4000)
        assert abs(ours.std() - theirs.std()) < 0.05 * theirs.std()


def test_crops_lie_inside() -> None:
    source = random()
    for height, width in ((1, 1), (2, 300), (300, 2), (7, 9)):
        for _ in range(50):
            top, left, h, w = random_crop(source, height, width, scale=(0.08, 1.0))
            assert 0 <= top <= top + h <= height
            assert 0 <= left <= left + w <= width
            assert h > 0
            assert w > 0


@pytest.mark.parametrize(
    ("size", "box"), [((30, 400), (0, 180, 30, 40)), ((400, 30), (180, 0, 40, 30)), ((30, 33), (0, 0, 30, 33))]
)
def test_what_fits_no_crop_is_cropped_at_the_center(size: tuple[int, int], box: tuple[int, ...]) -> None:
    """All of the area in another aspect than the picture's fits never."""
    ratio = (3 / 4, 4 / 3)
    scale = (1.0, 1.0) if size != (30, 33) else (2.0, 2.0)
    assert random_crop(random(), *size, scale=scale, ratio=ratio) == box


@pytest.mark.parametrize(
    ("size", "aspect", "box"),
    [
        ((30, 50), 1.0, (0, 10, 30, 30)),
        ((50, 30), 1.0, (10, 0, 30, 30)),
        ((30, 30), 2.0, (7, 0, 15, 30)),
        ((30, 30), 0.5, (0, 7, 30, 15)),
        ((1, 90), 0.01, (0, 44, 1, 1)),
    ],
)
def test_a_center_crop_is_the_largest_of_its_aspect(size: tuple[int, int], aspect: float, box: tuple[int, ...]) -> None:
    found = center_crop(*size, aspect=aspect)
    assert found[2:] == box[2:]
    assert found[:2] == ((size[0] - box[2]) // 2, (size[1] - box[3]) // 2)


# -- RandAugment ------------------------------------------------------------------------------------------------------


def applied(name: str, image: Image.Image, magnitude: float, *, flip: bool = False) -> np.ndarray:
    return np.asarray(OPERATIONS[name](image, magnitude, flip)).astype(int)


def test_the_operations_are_the_published_fifteen() -> None:
    """Those of "increasing" RandAugment, `inc1`."""
    levels = {"autocontrast", "equalize", "invert", "posterize", "solarize", "solarize_add"}
    enhancements = {"color", "contrast", "brightness", "sharpness"}
    places = {"rotate", "shear_x", "shear_y", "translate_x", "translate_y"}
    assert set(OPERATIONS) == levels | enhancements | places


@pytest.mark.parametrize("magnitude", [0.0, 3.3, 9.0, 10.0])
def test_operations_on_gray_levels_are_their_formulas(magnitude: float) -> None:
    image = picture(40, 50)
    x = np.asarray(image).astype(int)
    keep = max(4 - int(0.4 * magnitude), 1)
    assert (applied("posterize", image, magnitude) == x // 2 ** (8 - keep) * 2 ** (8 - keep)).all()
    threshold = 256 - int(25.6 * magnitude)
    assert (applied("solarize", image, magnitude) == np.where(x < threshold, x, 255 - x)).all()
    raised = np.minimum(x + int(11 * magnitude), 255)
    assert (applied("solarize_add", image, magnitude) == np.where(x < 128, raised, x)).all()
    assert (applied("invert", image, magnitude) == 255 - x).all()


@pytest.mark.parametrize("magnitude", [0.0, 4.0, 9.0, 10.0])
@pytest.mark.parametrize("flip", [False, True])
def test_enhancements_go_that_far_from_the_original_either_way(magnitude: float, flip: bool) -> None:
    image = picture(40, 50)
    x = np.asarray(image).astype(float)
    factor = max(1 - 0.09 * magnitude, 0.1) if flip else 1 + 0.09 * magnitude
    luma = (x @ [0.299, 0.587, 0.114])[..., None]
    for name, dull in (("brightness", 0.0), ("color", luma), ("contrast", luma.mean())):
        expected = (dull + factor * (x - dull)).clip(0, 255)
        assert np.abs(applied(name, image, magnitude, flip=flip) - expected).max() <= 2.5, name


def test_sharpening_moves_away_from_the_blurred_and_blunting_towards_it() -> None:
    image = Image.fromarray(np.pad(np.full((3, 3), 200, np.uint8), 4))
    middle_of_edge = [applied("sharpness", image, 9.0, flip=flip)[4, 5] for flip in (False, True)]
    blurred = (5 * 200 + 3 * 0 + 4 * 200 + 1 * 200) / 13  # weights 1, and 5 at the center: three of nine lie outside
    for value, factor in zip(middle_of_edge, (1.81, 0.19), strict=True):
        assert value == pytest.approx(min(blurred + factor * (200 - blurred), 255), abs=1)


def test_autocontrast_stretches_every_channel_over_all_levels() -> None:
    x = np.asarray(picture(40, 50)).astype(float) / 2 + 30
    image = Image.fromarray(x.astype(np.uint8))
    x = np.asarray(image).astype(float)
    low, high = x.min((0, 1)), x.max((0, 1))
    assert np.abs(applied("autocontrast", image, 9.0) - (x - low) * 255 / (high - low)).max() <= 1


def test_equalising_spreads_the_levels_evenly() -> None:
    levels = (np.arange(64) ** 2 // 40)[None].repeat(64, 0).astype(np.uint8)
    found = applied("equalize", Image.fromarray(levels), 9.0)
    share = np.arange(64) / 63
    assert np.abs(found[0] / 255 - share).max() < 0.12
    assert (np.diff(found[0]) >= 0).all()


@pytest.mark.parametrize("flip", [False, True])
def test_a_translation_moves_by_its_share_of_the_side(flip: bool) -> None:
    """0.45 of the side at magnitude 10; what comes in is ImageNet's mean."""
    image = picture(40, 60)
    x = np.asarray(image).astype(int)
    for name, axis, pixels in (("translate_x", 1, 27), ("translate_y", 0, 18)):
        found = np.moveaxis(applied(name, image, 10.0, flip=flip), axis, 0)
        source = np.moveaxis(x, axis, 0)
        found, source = (found[::-1], source[::-1]) if flip else (found, source)
        assert (found[:-pixels] == source[pixels:]).all()
        assert (found[-pixels:] == GRAY).all()


def ramp(direction: tuple[float, float]) -> Image.Image:
    """Levels that rise along (down, right), 1 per pixel, 127.5 in the middle of 80 x 80."""
    y, x = np.mgrid[0:80, 0:80] - 39.5
    return Image.fromarray((127.5 + direction[0] * y + direction[1] * x).astype(np.uint8)).convert("RGB")


@pytest.mark.parametrize("flip", [False, True])
def test_shears_and_rotations_are_those_of_the_plane(flip: bool) -> None:
    """On a ramp, the level says from where a pixel was taken: shear 0.27 and 27 degrees at magnitude 9."""
    sign = -1 if flip else 1
    y, x = np.mgrid[0:80, 0:80] - 39.5
    middle = (slice(25, 55), slice(25, 55))
    for name, direction, taken in (
        ("shear_x", (0, 1), x + sign * 0.27 * (y + 40)),  # the shear is about the corner
        ("shear_y", (1, 0), y + sign * 0.27 * (x + 40)),
        ("rotate", (0, 1), x * math.cos(math.radians(27)) - y * math.sin(sign * math.radians(27))),
    ):
        found = applied(name, ramp(direction), 9.0, flip=flip)[..., 0]
        assert np.abs(found - (127.5 + taken))[middle].max() <= 1, name


def test_nothing_changes_at_magnitude_0() -> None:
    image = picture(40, 50)
    always = {"autocontrast", "equalize", "invert", "posterize"}
    for name in set(OPERATIONS) - always:
        for flip in (False, True):
            assert (applied(name, image, 0.0, flip=flip) == np.asarray(image)).all(), name


def test_more_magnitude_changes_more() -> None:
    """Of levels; of places, a picture may happen to look like itself further on."""
    image = picture(64, 64)
    for name in ("posterize", "solarize", "solarize_add", "color", "contrast", "brightness", "sharpness"):
        changes = [np.abs(applied(name, image, m) - np.asarray(image)).mean() for m in (0.0, 3.0, 6.0, 9.0)]
        assert changes == sorted(changes), name
        assert changes[0] < changes[-1], name


def test_every_operation_takes_gray_pictures() -> None:
    image = picture(40, 50, channels=1)
    for name in OPERATIONS:
        for flip in (False, True):
            found = OPERATIONS[name](image, 9.0, flip)
            assert (found.mode, found.size) == ("L", image.size), name


def test_two_operations_are_drawn_each_done_with_probability_one_half(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, float, bool]] = []

    def noted(name: str) -> Any:
        def operation(image: Image.Image, magnitude: float, flip: bool) -> Image.Image:
            done.append((name, magnitude, flip))
            return image

        return operation

    monkeypatch.setattr(augment, "OPERATIONS", {name: noted(name) for name in OPERATIONS})
    source, image, runs, counts = random(), picture(4, 4), 6000, Counter()
    for _ in range(runs):
        before = len(done)
        rand_augment(image, source, magnitude=9.0, std=0.5)
        counts[len(done) - before] += 1
    assert [abs(counts[k] / runs - p) < 0.03 for k, p in enumerate((0.25, 0.5, 0.25))] == [True] * 3
    names = Counter(name for name, *_ in done)
    assert set(names) == set(OPERATIONS)
    assert max(abs(count / len(done) - 1 / 15) for count in names.values()) < 0.017
    magnitudes = np.array([magnitude for _, magnitude, _ in done])
    assert abs(np.median(magnitudes) - 9) < 0.05
    assert abs(np.quantile(magnitudes, 0.1587) - 8.5) < 0.06
    assert magnitudes.max() == 10.0  # 9 + 2 deviations, and no more
    assert abs((magnitudes == 10).mean() - 0.0228) < 0.012
    assert abs(np.mean([flip for *_, flip in done]) - 0.5) < 0.035


# -- erasing ----------------------------------------------------------------------------------------------------------


def erased(pixels: np.ndarray, source: np.random.Generator) -> np.ndarray:
    return (erase(pixels, source, probability=1.0) != pixels).any(2)


def test_erasing_paints_one_rectangle_of_the_published_sizes() -> None:
    source = random()
    shares, aspects = [], []
    for _ in range(300):
        rows, columns = np.nonzero(erased(np.full((300, 300, 3), 255, np.uint8), source))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) > 0.9 * height * width  # noise may be 255 as well
        shares.append(height * width / 300**2)
        aspects.append(math.log(width / height))
    assert 0.02 - 0.001 <= min(shares) < 0.05
    assert 0.28 < max(shares) <= 1 / 3 + 0.002
    assert abs(np.mean(aspects)) < 0.2
    assert max(map(abs, aspects)) <= math.log(1 / 0.3) + 0.05


def test_what_is_erased_becomes_noise_of_the_mean_picture() -> None:
    pixels = np.full((200, 200, 3), 255, np.uint8)
    source = random()
    found = [erase(pixels, source, probability=1.0) for _ in range(20)]
    noise = np.concatenate([one[(one != 255).any(2)] for one in found])
    assert abs(noise.mean() - 116) < 3
    assert abs(noise.std() - 57) < 3


def test_erasing_happens_as_often_as_told_and_changes_no_other_picture() -> None:
    pixels, source = np.full((30, 30, 4), 255, np.uint8), random()
    count = sum(erase(pixels, source, probability=0.25) is not pixels for _ in range(2000))
    assert abs(count / 2000 - 0.25) < 0.05
    assert (pixels == 255).all()
    assert erase(pixels, source, probability=0.0) is pixels


def test_a_picture_too_small_to_erase_stays() -> None:
    pixels = np.full((1, 1, 3), 255, np.uint8)
    assert erase(pixels, random(), probability=1.0) is pixels
