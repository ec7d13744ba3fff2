"""Training of segmentation: the loss by hand, runs from their start to their report, resumed and on two ranks."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import hierax
from hierax import HieraForSemanticSegmentation
from hierax.data.loader import Batch
from hierax.data.view import EvaluationView
from hierax.processing import IMAGENET
from hierax.train import RECIPES, RunExists, finetune
from hierax.train.choice import choose
from hierax.train.class_weights import balanced_pixel_weights, class_weights_for, pixel_counts
from hierax.train.predictions import Inputs
from hierax.train.request import MaskOptions, open_masks
from hierax.train.segmentation import Segmentation, segment_dataset
from hierax.train.segmentation_metrics import SegmentationMatrix, count_pixels
from shapes import dataset, pairs
from small import image_config, randomize
from training import ALONE, log, same, toy, unfinished, weights

MEAN, STD = (120.0,) * 3, (60.0,) * 3


def segment(**changes: Any) -> Any:
    """Two epochs of three steps at 64 pixels."""
    return toy("segment", **{"validation_fraction": 0.25, "batch_size": 2, **changes})


def model(**changes: Any) -> HieraForSemanticSegmentation:
    torch.manual_seed(0)
    config = image_config(num_labels=3, segmentation_hidden_size=16, **changes)
    found = randomize(HieraForSemanticSegmentation(config))
    assert isinstance(found, HieraForSemanticSegmentation)
    return found


def objective(class_weights: Any = None, **changes: Any) -> Segmentation:
    return Segmentation(model(), segment(**changes), mean=MEAN, std=STD, class_weights=class_weights)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pairs(tmp_path_factory.mktemp("segmentation") / "data")


@pytest.fixture(scope="session")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("segmentation") / "run"
    return finetune(data, out=out, task="segment", source=None, recipe=segment(), device="cpu", quiet=True)


LOGITS = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([[0, 1, 2, 255], [2, 2, 255, 0]])[:, :, None].expand(2, 4, 5).contiguous()


def test_the_loss_is_the_mean_over_the_pixels_that_count() -> None:
    per_pixel = [
        -LOGITS[b, :, y, x].log_softmax(0)[t] for b, y, x in np.ndindex(2, 4, 5) if (t := TARGETS[b, y, x]) < 9
    ]
    assert objective().segmentation_loss(LOGITS, TARGETS).item() == pytest.approx(float(sum(per_pixel)) / 30, rel=1e-5)


def test_weights_and_smoothing_are_those_of_the_cross_entropy() -> None:
    weights = torch.tensor([1.0, 5.0, 0.5])
    for smoothing in (0.0, 0.1):
        mine = objective(weights, label_smoothing=smoothing).segmentation_loss(LOGITS, TARGETS)
        theirs = F.cross_entropy(LOGITS, TARGETS, weight=weights, ignore_index=255, label_smoothing=smoothing)
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_batch_of_ignored_pixels_has_a_loss_of_0_and_gradients_of_0(weighted: bool) -> None:
    made = objective(torch.ones(3) if weighted else None)
    batch = Batch(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), None, None, torch.arange(2))
    batch.targets = torch.full((2, 64, 64), 255)
    loss = made(*made.prepare_inputs(batch, torch.device("cpu"), key=(0, 0)))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in made.parameters())


def test_balanced_weights_are_those_of_enet() -> None:
    found = balanced_pixel_weights(np.array([900, 90, 10, 0]))
    assert found.tolist() == pytest.approx([1 / np.log(1.92), 1 / np.log(1.11), 1 / np.log(1.03), 1.0])


def test_pixels_are_counted_without_those_that_are_ignored() -> None:
    drawn = dataset(3, ignored=True)
    targets = np.concatenate([np.asarray(drawn.sample(i).target).ravel() for i in range(3)])
    assert pixel_counts(drawn).tolist() == [int((targets == number).sum()) for number in range(3)]


def test_weights_by_name_leave_the_other_classes_at_1() -> None:
    recipe = segment(class_weights={"red": 4})
    weights = class_weights_for(recipe, dataset(), pixels=True)
    assert weights is not None
    assert weights.tolist() == [1.0, 4.0, 1.0]
    with pytest.raises(
        ValueError, match="class_weights names 'green'; expected classes of the data: ground, red, blue"
    ):
        class_weights_for(segment(class_weights={"green": 4}), dataset(), pixels=True)


def test_images_of_any_size_are_compared_at_the_size_of_their_masks() -> None:
    """Against the model's own logits at the size of the mask."""
    network = model().eval()
    drawn = dataset(3, height=50, width=83, ignored=True)
    inputs = Inputs(EvaluationView(drawn, IMAGENET.whole(64), size=(64, 64)), MEAN, STD)
    found = segment_dataset(network, inputs, ALONE)
    counts = torch.zeros(3, 3, dtype=torch.int64)
    for index in range(3):
        example: Any = inputs.view[index]
        pixels = (torch.from_numpy(example.pixels)[None].float() - 120) / 60
        target = torch.from_numpy(np.asarray(example.target)).long()[None]
        assert target.shape == (1, 50, 83)
        counts += count_pixels(network(pixels, labels=target).logits.argmax(1), target, 3)
    assert (found.matrix.counts - counts).abs().sum() <= 6, "equal but for ties"
    assert (found.images, found.matrix.pixels) == (3, 3 * 50 * 78)
    assert np.isfinite(found.loss)


