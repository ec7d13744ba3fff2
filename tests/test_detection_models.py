"""RT-DETR, D-FINE and Mask2Former of transformers on hierax's backbone: built from any checkpoint, saved, reopened."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import hierax
from detection_sets import IDS, NAMES, drawn
from hierax import extras
from hierax.detection import DetectionRecipe, Detector, build_detector, open_detector
from hierax.detection.build import backbone_of, detector_folder, image_processor
from hierax.detection.masks import decode
from hierax.detection.objects import find_objects
from hierax.detection.recipes import HEADS, RECIPES, choose, resolve
from hierax.detection.recipes import recipe as named
from hierax.detection.view import Pixels
from hierax.extras import MissingPackage
from hierax.integrations.transformers import HieraxBackbone

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own

SMALL: dict[str, Any] = {
    "image_size": 64, "width": 32, "heads": 2, "queries": 8, "feedforward": 16, "decoder_layers": 2, "points": 64,
    "batch_size": 2, "encoder_layers": 1,
}  # fmt: skip
ALL = [(task, head) for task, heads in HEADS.items() for head in heads]


def small(task: str = "detect", **changes: Any) -> DetectionRecipe:
    return choose(task, device="cpu").replace(**{**SMALL, **changes})


def tiny(kind: type[Any] = hierax.HieraForImageClassification, **changes: Any) -> Any:
    torch.manual_seed(0)
    shape = {"embed_dim": 8, "depths": (1, 1, 2, 1), "num_heads": (1, 1, 2, 2), "image_size": (64, 64)}
    return kind(hierax.HieraConfig(**{**shape, "decoder_hidden_size": 8, "decoder_num_heads": 1, **changes}))


def images() -> list[Image.Image]:
    return [drawn(number, size=(80 + 8 * number, 60))[0] for number in range(2)]


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trunk")
    tiny().save_pretrained(folder)
    return folder


def built(trunk: Path | str | None, task: str = "detect", head: str = "", **changes: Any) -> Detector:
    torch.manual_seed(0)
    recipe = small(task, **({"head": head} if head else {}), **changes)
    return build_detector(recipe, NAMES, IDS, trunk)[0]


@pytest.mark.parametrize(
    "model",
    [
        tiny(),
        tiny(hierax.HieraForPreTraining),
        tiny(hierax.HieraBackbone),
        tiny(hierax.HieraBackbone, window_sizes=(8, 4, 14, 7), global_blocks=(3,), fpn_hidden_size=8,
             position_embedding="abs_win", global_position_size=(4, 4)),
        "hierax/femto",
    ],
    ids=["classifier", "mae", "backbone", "windows and neck", "femto"],
)  # fmt: skip
def test_the_backbone_has_the_weights_of_any_checkpoint(model: Any, tmp_path: Path) -> None:
    source: Any = model
    if not isinstance(model, str):
        model.save_pretrained(tmp_path)
        source = tmp_path
    detector = built(source)
    own = hierax.HieraBackbone.from_pretrained(
        source, out_features=("stage2", "stage3", "stage4"), fpn_hidden_size=None, image_size=(64, 64)
    )
    inside = backbone_of(detector)
    assert isinstance(inside, HieraxBackbone)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for ours, theirs in zip(inside.eval()(pixels).feature_maps, own(pixels).feature_maps, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("task", "head"), ALL)
def test_models_are_saved_and_opened_by_hierax_and_by_transformers(
    task: str, head: str, trunk: Path, tmp_path: Path
) -> None:
    detector = built(trunk, task, head)
    detector.model.eval()
    detector.save(tmp_path / "model")
    before = find_objects(detector, images())
    again = open_detector(tmp_path / "model")
    assert (again.task, again.classes, again.category_ids) == (task, NAMES, IDS)
    assert again.pixels == detector.pixels
    assert find_objects(again, images()) == before
    auto: Any = transformers.AutoModelForObjectDetection
    if task == "instances":
        auto = transformers.AutoModelForUniversalSegmentation
    theirs, report = auto.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert theirs.config.id2label == {0: "red", 1: "blue"}
    state = detector.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in theirs.state_dict().items())


@pytest.mark.parametrize("task", ["detect", "instances"])
def test_pixels_are_those_of_the_image_processor_that_is_saved(task: str, trunk: Path, tmp_path: Path) -> None:
    detector = built(trunk, task)
    image_processor(task, detector.pixels).save_pretrained(tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    for image in images():
        theirs = processor(images=image, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(detector.pixels.whole(image), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("head", HEADS["detect"])
def test_boxes_are_those_of_transformers_post_processing(head: str, trunk: Path) -> None:
    detector = built(trunk, "detect", head)
    detector.model.eval()
    processor = image_processor("detect", detector.pixels)
    given = images()
    with torch.no_grad():
        outputs = detector.model(torch.stack([detector.pixels.whole(image) for image in given]))
    sizes = [(image.height, image.width) for image in given]
    theirs = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)
    for image, ours, expected in zip(given, find_objects(detector, given), theirs, strict=True):
        count = min(len(ours), len(expected["scores"]))
        order = expected["scores"].argsort(descending=True, stable=True)[:count]
        np.testing.assert_allclose([o.score for o in ours[:count]], expected["scores"][order], atol=1e-6)
        assert [o.label for o in ours[:count]] == expected["labels"][order].tolist()
        corners = [(x, y, x + w, y + h) for x, y, w, h in (o.box for o in ours[:count])]
        inside = expected["boxes"][order].clamp(min=0)
        inside = torch.minimum(inside, torch.tensor([image.width, image.height] * 2))
        np.testing.assert_allclose(corners, inside, atol=1e-3)


def test_masks_have_the_size_of_the_image_and_boxes_around_them(trunk: Path) -> None:
    detector = built(trunk, "instances")
    detector.model.eval()
    given = images()
    found = find_objects(detector, given)
    assert any(found)
    for image, objects in zip(given, found, strict=True):
        assert [o.score for o in objects] == sorted((o.score for o in objects), reverse=True)
        for one in objects:
            mask = decode(one.mask, image.height, image.width)
            left, top, wide, high = (int(n) for n in one.box)
            assert mask[top : top + high, left : left + wide].sum() == mask.sum() > 0


def test_objects_below_the_threshold_are_left_out(trunk: Path) -> None:
    for task in HEADS:
        detector = built(trunk, task)
        detector.model.eval()
        whole = find_objects(detector, images()[:1])[0]
        middle = sorted(o.score for o in whole)[len(whole) // 2]
        kept = find_objects(detector, images()[:1], threshold=middle)[0]
        assert kept == [o for o in whole if o.score >= middle]


@pytest.mark.parametrize(("task", "head"), ALL)
def test_batches_with_and_without_objects_can_be_learned(task: str, head: str, trunk: Path) -> None:
    detector = built(trunk, task, head)
    pixels = torch.stack([detector.pixels.whole(image.resize((64, 64))) for image in images()])
    for count in (0, 2):
        labels = torch.arange(count) % 2
        boxes, masks = torch.full((count, 4), 0.4), torch.zeros(count, 64, 64)
        masks[:, 10:30, 10:30] = 1
        given: dict[str, Any] = {"labels": [{"class_labels": labels, "boxes": boxes}] * 2}
        if task == "instances":
            given = {"mask_labels": [masks] * 2, "class_labels": [labels] * 2}
        loss = detector.model.train()(pixel_values=pixels, **given).loss
        loss.backward()
        assert torch.isfinite(loss)


def test_a_frozen_backbone_is_not_trained(trunk: Path) -> None:
    detector = built(trunk, freeze=True)
    assert not any(parameter.requires_grad for parameter in backbone_of(detector).parameters())
    assert any(parameter.requires_grad for parameter in detector.model.parameters())
    with pytest.raises(ValueError, match="freeze is true, but no weights are loaded; expected false"):
        built(None, freeze=True)


@pytest.mark.slow
def test_a_run_can_be_continued_with_other_classes(trunk: Path, tmp_path: Path) -> None:
    first = built(trunk)
    first.save(tmp_path / "run" / "model")
    (same, notes), (other, said) = (
        build_detector(small(), names, ids, tmp_path / "run")
        for names, ids in ((NAMES, IDS), (("one", "two", "three"), (1, 2, 3)))
    )
    assert all(torch.equal(t, same.model.state_dict()[n]) for n, t in first.model.state_dict().items())
    assert notes == [f"starts from {tmp_path / 'run' / 'model'}, with its head"]
    assert "new (random) layers: those of 3 of 3 classes, one, two, three" in said
    assert other.model.config.id2label == {0: "one", 1: "two", 2: "three"}
    assert other.category_ids == (1, 2, 3)
    name = (
        "model.decoder.layers.0.fc1.weight" if "model.decoder.layers.0.fc1.weight" in first.model.state_dict() else ""
    )
    name = name or next(n for n in first.model.state_dict() if n.startswith("model.decoder.layers.0."))
    assert torch.equal(other.model.state_dict()[name], first.model.state_dict()[name])
    with pytest.raises(ValueError, match="holds a model for --task detect, but the task is instances"):
        build_detector(small("instances"), NAMES, IDS, tmp_path / "run")


@pytest.mark.parametrize("task", ["detect", "instances"])
def test_classes_that_a_model_knows_keep_their_layers_in_another_order(task: str, trunk: Path, tmp_path: Path) -> None:
    first = built(trunk, task)
    first.save(tmp_path / "model")
    new, notes = build_detector(small(task), [NAMES[1], "new", NAMES[0]], [0, 1, 2], tmp_path / "model")
    swapped, said = build_detector(small(task), NAMES[::-1], [0, 1], tmp_path / "model")
    assert notes[-1] == "new (random) layers: those of 1 of 3 classes, new"
    assert said[-1] == "the model knows all 2 classes and keeps their layers"
    assert swapped.model.config.id2label == dict(enumerate(NAMES[::-1]))
    old, named, turned = (one.model.state_dict() for one in (first, new, swapped))
    layers = [name for name in old if named[name].shape != old[name].shape and "empty_weight" not in name]
    assert len(layers) >= 2
    for name in layers:
        torch.testing.assert_close(named[name][[2, 0, *range(3, len(named[name]))]], old[name])
        torch.testing.assert_close(turned[name][[1, 0, *range(2, len(old[name]))]], old[name])
    others = [name for name in old if name not in layers and named[name].shape == old[name].shape]
    assert all(torch.equal(named[name], old[name]) for name in others)


def test_what_is_no_model_of_detection_is_said(trunk: Path, tmp_path: Path) -> None:
    assert detector_folder(trunk) is None
    assert detector_folder("hierax/femto") is None
    with pytest.raises(ValueError, match=r"not a model of detection; expected the folder of a run of hierax finetune"):
        open_detector(trunk)
    built(trunk).save(tmp_path / "model")
    for name, content, message in (
        ("model.safetensors", b"damaged", "the model cannot be opened"),
        ("preprocessor_config.json", b"{}", "not the preprocessing of a model of detection"),
        (
            "preprocessor_config.json",
            b'{"size": {"height": 1000000, "width": 1000000}, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}',
            "expected a square size of at most 8192 pixels",
        ),
        ("config.json", b'{"model_type": "rt_detr", "d_model": "wide"}', "the model cannot be opened"),
    ):
        shutil.copytree(tmp_path / "model", tmp_path / name, dirs_exist_ok=True)
        (tmp_path / name / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            open_detector(tmp_path / name)


def test_models_of_others_without_normalization_are_opened(trunk: Path, tmp_path: Path) -> None:
    built(trunk).save(tmp_path)
    values = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**values, "do_normalize": False}))
    config = json.loads((tmp_path / "config.json").read_text())
    del config["category_ids"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    opened = open_detector(tmp_path)
    assert opened.pixels == Pixels(64, (0, 0, 0), (1, 1, 1))
    assert opened.category_ids == (0, 1)


def test_clips_and_other_channels_have_no_detector(tmp_path: Path) -> None:
    tiny(num_channels=4).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has 2 axes, 4 channels and 4 stages; expected a model of RGB images"):
        built(tmp_path)


def test_missing_packages_are_named_with_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = extras.is_installed
    monkeypatch.setattr(extras, "is_installed", lambda module: module != "faster_coco_eval" and real(module))
    with pytest.raises(MissingPackage, match=r"needs the package faster_coco_eval: pip install 'faster-coco-eval>=1.6' "
                                             r"\(part of hierax\[dense\]\)"):  # fmt: skip
        build_detector(small(), NAMES, IDS, None)


# -- recipes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_its_model(name: str) -> None:
    recipe = RECIPES[name]()
    detector, notes = build_detector(recipe.replace(**SMALL), NAMES, IDS, "hierax/femto")
    assert detector.task == recipe.task
    assert notes == ["starts from hierax/femto, license of the weights: Apache-2.0"]
    assert named(name, recipe.task) == RECIPES[name]()
    assert DetectionRecipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["image_size=100"], "image_size is 100; expected a multiple of 32 pixels, from 64 to 4096"),
        (["head=mask2former"], "head is 'mask2former'; expected rt-detr or d-fine for --task detect"),
        (["head=yolo"], "head is 'yolo'; expected rt-detr or d-fine"),
        (["steps=0"], "steps is 0; expected 1 or more"),
        (["steps=many"], "steps is 'many'; expected a whole number or none"),
        (["epochs=3"], "epochs is not a setting of detect_cpu; expected name, task, head, model, image_size, steps"),
        (["width=30"], "width is 30 and heads is 4; expected a width that is a multiple of heads and of 4"),
        (["decoder_layers=1"], "decoder_layers is 1; expected 2 or more"),
        (["queries=300", "image_size=96"], "queries is 300, but an image of 96 pixels has 189 cells; expected at most"),
        (["crop=0"], "crop is 0.0; expected above 0, at most 1"),
        (["task=segment"], "task is not a setting that can be changed"),
        (["steps"], "'steps' is not a setting; expected key=value, such as steps=300"),
        (["precision=fp8"], "precision is 'fp8'; expected fp32 or bf16"),
    ],
)
def test_settings_that_are_not_possible_are_named(settings: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose("detect", device="cpu").override(settings)


def test_a_recipe_of_another_task_is_refused() -> None:
    with pytest.raises(ValueError, match="recipe is 'instances_cpu'; expected detect_cpu or detect_gpu for --task det"):
        named("instances_cpu", "detect")


def test_steps_follow_from_the_number_of_images() -> None:
    base = choose("detect", device="cpu")
    steps = [resolve(base, images=count, held=0, device="cpu").steps for count in (5, 60, 100, 10_000)]
    assert steps == [600, 600, 750, 3000]
    few = resolve(base, images=5, held=2, device="cpu")
    assert (few.batch_size, few.weights, few.evaluate_every) == (5, "last", 120)
    assert resolve(base, images=500, held=100, device="cpu").weights == "best"
    assert [resolve(base, images=5, held=0, device="cpu", most_objects=n).queries for n in (3, 50, 900)] == [
        30,
        75,
        300,
    ]
    assert resolve(base.replace(image_size=64), images=5, held=0, device="cpu", most_objects=70).queries == 84
    assert resolve(base.replace(steps=7), images=500, held=0, device="cpu").warmup_steps == 2
