"""COCO's numbers: what counts as found, and that all twelve are those of pycocotools."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detection_sets import IDS, NAMES, coco_values, drawn, one_file
from hierax.detection import DetectionDataset, FoundObject, detect, evaluate_detection, open_detection
from hierax.detection.build import Detector, build_detector
from hierax.detection.dataset import AnnotatedImage, ObjectAnnotation
from hierax.detection.evaluate import NUMBERS, compare, ground_truth, results
from hierax.detection.masks import encode
from hierax.detection.recipes import DetectionRecipe

STORED = Path(__file__).parent / "data" / "pycocotools.json"


def perfect(data: DetectionDataset) -> dict[int, list[FoundObject]]:
    return {
        image.id: [FoundObject(o.box, o.label, 0.9, o.segmentation) for o in image.objects if not o.crowd]
        for image in data.images
    }


def test_objects_that_are_all_found_give_one(tmp_path: Path) -> None:
    """Also those whose annotation has the id 0, which COCO's evaluation takes for "no annotation"."""
    data = open_detection(one_file(tmp_path))
    assert json.loads((tmp_path / "boxes.json").read_text())["annotations"][0]["id"] == 0
    found = compare(data, perfect(data), masks=False)
    assert found.numbers["AP"] == 1
    assert found.numbers["AR100"] == 1
    assert found.numbers["APl"] is None, "there is no large object"
    assert [(entry["label"], entry["AP"], entry["objects"]) for entry in found.per_class] == [
        ("red", 1, sum(label == 0 for n in range(4) for _, label in drawn(n)[1])),
        ("blue", 1, sum(label == 1 for n in range(4) for _, label in drawn(n)[1])),
    ]


def test_nothing_found_gives_zero(tmp_path: Path) -> None:
    data = open_detection(one_file(tmp_path), masks=True)
    for masks in (False, True):
        numbers = compare(data, {image.id: [] for image in data.images}, masks=masks).numbers
        assert numbers["AP"] == 0
        assert numbers["APl"] is None


def test_what_is_found_in_a_crowd_counts_neither_for_nor_against(tmp_path: Path) -> None:
    annotations = coco_values(4)["annotations"]
    annotations.append({**annotations[0], "id": 9, "image_id": 3, "bbox": [0, 0, 60, 50], "iscrowd": 1})
    data = open_detection(one_file(tmp_path, annotations=annotations))
    found = perfect(data)
    found[3] = [FoundObject((5, 5, 20, 20), data.images[1].objects[0].label, 0.95)]
    assert compare(data, found, masks=False).numbers["AP"] == 1
    without = data.subset([0, 1, 2])
    plain = DetectionDataset("", (*without.images, AnnotatedImage("", 3, 80, 60)), data.classes, data.category_ids)
    worse = compare(plain, found, masks=False).numbers["AP"]
    assert worse is not None
    assert worse < 1


def test_a_box_that_is_only_nearly_right_counts_at_low_thresholds(tmp_path: Path) -> None:
    data = open_detection(one_file(tmp_path))
    moved = {
        key: [FoundObject((o.box[0] + 0.12 * o.box[2], *o.box[1:]), o.label, 0.9) for o in objects]
        for key, objects in perfect(data).items()
    }
    numbers = compare(data, moved, masks=False).numbers
    assert numbers["AP50"] == numbers["AP75"] == 1
    assert numbers["AP"] is not None
    assert 0.5 < numbers["AP"] < 0.7


def test_small_and_large_masks_are_told_by_the_pixels_of_the_mask() -> None:
    """As in COCO's own evaluation. The box of this thin object has 40 x 40 pixels, which would be of middle size."""
    thin = encode(np.eye(40, dtype=bool))
    box = (0.0, 0.0, 40.0, 40.0)
    truth = AnnotatedImage("", 1, 40, 40, (ObjectAnnotation((0.0, 0.0, 4.0, 4.0), 0, 16.0, False,
                                                            encode(np.eye(40, k=30, dtype=bool))),))  # fmt: skip
    data = DetectionDataset("", (truth,), ("line",), (1,))
    right, wrong = FoundObject(box, 0, 0.5, truth.objects[0].segmentation), FoundObject(box, 0, 0.9, thin)
    numbers = compare(data, {1: [right, wrong]}, masks=True).numbers
    assert numbers["AP"] == pytest.approx(0.5), "the wrong object has the higher score"
    assert numbers["APs"] == pytest.approx(0.5), "it is small, too, so it counts among the small ones"