def test_a_run_saves_a_model_that_names_its_classes_and_sees_whole_images(run: Path) -> None:
    network: Any = hierax.load(run)
    assert type(network) is HieraForSemanticSegmentation
    assert network.preprocessing is not None
    assert (network.config.num_labels, network.config.id2label) == (3, {0: "0", 1: "1", 2: "2"})
    assert network.preprocessing.size == {"shortest_edge": 64}
    assert not network.preprocessing.do_center_crop


def test_the_log_has_the_metrics_of_segmentation(run: Path) -> None:
    checks = [entry["validation"] for entry in log(run) if "validation" in entry]
    assert len(checks) == 2
    names = {"loss", "mean_iou", "frequency_weighted_iou", "pixel_accuracy", "mean_accuracy", "score"}
    assert set(checks[0]) == names
    assert all(entry["score"] == entry["mean_iou"] for entry in checks)


def test_the_report_has_iou_per_class_a_matrix_and_overlays(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert "Confusion matrix" in page
    assert all(f"<th>{name}</th>" in page for name in ("IoU", "recall", "precision", "validation pixels"))
    assert 'alt="overlays.png"' in page
    assert "top-1" not in page
    with Image.open(run / "overlays.png") as sheet:
        assert min(sheet.size) > 200


def test_run_json_says_how_masks_are_read(run: Path) -> None:
    values = json.loads((run / "run.json").read_text())
    assert values["mode"] == "segment"
    assert values["masks"] == {"classes": None, "reduce_labels": False, "colors": None}


def test_a_finished_run_is_found_again_and_other_masks_are_refused(run: Path, data: Path) -> None:
    options: Any = {"out": run, "task": "segment", "source": None, "recipe": segment(), "device": "cpu", "quiet": True}
    before = (run / "run.json").stat().st_mtime_ns
    assert finetune(data, **options) == run
    assert (run / "run.json").stat().st_mtime_ns == before
    with pytest.raises(RunExists, match="masks was"):
        finetune(data, classes=("a", "b", "c"), **options)


def test_a_run_that_was_killed_is_resumed_bit_by_bit(run: Path, data: Path, tmp_path: Path) -> None:
    part = unfinished(shutil.copytree(run, tmp_path / "part"))
    last = max((part / "checkpoints").iterdir(), key=lambda path: int(path.name.partition("-")[2]))
    shutil.rmtree(last)
    shutil.rmtree(part / "model")
    assert finetune(data, out=part, task="segment", source=None, recipe=segment(), device="cpu", quiet=True) == part
    assert same(weights(part), weights(run))
    assert log(part)[-1] == log(run)[-1]


def test_frozen_runs_train_the_head_alone(run: Path, data: Path, tmp_path: Path) -> None:
    options: Any = {"task": "segment", "device": "cpu", "quiet": True}
    out = finetune(data, out=tmp_path / "run", source=run, recipe=segment(freeze="all", epochs=1), **options)
    first, second = weights(run), weights(out)
    changed = {name.partition(".")[0] for name in first if not torch.equal(first[name], second[name])}
    assert changed == {"segmentation"}


def test_the_head_is_kept_if_the_classes_are_the_same(run: Path, data: Path, tmp_path: Path) -> None:
    options: Any = {"task": "segment", "device": "cpu", "quiet": True, "source": run}
    recipe = segment(epochs=1, lr=0.0)
    out = finetune(data, out=tmp_path / "run", recipe=recipe, **options)
    assert same(weights(out), weights(run))
    other = finetune(data, out=tmp_path / "other", recipe=recipe, classes=("a", "b", "c", "d"), **options)
    assert weights(other)["segmentation.classifier.weight"].shape[0] == 4


def test_another_head_is_for_new_heads_alone(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = segment(epochs=1, lr=0.0, overrides={"segmentation_head": "linear"})
    out = finetune(data, out=tmp_path / "run", task="segment", source=run, recipe=recipe, device="cpu")
    assert same(weights(out), weights(run))
    assert f"the head of {run}, fpn, is kept; segmentation_head=linear is for new heads" in capsys.readouterr().err


@pytest.mark.parametrize("adapted", ["linear", "fpn"])
def test_an_adapter_is_trained_with_the_head(adapted: str, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    overrides = {"segmentation_head": adapted, "segmentation_hidden_size": 16}
    recipe = segment(epochs=1, adapter="lora", rank=2, overrides=overrides)
    options: Any = {"task": "segment", "device": "cpu", "quiet": True}
    out = finetune(data, out=tmp_path / "run", source="hierax/femto", recipe=recipe, **options)
    before, after = hierax.load("hierax/femto").state_dict(), hierax.load(out).state_dict()
    moved = {name for name in before if name.startswith("encoder.blocks") and not before[name].equal(after[name])}
    assert moved
    assert all(name.endswith("attn.qkv.weight") for name in moved)
    adapter: Any = hierax.load(out / "adapter", base="hierax/femto")
    assert type(adapter) is HieraForSemanticSegmentation
    assert all(torch.allclose(adapter.state_dict()[name], tensor, atol=1e-6) for name, tensor in after.items())


@pytest.mark.parametrize("start", ["hierax/femto", "hierax/femto.mae"])
def test_a_run_starts_from_a_checkpoint_of_any_task(start: str, data: Path, tmp_path: Path) -> None:
    recipe = segment(epochs=1, overrides={"segmentation_hidden_size": 16}, class_weights="balanced")
    options: Any = {"task": "segment", "device": "cpu", "quiet": True}
    out = finetune(data, out=tmp_path / "run", source=start, recipe=recipe, **options)
    before = hierax.load(start, task="features", reinit=("norm",)).config
    after: Any = hierax.load(out).config
    assert (after.embed_dim, after.depths) == (before.embed_dim, before.depths)


def test_without_a_recipe_one_that_fits_is_chosen(data: Path, tmp_path: Path) -> None:
    settings = ("epochs=1", "image_size=64", "workers=0", "segmentation_hidden_size=16")
    out = finetune(data, out=tmp_path / "run", task="segment", settings=settings, device="cpu", quiet=True)
    values = json.loads((out / "run.json").read_text())
    assert values["from"] == "hierax/femto"
    assert values["recipe"]["name"] == "segment_tiny_small_data_cpu"
    assert values["recipe"]["weights"] == "last", "one image is too few to choose by"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": "t.onnx"}, "teacher is 't.onnx', but segmentation learns from masks alone"),
        ({"task": "classify", "reduce_labels": True}, "reduce_labels is for the task segment"),
        ({"task": "detect"}, "task is 'detect'; expected classify, segment"),
        ({"settings": ["mixup=0.5"]}, "mixup is 0.5, but segment learns a class for each pixel; expected 0"),
        ({"settings": ["erasing=0.5"]}, "erasing is 0.5, but segment learns a class for each pixel; expected 0"),
        ({"recipe": "finetune_tiny_small_data"}, "recipe finetune_tiny_small_data is for finetune, not for segment"),
    ],
)
def test_what_has_no_meaning_for_segmentation_is_refused(
    options: dict[str, Any], message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        finetune(data, out=tmp_path / "run", **{"task": "segment", "quiet": True, "device": "cpu", **options})


def test_a_matrix_of_a_run_is_that_of_its_validation(run: Path) -> None:
    kept = json.loads((run / "validation.json").read_text())
    checks = {entry["step"]: entry["validation"] for entry in log(run) if "validation" in entry}
    metrics = SegmentationMatrix(torch.tensor(kept["counts"])).metrics()
    assert metrics == pytest.approx({name: checks[kept["step"]][name] for name in metrics})


@pytest.mark.parametrize("fixed", [False, True])
def test_long_images_are_computed_in_windows(fixed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    network = model().eval()
    seen: list[tuple[int, ...]] = []
    whole = network.coarse_logits

    def watched(pixel_values: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(pixel_values.shape[2:]))
        return whole(pixel_values)

    monkeypatch.setattr(network, "coarse_logits", watched)
    inputs = Inputs(EvaluationView(dataset(1, width=300), IMAGENET.whole(64), size=(64, 64)), MEAN, STD)
    found = segment_dataset(network, inputs, ALONE, fixed=fixed)
    assert set(seen) == {(64, 64) if fixed else (64, 128)}
    assert len(seen) > 1
    assert found.matrix.pixels == 64 * 300


def test_the_default_on_a_cpu_is_femto_at_its_size_for_a_few_thousand_images() -> None:
    chosen = choose("segment", device="cpu", samples=60, source="hierax/femto")
    recipe = chosen.recipe
    assert (recipe.name, recipe.image_size) == ("segment_tiny_small_data_cpu", None)
    assert (recipe.epochs, recipe.batch_size, recipe.peak_lr, recipe.layer_decay) == (60, 8, 1e-3, 0.8)
    assert recipe.weights == "last"
    assert choose("segment", device="cpu", samples=10_000, source="hierax/femto").recipe.epochs == 3


def test_the_recipes_for_frozen_encoders_train_the_head_alone() -> None:
    frozen = {name for name, build in RECIPES.items() if build().mode == "segment" and build().freeze == "all"}
    assert frozen == {name for name in RECIPES if name.startswith("segment_") and "frozen" in name}
    assert len(frozen) == 4


def test_of_validation_data_with_parts_the_part_to_validate_on_is_taken(tmp_path: Path) -> None:
    for name in ("one", "two"):
        pairs(tmp_path / name / "train", count=3)
        pairs(tmp_path / name / "val", count=2)
    train, held = open_masks(tmp_path / "one", tmp_path / "two", MaskOptions(), None)
    assert held is not None
    assert (len(train), len(held)) == (3, 2)
    assert held.sample(0).name.startswith(str(tmp_path / "two" / "val"))
    with pytest.warns(UserWarning, match="3 of 3 samples to validate on are in the training set too"):
        open_masks(tmp_path / "one", tmp_path / "one" / "train", MaskOptions(), None)


@pytest.mark.filterwarnings("ignore:.*only 0 and 255")
@pytest.mark.parametrize("trained", [(0, 255), (0, 1, 255)])
def test_255_means_the_same_in_training_and_in_validation(trained: tuple[int, ...], tmp_path: Path) -> None:
    for name, values in (("train", trained), ("val", (0, 255))):
        (tmp_path / name / "images").mkdir(parents=True)
        (tmp_path / name / "masks").mkdir()
        mask = np.resize(np.array(values, np.uint8), (16, 16))
        Image.fromarray(mask).save(tmp_path / name / "masks" / "0.png")
        Image.new("RGB", (16, 16)).save(tmp_path / name / "images" / "0.png")
    train, held = open_masks(tmp_path / "train", tmp_path / "val", MaskOptions(), None)
    assert held is not None
    target = held.sample(0).target
    assert target is not None
    assert set(np.unique(target)) == ({0, 1} if trained == (0, 255) else {0, 255})
    assert held.classes == train.classes == ("0", "1")
