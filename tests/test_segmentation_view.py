"""An image and the classes of its pixels are cropped, mirrored and resized as one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hierax.data import Augmentation, EvaluationView, Order, SampleKey, TrainingLoader, TrainingView, evaluation_loader
from hierax.data.augment import COLOR_OPERATIONS, OPERATIONS, jitter_crop
from hierax.data.dataset import IGNORE, Sample, Subset
from hierax.data.partial_decode import read_part
from hierax.data.segmentation.dataset import SegmentationDataset
from hierax.data.segmentation.masks import Mask
from hierax.data.segmentation.numbering import Numbering
from hierax.data.view import Example, Unreadable
from hierax.processing import Preprocessing
from samples import Listed, encoded, picture
from small import fresh_seed


class Drawn:
    """Images and masks that are given."""

    def __init__(self, pairs: list[tuple[Any, np.ndarray]]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        return f"s{index}"

    mask_name = name

    def image(self, index: int) -> Any:
        return self.pairs[index][0]

    def mask(self, index: int) -> Mask:
        return Mask(self.pairs[index][1])


def dataset(*pairs: tuple[Any, np.ndarray]) -> SegmentationDataset:
    return SegmentationDataset(Drawn(list(pairs)), Numbering(), tuple(map(str, range(255))))


def training(*pairs: tuple[Any, np.ndarray], size: tuple[int, int], **changes: Any) -> TrainingView:
    return TrainingView(dataset(*pairs), Augmentation(size, **changes), seed=0)


def seen(view: Any, key: Any) -> Example:
    found = view[key]
    assert isinstance(found, Example), found
    return found


def ramp(height: int, width: int, axis: int, *, step: int = 1) -> tuple[Image.Image, np.ndarray]:
    """An image whose gray level is its row or column divided by `step`, and a target that says the same."""
    values = (np.indices((height, width))[axis] / step).round().astype(np.uint8)
    return Image.fromarray(np.repeat(values[:, :, None], 3, axis=2)), values


# -- training ---------------------------------------------------------------------------------------------------------


def test_a_crop_that_is_not_resized_is_exact_in_image_and_target() -> None:
    image = picture(40, 60)
    target = np.asarray(image)[:, :, 0] // 2  # the target is drawn from the image itself
    view = training((encoded(image), target), size=(40, 40), crop_scale=None)
    mirrored = set()
    for epoch in range(20):
        found = seen(view, SampleKey(0, epoch))
        assert found.target is not None
        assert found.target.flags.c_contiguous
        assert np.array_equal(found.pixels[0] // 2, found.target)
        mirrored.add(bool((found.target == target[:, 10:50]).all()))
    assert mirrored == {True, False}


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("scale", [(0.1, 0.9), (0.5, 3.0)])
def test_a_target_stays_on_its_image_in_crops_flips_and_jitter(axis: int, scale: tuple[float, float]) -> None:
    image, target = ramp(200, 240, axis)
    view = training((encoded(image), target), size=(64, 80), crop_scale=scale)
    for epoch in range(40):
        found = seen(view, SampleKey(0, epoch))
        assert found.target is not None
        inside = found.target != IGNORE
        apart = (found.pixels[0].astype(int) - found.target)[inside]
        assert np.abs(apart).max() <= 3  # a pixel of the result is up to 5 of the image
        assert abs(apart.mean()) < 0.3


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_a_target_stays_on_a_jpeg_that_is_decoded_at_a_smaller_scale(axis: int, tag: int, shrink: int) -> None:
    """Also one that is turned, and whose size is no multiple of any scale."""
    upright, target = ramp(451, 603, axis, step=3)
    turned = {  # what undoes each orientation
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = tag
    stored = upright if tag == 1 else upright.transpose(turned[tag])
    data = encoded(stored, "JPEG", exif=exif, quality=98, subsampling=0)
    for box in ((3, 5, 440, 590), (8, 11, 443, 592)):
        size = (box[2] // (2 * shrink), box[3] // (2 * shrink))
        found = read_part(data, channels=3, name="x", part=lambda *_, box=box: box, size=size)
        part = found.of_target(target, fill=IGNORE).astype(int)
        apart = (found.pixels[:, :, 0].astype(int) - part)[1:-1, 1:-1]
        assert abs(apart.mean()) < 0.35  # of 3 pixels: a shift of two would show
        assert np.abs(apart).max() <= 3


def test_outside_of_an_image_is_the_mean_color_and_no_class() -> None:
    image = Image.new("RGB", (20, 20), (250, 10, 10))
    found = seen(training((image, np.zeros((20, 20), np.uint8)), size=(40, 40), crop_scale=(4, 4)), SampleKey(0, 0))
    assert found.target is not None
    outside = found.target == IGNORE
    assert 0.6 < outside.mean() < 0.9
    assert (found.pixels[:, outside] == np.array([124, 116, 104])[:, None]).all()
    assert (found.pixels[:, ~outside] == np.array([250, 10, 10])[:, None]).all()


def test_a_part_beyond_the_image_fills_the_rest_for_any_channels() -> None:
    for channels, color in ((1, 116), (4, None)):
        image = np.full((8, 8, channels), 40, np.uint8)
        found = read_part(
            Image.fromarray(image.squeeze()), channels=channels, name="x", part=lambda *_: (-8, 2, 16, 4), size=(16, 4)
        )
        assert (found.pixels[8:] == 40).all()
        assert (found.pixels[:8] == (40 if color is None else color)).all()
        assert (found.inside, found.box) == ((8, 0, 16, 4), (0, 2, 8, 4))


def test_jitter_is_anywhere_inside_or_around_the_image() -> None:
    random = np.random.default_rng(fresh_seed())
    boxes = np.array([jitter_crop(random, 40, 60, scale=(0.2, 4.0), ratio=(0.7, 1.4)) for _ in range(2000)])
    top, left, height, width = boxes.T
    shares = height * width / 2400
    assert 0.15 < shares.min() < 0.3
    assert 3.7 < shares.max() < 4.3
    for start, length, whole in ((top, height, 40), (left, width, 60)):
        larger = length > whole
        assert (start[~larger] >= 0).all()
        assert ((start + length)[~larger] <= whole).all()
        assert (start[larger] <= 0).all()
        assert ((start + length)[larger] >= whole).all()


def test_only_colors_change_in_images_whose_pixels_have_classes() -> None:
    assert set(OPERATIONS) - set(COLOR_OPERATIONS) == {"rotate", "shear_x", "shear_y", "translate_x", "translate_y"}
    image = picture(32, 32)
    view = training((image, np.zeros((32, 32), np.uint8)), size=(32, 32), crop_scale=None, flip=False, erasing=1.0)
    assert np.array_equal(seen(view, SampleKey(0, 0)).pixels, np.asarray(image).transpose(2, 0, 1))
    halves = Image.fromarray(np.repeat(np.repeat([[[0] * 3, [200] * 3]], 16, axis=1), 32, axis=0).astype(np.uint8))
    view = training(
        (halves, np.zeros((32, 32), np.uint8)), size=(32, 32), crop_scale=None, flip=False, rand_augment=(10.0, 0.0)
    )
    for epoch in range(40):
        pixels = seen(view, SampleKey(0, epoch)).pixels.astype(int)
        for half in (pixels[:, 2:-2, 2:14], pixels[:, 2:-2, 18:-2]):
            assert (half == half[:, :1, :1]).all()  # no border came into a half


def test_crops_beyond_the_image_are_for_targets_alone() -> None:
    with pytest.raises(ValueError, match=r"crop_scale is \(0.5, 2\); expected numbers of at most 1 for data without"):
        TrainingView(Listed([picture()]), Augmentation((16, 16), crop_scale=(0.5, 2)), seed=0)
    with pytest.raises(ValueError, match=r"crop_scale is \(0.5, 5\); .*at most 4 for segmentation"):
        Augmentation((16, 16), crop_scale=(0.5, 5))


def test_a_target_of_another_size_is_named_with_both_sizes() -> None:
    expected = "the image has 32 x 24 pixels, its mask 24 x 32; expected the same size"
    pair = (encoded(picture(24, 32), "JPEG"), np.zeros((32, 24), np.uint8))
    for view, key in ((training(pair, size=(16, 16)), SampleKey(0, 0)), (evaluation(dataset(pair), 16), 0)):
        found = view[key]  # type: ignore[index]
        assert isinstance(found, Unreadable)
        assert (found.name, found.problem) == ("s0", expected)


# -- evaluation and batches -------------------------------------------------------------------------------------------


def evaluation(data: Any, edge: int) -> EvaluationView:
    return EvaluationView(data, Preprocessing().whole(edge), size=(edge, edge))


def test_evaluation_sees_the_whole_image_and_the_target_in_its_own_size() -> None:
    image, target = ramp(60, 90, 1)
    found = seen(evaluation(dataset((image, target)), 32), 0)
    assert found.pixels.shape == (3, 32, 48)
    assert np.array_equal(found.target, target)  # type: ignore[arg-type]


def test_batches_have_targets_of_whole_numbers() -> None:
    pairs = [ramp(40, 50, seed % 2) for seed in range(4)]
    data = dataset(*pairs)
    loader = TrainingLoader(TrainingView(data, Augmentation((16, 24)), seed=0), Order(4, 2, 0), epochs=1)
    for (batch,) in loader:
        assert batch.targets is not None
        assert (tuple(batch.targets.shape), str(batch.targets.dtype)) == ((2, 16, 24), "torch.int64")
    for batch in evaluation_loader(evaluation(data, 16), batch=2):
        assert batch.targets is not None  # type: ignore[union-attr]
        assert tuple(batch.targets.shape) == (2, 40, 50)  # type: ignore[union-attr]


def test_whole_images_of_several_sizes_need_batches_of_one() -> None:
    data = dataset(ramp(40, 50, 0), ramp(40, 60, 0))
    with pytest.raises(ValueError, match="a batch of 2 images with masks of 2 sizes; expected batch=1"):
        list(evaluation_loader(evaluation(data, 16), batch=2))
    assert len(list(evaluation_loader(evaluation(data, 16), batch=1))) == 2


def test_a_subset_has_targets_too() -> None:
    data = Subset(dataset(ramp(40, 50, 0), ramp(20, 30, 0)), [1])
    assert seen(evaluation(data, 16), 0).target.shape == (20, 30)  # type: ignore[union-attr]
    view = TrainingView(data, Augmentation((8, 8), crop_scale=(1, 2)), seed=0)
    assert seen(view, SampleKey(0, 0)).target.shape == (8, 8)  # type: ignore[union-attr]


def test_arrays_have_no_targets() -> None:
    class Arrays(Listed):
        def sample(self, index: int) -> Sample:
            return Sample("s", self.contents[index], None, np.zeros((8, 8), np.uint8))

    found = TrainingView(Arrays([np.zeros((3, 8, 8))]), Augmentation((8, 8)), seed=0)[SampleKey(0, 0)]
    assert isinstance(found, Unreadable)
    assert found.problem == "arrays and videos have no masks; expected images"


def test_the_photo_of_the_demo_keeps_its_target(tmp_path: Path) -> None:
    """A target that was drawn from a photo: where it is bright. Flips, crops and colors leave it where it was."""
    photo = Image.open(Path(__file__).parents[1] / "src" / "hierax" / "assets" / "cat.jpg").convert("RGB")
    gray = np.asarray(photo.convert("L"))
    target = (gray > 128).astype(np.uint8)
    photo.save(tmp_path / "cat.png")
    view = training((str(tmp_path / "cat.png"), target), size=(96, 96), crop_scale=(0.05, 0.2))
    for epoch in range(10):
        found = seen(view, SampleKey(0, epoch))
        bright = found.pixels.transpose(1, 2, 0).astype(float) @ [0.299, 0.587, 0.114] > 128
        assert (bright == found.target).mean() > 0.93
