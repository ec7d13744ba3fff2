"""One geometry for an image, its boxes and its masks; what a model learns of an image."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detection_sets import COLORS, coco_values, drawn, one_file, polygon, write_coco
from hierax.data.order import random_stream
from hierax.detection import DetectionRecipe, ObjectAnnotation, open_detection
from hierax.detection.dataset import AnnotatedImage
from hierax.detection.masks import box_of, decode, encode
from hierax.detection.recipes import choose
from hierax.detection.view import Geometry, Pixels, TrainingView, collate, random_geometry, target, whole_image

PIXELS = Pixels(64, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def recipe(task: str = "detect", **changes: Any) -> DetectionRecipe:
    return choose(task, device="cpu").replace(image_size=64, **changes)


def corners(boxes: torch.Tensor, size: int) -> np.ndarray:
    """Left, top, right, bottom in pixels, of centers and sides relative to the image."""
    x, y, w, h = boxes.numpy().T
    return np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1) * size


@pytest.mark.parametrize("number", range(24))
def test_boxes_follow_their_objects_through_crops_flips_and_shrinking(number: int, tmp_path: Path) -> None:
    """Objects have a color of their own: where it is in the square, there is the box."""
    found = open_detection(one_file(tmp_path, count=3), masks=True).images[1]
    geometry = random_geometry(found, recipe("instances", zoom_out=1.5, crop=0.5), random_stream(0, 1, number))
    square = np.asarray(geometry.image(found.load(), fill=(124, 116, 104)), int)
    color = np.array(COLORS[found.objects[0].label])
    inside = np.abs(square - color).max(-1) < 60
    boxes = target(found, geometry, masks=False)["boxes"]
    planes = target(found, geometry, masks=True)["mask_labels"].numpy().astype(bool)
    if not len(boxes):  # its center was cropped away
        assert inside.mean() < 0.2
        return
    seen = box_of(inside)
    assert seen is not None
    expected = np.array([seen[0], seen[1], seen[0] + seen[2], seen[1] + seen[3]])
    np.testing.assert_allclose(corners(boxes, 64)[0], expected, atol=1.6)
    assert (planes[0] & inside).sum() / (planes[0] | inside).sum() > 0.8


def test_all_kinds_of_geometry_occur(tmp_path: Path) -> None:
    image = open_detection(one_file(tmp_path)).images[1]
    made = [
        random_geometry(image, recipe(zoom_out=1.5, crop=0.5), random_stream(0, 1, number)) for number in range(100)
    ]
    whole = whole_image(image, 64)
    assert {geometry.flip for geometry in made} == {True, False}
    assert any(geometry.source != whole.source for geometry in made)
    assert any(geometry.place != whole.place for geometry in made)
    assert any(geometry == whole for geometry in made)
    plain = recipe(flip=False)
    assert all(random_geometry(image, plain, random_stream(0, 1, number)) == whole for number in range(20))


def test_polygons_and_run_lengths_give_the_same_mask(tmp_path: Path) -> None:
    left, top, wide, high = box = [20, 10, 30, 25]
    mask = np.zeros((60, 80), bool)
    mask[top : top + high, left : left + wide] = True
    encoded = encode(mask)
    runs, value = [0], False
    for pixel in mask.T.reshape(-1):  # COCO counts down the columns
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    for form in ([polygon(box)], encoded, {"size": [60, 80], "counts": runs}):
        np.testing.assert_array_equal(decode(form, 60, 80), mask)
    geometry = Geometry((10.0, 5.0, 60.0, 55.0), (0, 0, 64, 64), 64, flip=True)
    planes = [geometry.mask(form, 80, 60) for form in ([polygon(box)], encoded)]
    assert (planes[0] & planes[1]).sum() / (planes[0] | planes[1]).sum() > 0.93


def test_crowds_and_boxes_without_area_are_not_learned() -> None:
    objects = (
        ObjectAnnotation((10, 10, 20, 20), 0, 400),
        ObjectAnnotation((10, 10, 20, 20), 1, 400, crowd=True),
        ObjectAnnotation((5, 5, 0, 10), 1, 0),
        ObjectAnnotation((90, 10, 20, 20), 1, 400),
    )
    image = AnnotatedImage("a.png", 1, 80, 60, objects)
    made = target(image, whole_image(image, 64), masks=False)
    assert made["class_labels"].tolist() == [0]
    np.testing.assert_allclose(made["boxes"], [[0.25, 1 / 3, 0.25, 1 / 3]], atol=1e-6)


def test_boxes_outside_are_cut_at_the_edge() -> None:
    image = AnnotatedImage("a.png", 1, 80, 60, (ObjectAnnotation((-20, -10, 60, 40), 0, 2400),))
    made = target(image, whole_image(image, 64), masks=False)
    np.testing.assert_allclose(corners(made["boxes"], 64), [[0, 0, 32, 32]], atol=1e-4)


def test_an_image_without_objects_has_empty_targets() -> None:
    image = AnnotatedImage("a.png", 1, 80, 60)
    assert target(image, whole_image(image, 64), masks=False)["boxes"].shape == (0, 4)
    assert target(image, whole_image(image, 64), masks=True)["mask_labels"].shape == (0, 64, 64)


def test_a_sample_depends_on_the_seed_and_its_number_only(tmp_path: Path) -> None:
    image = open_detection(one_file(tmp_path)).images[2]
    view = TrainingView(recipe(), PIXELS)
    first, again, other = view.sample(image, 7), view.sample(image, 7), view.sample(image, 8)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["pixel_values"], other["pixel_values"])
    seeded = TrainingView(recipe(seed=1), PIXELS).sample(image, 7)
    assert not torch.equal(first["pixel_values"], seeded["pixel_values"])


def test_batches_have_the_form_of_transformers(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "set")
    for task, names in (("detect", {"pixel_values", "labels"}), ("instances", {"mask_labels", "class_labels"})):
        data = open_detection(source, masks=task == "instances")
        view = TrainingView(recipe(task), PIXELS)
        batch = collate([view.sample(image, number) for number, image in enumerate(data.images)])
        assert batch["pixel_values"].shape == (3, 3, 64, 64)
        assert names <= batch.keys()


def test_images_in_another_frame_than_upright_are_learned_as_annotated(tmp_path: Path) -> None:
    values = coco_values(2)
    values["images"][1].update(width=60, height=80)
    box, label = drawn(1)[1][0]
    turned = [box[1], 80 - box[0] - box[2], box[3], box[2]]
    values["annotations"][0].update(bbox=turned, segmentation=[polygon(turned)])
    file = one_file(tmp_path, count=2, **values)
    with Image.open(tmp_path / "1.png") as image:
        stored = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "1.png", exif=exif)
    with pytest.warns(UserWarning, match="EXIF rotation"):
        found = open_detection(file).images[1]
    left, top, wide, high = (int(n) for n in found.objects[0].box)
    content = np.asarray(found.load())[top : top + high, left : left + wide]
    assert (content == COLORS[label]).all()
    json.dumps(values)
