"""How pixels are made at another size, and where nothing is stated: one answer in every part of hierax."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hierax import Engine, HieraForImageClassification, HieraImageProcessor, Preprocessing
from hierax.checkpoint.preprocessing import resize_record
from hierax.collection.source import Source
from hierax.data import Dataset, open_dataset
from hierax.demo.inputs import preprocessing_at
from hierax.embedding.decode import decoder_of
from hierax.embedding.extractor import FeatureExtractor
from hierax.model.config import variant_config
from hierax.predict.predictor import open_predictor
from hierax.processing import IMAGENET
from hierax.processing.defaults import default_preprocessing, preprocessing_for
from hierax.train.evaluation import _model_inputs
from hierax.train.pixels import record_for
from hierax.train.teacher import open_teacher
from small import image_config, line_config, randomize
from training import toy

CROPPED = IMAGENET.replace(size=72, crop_size=64)
SQUASHED = Preprocessing(size={"height": 64, "width": 64}, do_center_crop=False)
SQUASHED_AND_CROPPED = IMAGENET.replace(size={"height": 72, "width": 72}, crop_size=64)
WHOLE = IMAGENET.replace(size=64, do_center_crop=False)
NATIVE = IMAGENET.replace(do_resize=False, crop_size=64)

AT = [  # record, asked, size, crop
    (CROPPED, 64, {"shortest_edge": 72}, (64, 64)),
    (CROPPED, 128, {"shortest_edge": 144}, (128, 128)),
    (CROPPED, (64, 128), {"shortest_edge": 144}, (64, 128)),
    (CROPPED, (128, 64), {"shortest_edge": 144}, (128, 64)),
    (SQUASHED, 128, {"height": 128, "width": 128}, None),
    (SQUASHED, (64, 128), {"height": 64, "width": 128}, None),
    (SQUASHED_AND_CROPPED, 128, {"height": 144, "width": 144}, (128, 128)),
    (SQUASHED_AND_CROPPED, (64, 128), {"height": 72, "width": 144}, (64, 128)),
    (WHOLE, 128, {"shortest_edge": 128}, (128, 128)),
    (WHOLE, (64, 128), {"shortest_edge": 128}, (64, 128)),
    (CROPPED.at((64, 128)), (128, 256), {"shortest_edge": 288}, (128, 256)),
    (CROPPED.at((64, 128)), (64, 64), {"shortest_edge": 72}, (64, 64)),
]


@pytest.mark.parametrize(("record", "asked", "size", "crop"), AT)
def test_another_size_sees_the_same_part_of_an_image(
    record: Preprocessing, asked: int | tuple[int, int], size: dict[str, int], crop: tuple[int, int] | None
) -> None:
    made = record.at(asked)
    assert made.size == size
    assert made.do_center_crop == (crop is not None)
    assert crop is None or (made.crop_size["height"], made.crop_size["width"]) == crop
    assert made.output_size == ((asked, asked) if isinstance(asked, int) else asked)


@pytest.mark.parametrize("record", [CROPPED, SQUASHED, SQUASHED_AND_CROPPED, NATIVE])
def test_a_record_at_its_own_size_is_itself(record: Preprocessing) -> None:
    assert record.at(64) is record


def test_a_crop_of_pixels_that_are_not_resized_stays_one() -> None:
    assert (NATIVE.at(32).do_resize, NATIVE.at(32).output_size) == (False, (32, 32))


@pytest.mark.parametrize("size", [0, -1, (64, 0), (64,), (2, 64, 64)])
def test_a_size_is_above_0(size: int | tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected pixels of a square, or rows and columns, above 0"):
        CROPPED.at(size)


def test_the_whole_image_keeps_its_shape() -> None:
    assert (SQUASHED.whole(96).size, SQUASHED.whole(96).output_size) == ({"shortest_edge": 96}, None)
    assert CROPPED.whole().size == {"shortest_edge": 64}


def test_what_was_published_is_at_the_models_own_size() -> None:
    record = Preprocessing.for_model(image_config(image_size=(320, 320)))
    assert record is not None
    assert (record.size, record.output_size) == ({"shortest_edge": 365}, (320, 320))
    assert Preprocessing.for_model(image_config(num_channels=4)) is None
    assert Preprocessing.for_model(image_config(), CROPPED) is CROPPED


def test_clips_are_preprocessed_as_those_of_kinetics() -> None:
    config = variant_config("hiera_base_16x224")
    record = Preprocessing.for_model(config)
    assert record is not None
    assert (record.image_mean[0], record.num_frames, record.output_size) == (0.45, 16, (224, 224))
    stated = Preprocessing.for_model(config, CROPPED)
    assert stated is not None
    assert (stated.num_frames, stated.sampling_rate, stated.size) == (16, 4, CROPPED.size)


GRAY_LEVELS = CROPPED.replace(do_normalize=False, do_rescale=False, image_dtype="uint8")
RECORDS = {
    "none": None,
    "cropped": CROPPED,
    "squashed": SQUASHED,
    "squashed and cropped": SQUASHED_AND_CROPPED,
    "native": NATIVE,
    "whole": WHOLE,
}
"""Of models of 64 pixels."""
SIDES = [(64, 64), (128, 128), (64, 128)]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    for label, turn in (("a", 0), ("b", 90)):
        image = Image.linear_gradient("L").convert("RGB").resize((230, 150)).rotate(turn)
        (tmp_path / "data" / label).mkdir(parents=True)
        image.save(tmp_path / "data" / label / "0.png")
    return open_dataset(tmp_path / "data")


@pytest.mark.parametrize("record", RECORDS.values(), ids=list(RECORDS))
@pytest.mark.parametrize("sides", SIDES)
def test_every_part_of_hierax_makes_the_same_pixels(
    record: Preprocessing | None, sides: tuple[int, int], dataset: Dataset
) -> None:
    from hierax.engine.export.export import _preprocessing_for

    model = HieraForImageClassification(image_config(num_labels=2))
    model.preprocessing = record
    config = model.config.replace(image_size=sides)
    resized = HieraForImageClassification(config)
    resized.preprocessing = record and resize_record(record, model.config, config)
    expected = (record or Preprocessing.for_model(model.config)).at(sides)  # type: ignore[union-attr]
    side = None if sides == (64, 64) else sides[0]  # `embed` makes squares
    with contextlib.closing(FeatureExtractor(model, size=side, backend="torch", precision="fp32")) as extractor:
        found = {"embed": extractor.record} if side is None or sides == (side, side) else {}
    found["predict"] = open_predictor(model, size=sides).preprocessing
    found["export"] = _preprocessing_for(model, config)  # type: ignore[assignment]
    found["evaluate"] = _model_inputs(dataset, resized, max_pixels=None).view.record
    found["train"] = record_for(toy("finetune"), dataset, dataset.sample(0), resized, [])
    found["demo"] = preprocessing_at(model, sides[0]) if sides[0] == sides[1] else expected
    if record is not None:
        found["load"] = resized.preprocessing.at(sides)  # type: ignore[union-attr]
    assert found == dict.fromkeys(found, expected)


@pytest.mark.parametrize("record", [*RECORDS.values(), GRAY_LEVELS], ids=[*RECORDS, "gray levels"])
@pytest.mark.parametrize("sides", SIDES)
def test_evaluation_and_teachers_answer_as_the_model_does_for_the_processors_pixels(
    record: Preprocessing | None, sides: tuple[int, int], dataset: Dataset, tmp_path: Path
) -> None:
    """A teacher sees its student's crop, and takes mean and deviation from its own record."""
    config = image_config(num_labels=2, image_size=sides)
    model = HieraForImageClassification(config)
    randomize(model)
    model.preprocessing = record and record.at(sides)
    model.save_pretrained(tmp_path / "model")
    inputs = _model_inputs(dataset, model, max_pixels=None)
    levels = torch.from_numpy(np.stack([inputs.view[i].pixels for i in range(2)]))  # type: ignore[union-attr]
    processor = HieraImageProcessor(preprocessing_for(config, model.preprocessing), fast=True)
    contents = [dataset.sample(i).content for i in range(2)]
    mean, std = (torch.tensor(values)[:, None, None] for values in (inputs.mean, inputs.std))
    evaluated = (levels - mean) / std
    assert torch.allclose(evaluated, processor(contents).pixel_values, atol=1e-4)
    teacher = open_teacher(tmp_path / "model", size=sides, device=torch.device("cpu"))
    zero, one = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    with torch.no_grad():
        expected = model.eval()(evaluated).logits
    found = teacher(levels, zero, one).logits
    assert found is not None
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_where_nothing_is_stated_all_parts_read_as_many_channels_as_the_model_has(
    channels: int, dataset: Dataset
) -> None:
    model = HieraForImageClassification(image_config(num_labels=2, num_channels=channels))
    with Engine(model, device="cpu", backend="torch", precision="fp32") as engine:
        found = {"engine": engine.processor.record, "predict": open_predictor(engine).preprocessing}
    with contextlib.closing(FeatureExtractor(model, backend="torch", precision="fp32")) as extractor:
        found["embed"] = extractor.record
    found["evaluate"] = _model_inputs(dataset, model, max_pixels=None).view.record
    assert found == dict.fromkeys(found, default_preprocessing((64, 64), channels))


@pytest.mark.parametrize("record", [CROPPED, SQUASHED, SQUASHED_AND_CROPPED, WHOLE.at((64, 96))])
def test_embed_reads_the_pixels_that_the_processor_makes(record: Preprocessing, tmp_path: Path) -> None:
    Image.linear_gradient("L").convert("RGB").resize((130, 90)).save(tmp_path / "a.png")
    decoder = decoder_of(record)
    read = np.zeros((3, *record.fixed_size), np.uint8)
    assert decoder(Source(str(tmp_path / "a.png")), read).error is None
    made = HieraImageProcessor(record, fast=True, do_rescale=False, do_normalize=False)(tmp_path / "a.png")
    assert np.abs(read.astype(float) - made.pixel_values[0].numpy()).max() <= 1


def test_a_record_of_no_fixed_size_says_so() -> None:
    with pytest.raises(ValueError, match="images differ in size; expected do_center_crop"):
        decoder_of(WHOLE)


def test_signals_that_state_nothing_are_read_as_for_imagenet() -> None:
    assert preprocessing_for(line_config(), None) is IMAGENET
    assert preprocessing_for(image_config(num_channels=4), CROPPED) is CROPPED
    assert preprocessing_for(image_config(), None) == Preprocessing.for_model(image_config())
