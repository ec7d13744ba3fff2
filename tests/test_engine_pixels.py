"""Input on the way to a device: pixels that are made there, and the pinned buffers that others travel through."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hierax.engine import Engine, staging
from hierax.engine.device_pixels import DevicePixels
from hierax.engine.staging import Staging
from hierax.processing import HieraImageProcessor, ImageError, load_image
from small import pixels
from tasks import make

CPU = torch.device("cpu")
SIZES = [(300, 200), (200, 300), (100, 90), (1000, 301), (640, 480), (200, 900), (256, 256)]
RECORDS: dict[str, dict[str, Any]] = {
    "ImageNet": {},
    "bilinear": {"resample": "bilinear"},
    "stretched, not cropped": {"size": {"height": 120, "width": 200}, "do_center_crop": False},
    "larger crop than picture": {"size": 100},
    "not resized": {"do_resize": False},
    "in gray levels": {"do_rescale": False},
    "in gray levels as they are": {"do_rescale": False, "do_normalize": False},
    "not normalized": {"do_normalize": False},
}


def photo() -> Image.Image:
    return load_image((files("hierax") / "assets" / "cat.jpg").read_bytes())


def levels_apart(processor: HieraImageProcessor, picture: Any) -> Tensor:
    """How many gray levels each value is off."""
    ours, theirs = DevicePixels(processor, CPU)(picture), processor(picture).pixel_values
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype == torch.float32
    record = processor.record
    level = torch.tensor(record.image_std if record.do_normalize else [1.0] * record.num_channels).reciprocal()
    return (ours - theirs).abs() / (level[:, None, None] * (record.rescale_factor if record.do_rescale else 1))


@pytest.mark.parametrize("changes", RECORDS.values(), ids=RECORDS.keys())
def test_photographs_are_within_one_gray_level_of_what_the_processor_makes(changes: dict[str, Any]) -> None:
    processor = HieraImageProcessor(**changes)
    for size in SIZES:
        off = levels_apart(processor, photo().resize(size))
        assert off.max() <= 1.001
        assert off.mean() <= 0.01


@pytest.mark.parametrize("changes", RECORDS.values(), ids=RECORDS.keys())
def test_noise_is_too_but_for_one_value_in_some_thousands(changes: dict[str, Any]) -> None:
    processor, random = HieraImageProcessor(**changes), np.random.default_rng(0)
    for width, height in SIZES:
        for levels in (256, 2):
            noise = random.integers(0, levels, (height, width, 3), dtype=np.uint8) * (255 // (levels - 1))
            off = levels_apart(processor, noise)
            assert off.max() <= 2.001
            assert (off > 1.001).float().mean() <= 5e-4


def test_pictures_that_keep_their_size_are_the_same_to_the_last_bits() -> None:
    assert levels_apart(HieraImageProcessor(do_resize=False), photo()).max() <= 1e-3


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_other_numbers_of_channels_are_resized_alike(channels: int) -> None:
    processor = HieraImageProcessor(image_mean=(0.4,) * channels, image_std=(0.3,) * channels)
    array = np.random.default_rng(0).integers(0, 256, (300, 260, channels), dtype=np.uint8)
    assert levels_apart(processor, array).max() <= 1.001


def test_every_form_of_picture_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    photo().save(path)
    array = np.asarray(photo())
    turned = photo()
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=turned.getexif())
    forms: list[Any] = [
        path, str(path), path.read_bytes(), photo(), array, torch.tensor(array).permute(2, 0, 1), array[:, ::-1],
        photo().convert("L"), photo().convert("RGBA"), photo().convert("P"), tmp_path / "turned.jpg",
    ]  # fmt: skip
    for fast in (False, True):
        processor = HieraImageProcessor(fast=fast)
        assert levels_apart(processor, forms).max() <= 2.001
    assert levels_apart(HieraImageProcessor(), np.stack([array] * 3)).max() <= 1.001


def test_what_it_does_not_do_is_what_the_processor_does() -> None:
    floats = np.random.default_rng(0).random((300, 260, 3), dtype=np.float32)
    for processor in (HieraImageProcessor(), HieraImageProcessor(resample="lanczos")):
        for picture in (floats, [photo(), floats], (floats * 65535).astype(np.uint16)):
            found, expected = DevicePixels(processor, CPU)(picture), processor(picture).pixel_values
            assert torch.equal(found[-1], expected[-1])


def test_errors_are_those_of_the_processor(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    made = DevicePixels(HieraImageProcessor(), CPU)
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        made([photo(), tmp_path / "broken.jpg"])
    with pytest.raises(ImageError, match=r"images\[1\]"):
        made([photo(), b"not a picture"])
    with pytest.raises(ImageError, match="would become"):
        made(np.zeros((1, 300_000, 3), np.uint8))
    with pytest.raises(ValueError, match="images is empty"):
        made([])
    with pytest.raises(ValueError, match="one tensor needs one size"):
        DevicePixels(HieraImageProcessor(do_center_crop=False), CPU)([photo(), photo().resize((300, 300))])


def test_what_is_made_in_inference_mode_can_be_trained_on() -> None:
    with torch.inference_mode():
        made = DevicePixels(HieraImageProcessor(), CPU)(photo())
    assert not made.is_inference()


def test_an_engine_with_a_processor_of_its_users_makes_no_pixels_elsewhere() -> None:
    with Engine(make("image", "features"), precision="fp32", backend="torch") as engine:
        assert engine._device_pixels is None  # a CPU


# -- pinned buffers ---------------------------------------------------------------------------------------------------


class Event:
    """Of a device that finishes nothing before it is waited for."""

    def __init__(self, device: "FakeDevice") -> None:
        self.device, self.upto = device, 0

    def record(self) -> None:
        self.upto = len(self.device.copies)

    def synchronize(self) -> None:
        self.device.waits += 1
        self.device.run(self.upto)


class FakeDevice:
    """Copies from pinned buffers later than it is asked to, in order."""

    def __init__(self) -> None:
        self.copies: list[tuple[Tensor, Tensor]] = []
        self.done = self.waits = 0

    def run(self, upto: int) -> None:
        for source, target in self.copies[self.done : upto]:
            target.copy_(source)
        self.done = max(self.done, upto)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> tuple[FakeDevice, Staging]:
    device = FakeDevice()

    class Pinned(Tensor):
        """Memory that a device copies from."""

        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is not Tensor.to:
                return super().__torch_function__(func, types, args, kwargs or {})
            source = args[0].as_subclass(Tensor)
            device.copies.append((source, torch.full_like(source, -1)))
            return device.copies[-1][1]

    class Here:
        def __init__(self, *_: Any) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *_: Any) -> None: ...

    monkeypatch.setattr(staging, "_pinned", lambda count: torch.zeros(count, dtype=torch.uint8).as_subclass(Pinned))
    monkeypatch.setattr(torch.cuda, "Event", lambda: Event(device))
    monkeypatch.setattr(torch.cuda, "device", Here)
    return device, Staging(torch.device("cuda", 0))


def test_no_buffer_is_written_before_the_device_has_read_it(fake: tuple[FakeDevice, Staging]) -> None:
    device, stage = fake
    moved = [stage(torch.full((2, 3), float(i))) for i in range(7)]
    assert device.waits == 5  # the first two find an empty buffer
    assert device.done == 5  # and nothing waits for more than it has to
    device.run(7)
    assert [tensor.unique().tolist() for tensor in moved] == [[float(i)] for i in range(7)]


def test_buffers_grow_to_the_largest_tensor_and_serve_smaller_ones(fake: tuple[FakeDevice, Staging]) -> None:
    device, stage = fake
    sent = [torch.randn(shape) for shape in ((2, 3), (4, 5, 6), (7,), (1, 1), (4, 5, 6))]
    moved = [stage(tensor) for tensor in sent]
    device.run(len(sent))
    assert all(map(torch.equal, moved, sent))
    assert [buffer.numel() for buffer in stage._buffers if buffer is not None] == [4 * 120, 4 * 120]


def test_tensors_change_their_precision_on_the_way(fake: tuple[FakeDevice, Staging]) -> None:
    device, stage = fake
    x, kept = torch.randn(2, 3, 4).transpose(1, 2), torch.arange(5)
    moved = [stage(x, torch.bfloat16), stage(kept)]
    device.run(2)
    assert torch.equal(moved[0], x.bfloat16())
    assert torch.equal(moved[1], kept)


def test_elsewhere_tensors_are_passed_on_as_they_are() -> None:
    x = pixels(make("image", "features").config)
    assert Staging(CPU)(x) is x
    assert Staging(CPU)(x, torch.bfloat16).dtype == torch.bfloat16
