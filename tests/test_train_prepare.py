"""From recipe and data to a model: batches, statistics of arrays, what is refused before anything is written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hierax import HieraForImageClassification, HieraForPreTraining, load
from hierax.checkpoint.save import save_model
from hierax.data.sources import open_dataset
from hierax.processing.defaults import default_preprocessing
from hierax.train import finetune, pretrain
from hierax.train.batches import accumulation_steps, fit_batch
from hierax.train.pixels import measure_mean_and_std
from hierax.train.prepare import prepare
from hierax.train.recipes import recipe
from small import image_config, line_config, randomize
from training import TINY, pictures, toy


def signals(folder: Path, *, mean: float = 5.0, shape: tuple[int, ...] = (8, 512)) -> Path:
    """Twelve signals of two classes."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    np.save(folder / "x.npy", (mean + 3 * random.normal(size=(12, *shape))).astype(np.float32))
    np.save(folder / "x.labels.npy", np.arange(12) % 2)
    return folder / "x.npy"


@pytest.mark.parametrize(
    ("samples", "ranks", "changes", "batch", "note"),
    [
        (100, 1, {"batch_size": 64}, 64, None),
        (509, 1, {"batch_size": 1024}, 509, "batch_size 1024 is more than the data has; it is 509"),
        (509, 1, {"batch_size": 1024, "device_batch_size": 64}, 448, "it is 448"),
        (509, 2, {"batch_size": 1024, "device_batch_size": 64, "repeats": 3}, 1152, None),
        (30, 2, {"batch_size": 1024, "device_batch_size": 64}, 30, "it is 30"),
        (
            900,
            2,
            {"batch_size": 254, "device_batch_size": 64},
            254,
            "divides into parts of 1 at most, not of device_batc",
        ),
    ],
)
def test_a_batch_is_as_large_as_the_data_and_made_of_whole_parts(
    samples: int, ranks: int, changes: dict[str, Any], batch: int, note: str | None
) -> None:
    if batch == 1152:
        changes = {**changes, "batch_size": 4096}
    found, said = fit_batch(toy(**changes), samples, ranks)
    assert found.batch_size == batch
    assert (said is None) == (note is None and batch != 1152)
    assert (note or "") in (said or "")
    assert batch % (ranks * accumulation_steps(found, ranks)) == 0


def test_a_channel_that_never_changes_is_not_blown_up(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(6, 3, 64)).astype(np.float32)
    values[:, 1] = 0.1
    np.save(tmp_path / "x.npy", values)
    mean, std = measure_mean_and_std(open_dataset(tmp_path / "x.npy"), size=(64,), channels=3)
    assert mean == pytest.approx(values.astype(np.float64).mean((0, 2)), abs=1e-9)
    assert std == pytest.approx([values[:, 0].std(), 1.0, values[:, 2].std()], rel=1e-5)


def test_arrays_are_seen_as_the_checkpoint_saw_its_own(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"device": "cpu", "quiet": True}
    small = toy(image_size=None, epochs=1)
    run = pretrain(signals(tmp_path / "a"), out=tmp_path / "run", recipe=small, **settings)
    other = signals(tmp_path / "b", mean=50.0)
    tuned = finetune(
        other, source=run, out=tmp_path / "tuned", recipe=toy("finetune", image_size=None, epochs=1), **settings
    )
    before, after = load(run).preprocessing, load(tuned).preprocessing
    assert before is not None
    assert after is not None
    assert before.image_mean == after.image_mean == pytest.approx((5.0,) * 8, abs=0.3)
    fresh = prepare(toy("finetune", image_size=None), open_dataset(other), source=None)
    assert fresh.mean == pytest.approx((50.0,) * 8, abs=0.3)


