"""What engines take: pictures in any form, ready pixels, and folders of checkpoints."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engines import assert_same, plainly
from hierax import HieraBackbone, HieraForImageClassification, HieraForPreTraining, HieraModel
from hierax.engine import Engine
from hierax.processing import HieraImageProcessor, ImageError
from small import pixels, units_of
from tasks import EVERY, make

pytest.importorskip("openvino")

pytest_plugins = ("engines",)
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def on_pictures() -> Iterator[tuple[Any, HieraImageProcessor, Engine]]:
    torch.manual_seed(0)
    model, processor = make("image", "classification"), HieraImageProcessor(size=72, crop_size=64)
    with Engine(model, precision="fp32", backend="torch", processor=processor) as engine:
        yield model, processor, engine


def test_pictures_come_in_any_form(photo: Path, on_pictures: tuple[Any, HieraImageProcessor, Engine]) -> None:
    model, processor, engine = on_pictures
    image = Image.open(photo)
    forms: list[Any] = [
        photo,
        str(photo),
        photo.read_bytes(),
        image,
        np.asarray(image),
        torch.tensor(np.asarray(image)),
    ]
    expected = plainly(model, processor(photo).pixel_values)
    for form in forms:
        assert_same(engine(form), expected)
    assert_same(engine(forms), plainly(model, processor(forms).pixel_values))


def test_ready_pixels_may_come_first_too(on_pictures: tuple[Any, HieraImageProcessor, Engine]) -> None:
    model, _, engine = on_pictures
    x = pixels(model.config)
    assert_same(engine(x), plainly(model, x))


def test_pixels_of_any_precision_and_layout_are_taken(on_pictures: tuple[Any, HieraImageProcessor, Engine]) -> None:
    model, _, engine = on_pictures
    x = pixels(model.config, 3)
    strange = [x.double(), x.flip(0).flip(0), x.to(memory_format=torch.channels_last), x.requires_grad_(True)]
    for one in strange:
        assert_same(engine(pixel_values=one), plainly(model, x))
    assert engine(pixel_values=x.bfloat16()).logits.dtype == torch.float32  # type: ignore[attr-defined]


def test_a_picture_that_cannot_be_read_is_named(
    photo: Path, tmp_path: Path, on_pictures: tuple[Any, HieraImageProcessor, Engine]
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(photo.read_bytes()[:200])
    with pytest.raises(ImageError, match=r"broken\.png"):
        on_pictures[2]([photo, broken])
    with pytest.raises(ValueError, match="empty"):
        on_pictures[2]([])


@pytest.mark.parametrize("task", [None, "features", "backbone"])
def test_a_checkpoint_is_opened_as_any_task(task: str | None, classifier: Path) -> None:
    kind = {None: HieraForImageClassification, "features": HieraModel, "backbone": HieraBackbone}[task]
    options: Any = {"out_features": EVERY} if task == "backbone" else {}
    model: Any = kind.from_pretrained(classifier, **options)
    x = pixels(model.config)
    with Engine(classifier, task=task, precision="fp32", backend="torch", **options) as engine:
        assert_same(engine(pixel_values=x), plainly(model, x))
        assert engine.processor.to_dict() == HieraImageProcessor.from_pretrained(classifier).to_dict()


def test_an_engine_for_pretraining_needs_no_more_than_the_checkpoint(mae: Path) -> None:
    model: Any = HieraForPreTraining.from_pretrained(mae)
    noise = torch.rand(2, units_of(model.config))
    x = pixels(model.config)
    with Engine(mae, precision="fp32", backend="torch") as engine:
        assert_same(engine(pixel_values=x, noise=noise), plainly(model, x, noise=noise))