# -- pycocotools -----------------------------------------------------------------------------------------------------


def random_set(seed: int, *, masks: bool) -> tuple[DetectionDataset, dict[int, list[FoundObject]]]:
    """Objects of all sizes in three classes, with crowds, and what a model could find: moved boxes, wrong classes,
    doubles and inventions. Masks are ellipses.
    """
    random, width, height = np.random.RandomState(seed), 320, 240
    rows, columns = np.mgrid[:height, :width]

    def ellipse(box: tuple[float, ...]) -> Any:
        left, top, wide, high = box
        x, y = (columns - left - wide / 2) / max(wide / 2, 1), (rows - top - high / 2) / max(high / 2, 1)
        return encode(x**2 + y**2 <= 1)

    images, found = [], dict[int, list[FoundObject]]()
    for number in range(20):
        objects, guesses = [], []
        for _ in range(random.randint(0, 6)):
            wide, high = np.exp(random.uniform(np.log(12), np.log(150), 2)).round(1)
            left, top = (random.rand(2) * (width - wide, height - high)).round(1)
            box, label = (float(left), float(top), float(wide), float(high)), int(random.randint(3))
            mask = ellipse(box) if masks else None
            crowd = bool(random.rand() < 0.1)
            objects.append(ObjectAnnotation(box, label, float((wide * high * random.uniform(0.5, 1)).round(1)),
                                            crowd, mask))  # fmt: skip
            for _ in range(random.choice([0, 1, 1, 1, 2])):
                shift = random.normal(0, 0.08, 4) * (wide, high, wide, high)
                moved = tuple(float(n) for n in (np.array(box) + shift).clip(1, None).round(2))
                guess = label if random.rand() < 0.85 else int(random.randint(3))
                mask = ellipse(moved) if masks else None
                guesses.append(FoundObject(moved, guess, float(random.rand().__round__(3)), mask))
        box = tuple(float(n) for n in (random.rand(4) * 100 + 5).round(1))
        mask = ellipse(box) if masks else None
        guesses.append(FoundObject(box, int(random.randint(3)), float(random.rand().__round__(3)), mask))
        images.append(AnnotatedImage(f"{number}.png", number, width, height, tuple(objects)))
        found[number] = guesses
    return DetectionDataset("random", tuple(images), ("a", "b", "c"), (1, 7, 90)), found


@pytest.mark.parametrize("masks", [False, True], ids=["boxes", "masks"])
@pytest.mark.parametrize("seed", [0, 1])
def test_all_twelve_numbers_are_those_of_pycocotools(seed: int, masks: bool) -> None:
    """They were computed by pycocotools 2.0.11 with `write_numbers`."""
    data, found = random_set(seed, masks=masks)
    stored = json.loads(STORED.read_text())[f"{'masks' if masks else 'boxes'} {seed}"]
    numbers = compare(data, found, masks=masks).numbers
    assert list(numbers) == list(NUMBERS) == list(stored)
    assert len(set(stored.values())) > 8, "the set has all kinds of objects and mistakes"
    for name, value in stored.items():
        assert numbers[name] == pytest.approx(value, abs=1e-12), name


def of_pycocotools(data: DetectionDataset, found: Any, *, masks: bool) -> dict[str, float]:
    from pycocotools.coco import COCO  # pyright: ignore[reportMissingImports]
    from pycocotools.cocoeval import COCOeval  # pyright: ignore[reportMissingImports]

    truth: Any = COCO()
    truth.dataset = ground_truth(data, masks=masks)
    truth.createIndex()
    evaluation = COCOeval(
        truth, truth.loadRes(results(found, data.category_ids, masks=masks)), "segm" if masks else "bbox"
    )
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return dict(zip(NUMBERS, evaluation.stats.tolist(), strict=True))