def test_signals_are_fine_tuned_by_the_recipe_for_pictures(tmp_path: Path, capsys: Any) -> None:
    chosen = recipe("finetune_tiny_small_data").replace(
        overrides=TINY, epochs=1, batch_size=4, precision="fp32", workers=0
    )
    finetune(signals(tmp_path), source=None, out=tmp_path / "run", recipe=chosen, device="cpu")
    said = capsys.readouterr().err
    assert "arrays are not mirrored (flip=true does)" in said
    assert "rand_augment and erasing are for images, not for arrays" in said
    assert json.loads((tmp_path / "run" / "run.json").read_text())["finished"]


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        (
            (8, 500),
            {"image_size": None},
            "masked image modeling expects multiples of 32; the nearest sizes are 480 or 512",
        ),
        (
            (8, 512),
            {"image_size": (64, 64)},
            r"model takes \[8, 64, 64\]; image_size=none takes the size of the data",
        ),
        ((8, 512), {"image_size": (1024,)}, "expected at least 1024 on axis 1, as image_size says"),
        (
            (64, 64, 3),
            {"image_size": None},
            r"samples have the shape \[64, 64, 3\], .* channels seem to be the last axis",
        ),
    ],
)
def test_sizes_that_cannot_be_are_refused_before_anything_is_written(
    tmp_path: Path, shape: tuple[int, ...], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pretrain(signals(tmp_path, shape=shape), out=tmp_path / "run", recipe=toy(**changes), device="cpu", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("size", [(64,), (64, 64, 64)])
def test_a_size_with_other_axes_than_images_is_refused(tmp_path: Path, size: tuple[int, ...]) -> None:
    pictures(tmp_path / "p", classes=2, each=4)
    with pytest.raises(
        ValueError, match=r"image_size is .*, but the data are images; expected for example image_size=64,64"
    ):
        finetune(tmp_path / "p", source="hierax/femto", out=tmp_path / "run", recipe=toy("finetune", image_size=size))


def test_images_for_a_model_of_clips_are_refused_at_a_size_of_images(tmp_path: Path) -> None:
    pictures(tmp_path / "p", classes=2, each=4)
    chosen = toy("finetune", model="hiera_base_16x224", overrides={})
    with pytest.raises(ValueError, match=r"the data are images; the model takes \[3, 16, 224, 224\]"):
        finetune(tmp_path / "p", source=None, out=tmp_path / "run", recipe=chosen, device="cpu")


def test_one_class_is_nothing_to_tell_apart(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", classes=1)
    with pytest.raises(ValueError, match="the data has one class, class0; fine-tuning takes two or more"):
        finetune(data, source=None, out=tmp_path / "run", recipe=toy("finetune"), device="cpu", quiet=True)


@pytest.mark.parametrize(("digits", "point", "refused"), [(3, ".", True), (3, ",", True), (0, ".", False)])
def test_numbers_that_hardly_repeat_are_no_classes(tmp_path: Path, digits: int, point: str, refused: bool) -> None:
    data, random = pictures(tmp_path / "data"), np.random.default_rng(0)
    names = [path.relative_to(data) for path in sorted(data.rglob("*.png"))]
    ages = [str(round(float(random.normal()), digits)).replace(".", point) for _ in names]
    rows = [f"{name};{age}" for name, age in zip(names, ages, strict=True)]
    (data / "list.csv").write_text("\n".join(["path;age", *rows]))
    found = open_dataset(data / "list.csv", columns={"label": "age"})
    if refused:
        with pytest.raises(
            ValueError, match=r"labels are numbers such as -?\d[.,]\d+, and 16 of 16 differ: regression is"
        ):
            prepare(toy("finetune"), found, source=None)
    else:
        assert prepare(toy("finetune"), found, source=None).model.config.num_labels == len(found.classes)


def test_arrays_of_files_with_channels_last_are_refused(tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    np.save(tmp_path / "many" / "0.npy", np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match=r"0.npy: samples have the shape \[64, 64, 3\]"):
        prepare(toy(image_size=None), open_dataset(tmp_path / "many"), source=None)


def test_the_axes_of_arrays_are_said(tmp_path: Path) -> None:
    notes = prepare(toy("finetune", image_size=None), open_dataset(signals(tmp_path)), source=None).notes
    assert "arrays of 8 channels, each of 512 values" in notes


def test_validation_without_classes_is_refused_before_an_epoch_is_spent(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")
    with pytest.raises(ValueError, match="the data to validate on has no classes"):
        finetune(
            data, source=None, out=tmp_path / "run", recipe=toy("finetune"), validation=data / "class0", device="cpu"
        )


def test_validation_with_labels_of_another_kind_is_refused(tmp_path: Path) -> None:
    one, several = signals(tmp_path / "one"), signals(tmp_path / "several")
    np.save(several.with_name("x.labels.npy"), np.eye(2, dtype=np.float32)[np.arange(12) % 2])
    options: Any = {"source": None, "recipe": toy("finetune", image_size=None), "device": "cpu", "quiet": True}
    with pytest.raises(ValueError, match="to train on has one label, and each to validate on a list of labels"):
        finetune(one, validation=several, out=tmp_path / "run", **options)
    with pytest.raises(ValueError, match="to train on has a list of labels, and each to validate on one label"):
        finetune(several, validation=one, out=tmp_path / "run", **options)


def test_single_labels_are_told_apart_also_by_what_had_several(tmp_path: Path) -> None:
    source = randomize(HieraForImageClassification(image_config(problem_type="multi_label_classification")))
    save_model(source, tmp_path / "source")  # type: ignore[arg-type]
    made = prepare(toy("finetune", overrides={}), open_dataset(pictures(tmp_path / "data")), source=tmp_path / "source")
    assert made.model.config.problem_type == "single_label_classification"


def test_other_statistics_are_not_taken_for_those_of_arrays(tmp_path: Path) -> None:
    """A checkpoint that was trained on pictures tells nothing of arrays."""
    save_model(randomize(HieraForPreTraining(line_config(num_query_pool=2))), tmp_path / "source")  # type: ignore[arg-type]
    made = prepare(toy(image_size=None, overrides={}), open_dataset(signals(tmp_path)), source=tmp_path / "source")
    assert made.mean == pytest.approx((5.0,) * 8, abs=0.3)


@pytest.mark.parametrize("ratio", [0.76, 0.999])
@pytest.mark.parametrize("target", ["normalized", "hog"])
def test_a_mask_that_hides_all_is_refused_before_anything_is_written(tmp_path: Path, ratio: float, target: str) -> None:
    data = pictures(tmp_path / "data")
    message = rf"mask_ratio is {ratio}, which keeps none of 4 mask units; .* \(image_size is 64x64\)"
    with pytest.raises(ValueError, match=message):
        pretrain(data, out=tmp_path / "run", recipe=toy(mask_ratio=ratio, target=target), device="cpu", quiet=True)
    assert not (tmp_path / "run").exists()


def test_it_is_said_how_many_mask_units_are_seen(tmp_path: Path) -> None:
    data = open_dataset(pictures(tmp_path / "data"))
    notes = prepare(toy(mask_ratio=0.7, image_size=(96, 64)), data, source=None).notes
    assert notes == ("1 of 6 mask units are visible (mask_ratio 0.7, image_size 96x64)",)
    assert prepare(toy("finetune"), data, source=None).notes == ()


def test_arrays_without_labels_are_told_where_labels_belong(tmp_path: Path) -> None:
    (path := signals(tmp_path)).with_name("x.labels.npy").unlink()
    for data, message in (
        (path, rf"the data has no classes; fine-tuning takes labels from x\.labels\.npy beside {path}"),
        (single(tmp_path / "many"), "the data has no classes; fine-tuning takes a folder of class folders"),
    ):
        with pytest.raises(ValueError, match=message):
            finetune(data, source=None, out=tmp_path / "run", recipe=toy("finetune"), device="cpu", quiet=True)


def single(folder: Path) -> Path:
    """A folder with an array of its own for each sample."""
    folder.mkdir()
    for number in range(3):
        np.save(folder / f"{number}.npy", np.zeros((8, 512), np.float32))
    return folder


def test_signals_have_no_published_preprocessing() -> None:
    with pytest.raises(ValueError, match="expected a model of images or clips"):
        default_preprocessing((512,), 3)


def test_an_unreadable_first_image_does_not_stop_a_run(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", each=12)
    (data / "class0" / "0.png").write_bytes(b"no image")
    run = finetune(data, source=None, out=tmp_path / "run", recipe=toy("finetune", epochs=1), device="cpu", quiet=True)
    assert "0.png" in (run / "unreadable.txt").read_text()
    for path in data.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match="not an image"):
        prepare(toy("finetune"), open_dataset(data), source=None)


@pytest.mark.parametrize("first", ["uint8", "uint16"])
def test_images_of_different_depths_are_told(tmp_path: Path, first: str) -> None:
    for number in range(6):
        deep = (first == "uint16") == (number == 0)
        pixels = np.full((70, 70), 300 if deep else 30, np.uint16 if deep else np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    config = {**TINY, "num_channels": 1}
    found = prepare(toy(overrides=config), open_dataset(tmp_path), source=None)
    told = " ".join(found.notes)
    assert found.record.takes_values == (first == "uint16")
    expected = "stored values, uint16" if first == "uint16" else "1.png has values of uint16 and "
    assert expected in told


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint16), (4, np.uint8)])
def test_fine_tuning_takes_the_channels_of_the_checkpoint(tmp_path: Path, channels: int, dtype: Any) -> None:
    draw = np.random.default_rng(0)
    for number in range(8):
        (tmp_path / "data" / f"c{number % 2}").mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, np.iinfo(dtype).max // 2, (70, 70, channels), dtype).squeeze()
        Image.fromarray(pixels).save(tmp_path / "data" / f"c{number % 2}" / f"{number}.png")
    own = toy(overrides={**TINY, "num_channels": channels}, epochs=1)
    base = pretrain(tmp_path / "data", out=tmp_path / "base", recipe=own, source=None, device="cpu", quiet=True)
    stated = load(base).preprocessing
    run = finetune(
        tmp_path / "data", out=tmp_path / "run", recipe=toy("finetune", overrides={}, epochs=1), source=base,
        device="cpu", quiet=True,
    )  # fmt: skip
    model = load(run)
    found = model.preprocessing
    assert found is not None
    assert stated is not None
    assert (model.config.num_channels, len(found.image_mean)) == (channels, channels)
    assert found.takes_values == (dtype is np.uint16) == stated.takes_values


def test_a_size_that_is_no_multiple_of_the_mask_units_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image_size is 70x70 pixels; masked image modeling expects multiples"):
        prepare(toy(image_size=(70, 70)), open_dataset(pictures(tmp_path)), source=None)