def write_numbers() -> None:
    """Writes the numbers of pycocotools: `python -c "import test_detection_evaluation as t; t.write_numbers()"`."""
    made = {}
    for masks in (False, True):
        for seed in (0, 1):
            data, found = random_set(seed, masks=masks)
            made[f"{'masks' if masks else 'boxes'} {seed}"] = of_pycocotools(data, found, masks=masks)
    STORED.write_text(json.dumps(made, indent=1) + "\n")


@pytest.mark.peers
@pytest.mark.skipif(importlib.util.find_spec("pycocotools") is None, reason="needs pycocotools")
@pytest.mark.parametrize("masks", [False, True], ids=["boxes", "masks"])
def test_all_twelve_numbers_are_those_of_the_installed_pycocotools(masks: bool) -> None:
    for seed in range(5):
        data, found = random_set(seed, masks=masks)
        theirs = of_pycocotools(data, found, masks=masks)
        ours = compare(data, found, masks=masks).numbers
        assert {name: -1 if value is None else value for name, value in ours.items()} == pytest.approx(
            theirs, abs=1e-12
        )


def untrained(task: str, classes: tuple[str, ...], ids: tuple[int, ...]) -> Detector:
    """A small model with random weights."""
    head = {"detect": "rt-detr", "instances": "mask2former"}[task]
    made = DetectionRecipe(name="small", task=task, head=head, model="hiera_femto_160", image_size=64, width=32)
    return build_detector(made, classes, ids, None)[0]


def test_classes_of_an_open_data_set_are_matched_by_their_names(tmp_path: Path) -> None:
    file = one_file(tmp_path)
    data, model = open_detection(file), untrained("detect", NAMES[::-1], IDS[::-1])
    assert data.classes != model.classes
    found, expected = (evaluate_detection(source, model=model, device="cpu").to_dict() for source in (data, file))
    assert found == expected
    with pytest.raises(ValueError, match="has objects of 'red', which is not among the 1 classes 'blue'"):
        evaluate_detection(data, model=untrained("detect", ("blue",), (17,)), device="cpu")


def test_a_data_set_that_was_opened_without_masks_is_refused_for_a_model_of_masks(tmp_path: Path) -> None:
    data = open_detection(one_file(tmp_path))
    with pytest.raises(ValueError, match=r"has objects without masks; expected open_detection\(…, masks=True\)"):
        evaluate_detection(data, model=untrained("instances", NAMES, IDS), device="cpu")


def test_a_batch_of_no_images_is_an_error(tmp_path: Path) -> None:
    file, model = one_file(tmp_path), untrained("detect", NAMES, IDS)
    with pytest.raises(ValueError, match="batch_size is 0; expected 1 or more"):
        evaluate_detection(file, model=model, batch_size=0)
    with pytest.raises(ValueError, match="batch_size is -1; expected 1 or more"):
        detect([tmp_path / "0.png"], model=model, batch_size=-1)


@pytest.mark.parametrize("task", ["detect", "instances"])
def test_a_model_with_damaged_weights_is_an_error_not_an_image_without_objects(task: str, tmp_path: Path) -> None:
    one_file(tmp_path)
    model = untrained(task, NAMES, IDS)
    for parameter in model.model.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="the output of the model is not finite; its weights may be damaged"):
        list(detect([tmp_path / "0.png"], model=model, device="cpu"))


def test_categories_have_the_numbers_of_the_file(tmp_path: Path) -> None:
    data = open_detection(one_file(tmp_path))
    assert [c["id"] for c in ground_truth(data, masks=False)["categories"]] == list(IDS)
    assert [c["name"] for c in ground_truth(data, masks=False)["categories"]] == list(NAMES)
    assert {row["category_id"] for row in results(perfect(data), data.category_ids, masks=False)} == set(IDS)
