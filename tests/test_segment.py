"""Segments images: masks of the upright image's own size, windows, and the files of the command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

import hierax
from hierax.console import ProgressDisplay
from hierax.predict.segment import open_segmenter, segmentations
from hierax.processing import ImageError
from small import image_config, randomize

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)
EXACT: dict[str, Any] = {"precision": "fp32", "backend": "torch", "device": "cpu"}
TORCH = ("--precision", "fp32", "--backend", "torch", "--device", "cpu")
Model = hierax.HieraForSemanticSegmentation


@pytest.fixture(scope="session")
def model(segmenter_folder: str) -> Model:
    return Model.from_pretrained(segmenter_folder).eval()


def noise(path: str, width: int, height: int, seed: int = 0) -> Path:
    """Coarse noise, in which the model sees areas."""
    cells = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    array = cells.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return Path(path)


def one(path: str | Path, **options: Any) -> hierax.Segmentation:
    (found,) = hierax.segment(path, **options)
    return found


def mask_of(path: str | Path, **options: Any) -> np.ndarray:
    mask = one(path, **options).mask
    assert mask is not None
    return mask


def classes(model: Model, pixels: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """The classes of the model's logits, enlarged to `size` at once."""
    with torch.no_grad():
        logits = model.enlarged(model.coarse_logits(pixels), pixels.shape[2:], size)
    return logits[0].argmax(0).numpy().astype(np.uint8)


# -- the answer


@pytest.mark.parametrize(("width", "height"), [(64, 64), (100, 80), (97, 203), (33, 17), (1, 1)])
def test_a_mask_is_the_models_answer_for_the_whole_image_at_its_own_size(
    here: Path, model: Model, width: int, height: int
) -> None:
    path = noise("a.png", width, height)
    assert model.preprocessing is not None
    pixels = hierax.HieraImageProcessor(model.preprocessing)(path).pixel_values
    assert min(pixels.shape[2:]) == 64
    found = one(path, model=model, window=10_000)
    assert found.mask is not None
    assert found.mask.dtype == np.uint8
    assert np.array_equal(found.mask, classes(model, pixels, (height, width)))
    assert sum(area.pixels for area in found.areas) == width * height
    assert math.isclose(sum(area.share for area in found.areas), 1)
    assert width < 64 or len(found.areas) > 1
    assert [a.pixels for a in found.areas] == sorted((a.pixels for a in found.areas), reverse=True)
    assert all(area.label == found.labels[area.index] == model.config.id2label[area.index] for area in found.areas)
    assert all(area.pixels == int((found.mask == area.index).sum()) for area in found.areas)


def test_the_size_is_the_shorter_side_and_full_size_does_not_resize(here: Path, model: Model) -> None:
    path = noise("a.png", 150, 90)
    assert model.preprocessing is not None
    for options, record in (
        ({"size": 128}, model.preprocessing.whole(128)),
        ({"full_size": True}, model.preprocessing.replace(do_resize=False)),
    ):
        pixels = hierax.HieraImageProcessor(record)(path).pixel_values
        assert np.array_equal(mask_of(path, model=model, window=999, **options), classes(model, pixels, (90, 150)))


def test_a_record_that_crops_is_used_for_the_whole_image(here: Path) -> None:
    cropping = randomize(Model(image_config(segmentation_hidden_size=16)), 0.3).eval()
    assert isinstance(cropping, Model)
    cropping.preprocessing = hierax.Preprocessing().at(64)
    predictor = open_segmenter(cropping)
    assert (dict(predictor.preprocessing.size), predictor.preprocessing.do_center_crop) == (
        {"shortest_edge": 64},
        False,
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_that_of_the_upright_image(here: Path, model: Model, orientation: int) -> None:
    path = noise("a.png", 96, 64)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    with Image.open(path) as upright:
        stored = upright if orientation == 1 else upright.transpose(turn[orientation])
        stored.save("b.png", exif=exif)
    assert np.array_equal(mask_of("b.png", model=model), mask_of(path, model=model))
    found = one("b.png", model=model)
    assert found.overlay().size == (96, 64)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16", "CMYK"])
def test_images_of_every_mode_are_segmented_as_what_is_seen(here: Path, model: Model, mode: str) -> None:
    noise("a.png", 96, 64)
    with Image.open("a.png") as image:
        suffix = "tif" if mode == "CMYK" else "png"
        if mode == "I;16":
            converted = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
            image.convert("L").convert("RGB").save("seen.png")
        else:
            converted = image.convert(mode)
            converted.convert("RGB").save("seen.png")
        converted.save(f"b.{suffix}")
    found = one(f"b.{suffix}", model=model)
    assert found.mask is not None
    assert np.mean(found.mask == mask_of("seen.png", model=model)) > 0.98
    assert found.overlay().mode == "RGB"


def test_more_than_256_classes_give_16_bits(here: Path) -> None:
    wide = randomize(Model(image_config(num_labels=300, segmentation_hidden_size=16)), 0.3).eval()
    found = one(noise("a.png", 64, 64), model=wide)
    assert found.mask is not None
    assert found.mask.dtype == np.uint16
    files = found.save("out")
    with Image.open(files.mask) as image:
        assert np.array_equal(np.asarray(image), found.mask)


def test_a_channel_more_or_less_is_no_obstacle(here: Path) -> None:
    for channels in (1, 5):
        config = image_config(num_channels=channels, segmentation_hidden_size=16)
        made = randomize(Model(config), 0.3).eval()
        np.save("a.npy", np.random.default_rng(0).integers(0, 256, (70, 90, channels), dtype=np.uint8))
        found = one("a.npy", model=made)
        assert found.mask is not None
        assert found.mask.shape == (70, 90)
        assert found.overlay().size == (90, 70)


def test_an_output_that_is_not_finite_is_an_error_of_the_image(here: Path, model: Model) -> None:
    broken = Model(model.config)
    broken.load_state_dict(model.state_dict())
    with torch.no_grad():
        next(broken.segmentation.parameters()).fill_(math.nan)
    found = one(noise("a.png", 64, 64), model=broken)
    assert found.error is not None
    assert "the output of the model is not finite" in found.error.problem


@pytest.mark.slow
def test_an_engine_a_checkpoint_and_an_export_answer_as_the_model(
    here: Path, model: Model, segmenter_folder: str
) -> None:
    """An export is for one size, which that of windows is then."""
    hierax.export(segmenter_folder, "exported", format="pt2")
    sources = ((segmenter_folder, EXACT), (hierax.Engine(segmenter_folder, **EXACT), {}), ("exported", {}))
    for width, height in ((150, 100), (64, 64), (40, 30)):
        path = noise(f"{width}.png", width, height)
        for options in ({}, {"full_size": True}):
            for window in (None, 64):
                wanted = mask_of(path, model=model, window=window, **options)
                fixed = window is not None and min(width, height) >= 64
                for source, engine in sources[: 3 if fixed else 2]:
                    found = mask_of(path, model=source, window=window, **options, **engine)
                    assert np.mean(found == wanted) >= 0.999, (source, options)
    assert mask_of("40.png", model="exported", full_size=True).shape == (30, 40)
    with pytest.raises(ValueError, match="window is 32; this model was exported for 64x64 pixels, which"):
        hierax.segment("64.png", model="exported", window=32)


# -- windows


def naive(
    model: Model, levels: torch.Tensor, starts: list[list[int]], window: int, size: tuple[int, int]
) -> np.ndarray:
    """Windows that are merged with all logits in memory: a weight falls from the middle of the overlap's far border."""
    rows, columns = (-(-n // 4) for n in levels.shape[2:])
    total, weights = torch.zeros(model.config.num_labels, rows, columns), torch.zeros(rows, columns)
    cells = window // 4

    def weight(place: int, along: list[int]) -> torch.Tensor:
        made = torch.ones(cells)
        ramp = torch.arange(cells) + 0.5
        if place:
            made = made.minimum(ramp / ((along[place - 1] + window - along[place]) / 4))
        if place + 1 < len(along):
            made = made.minimum(ramp.flip(0) / ((along[place] + window - along[place + 1]) / 4))
        return made

    for i, top in enumerate(starts[0]):
        for j, left in enumerate(starts[1]):
            with torch.no_grad():
                logits = model.coarse_logits(levels[:, :, top : top + window, left : left + window])[0]
            share = weight(i, starts[0])[:, None] * weight(j, starts[1])
            total[:, top // 4 : top // 4 + cells, left // 4 : left // 4 + cells] += logits * share
            weights[top // 4 : top // 4 + cells, left // 4 : left // 4 + cells] += share
    logits = model.enlarged((total / weights)[None], levels.shape[2:], size)
    return logits[0].argmax(0).numpy().astype(np.uint8)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_windows_are_merged_with_weights(here: Path, model: Model, turned: bool, batch_size: int) -> None:
    width, height = (128, 208) if turned else (208, 128)
    path = noise("a.png", width, height)
    assert model.preprocessing is not None
    pixels = hierax.HieraImageProcessor(model.preprocessing.replace(do_resize=False))(path).pixel_values
    starts = [[0, 32, 64], [0, 48, 96, 144]]
    wanted = naive(model, pixels, starts[:: -1 if turned else 1], 64, (height, width))
    found = mask_of(path, model=model, full_size=True, window=64, overlap=0.25, batch_size=batch_size)
    assert np.mean(found == wanted) > 0.999


@pytest.mark.parametrize(("width", "height"), [(201, 99), (67, 300), (65, 64), (400, 20)])
def test_windows_cover_images_of_any_size(here: Path, model: Model, width: int, height: int) -> None:
    found = one(noise("a.png", width, height), model=model, full_size=True, window=50)
    assert found.mask is not None
    assert found.mask.shape == (height, width)


def test_an_image_is_not_cut_until_it_is_longer_than_twice_the_native_size(
    here: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    coarse = Model.coarse_logits

    def noted(self: Model, pixels: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(pixels.shape))
        return coarse(self, pixels)

    monkeypatch.setattr(Model, "coarse_logits", noted)
    mask_of(noise("a.png", 128, 100), model=model, full_size=True)
    assert shapes == [(1, 3, 100, 128)]
    shapes.clear()
    mask_of(noise("b.png", 140, 64), model=model, full_size=True)
    assert shapes == [(1, 3, 64, 128)] * 2
    shapes.clear()
    mask_of(noise("c.png", 140, 64), model=model, full_size=True, window=33, batch_size=2)
    assert shapes == [(2, 3, 64, 64), (1, 3, 64, 64)]


# -- arguments and models


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"window": 0}, "window is 0; expected pixels, a whole number above 0"),
        ({"window": 64.0}, r"window is 64\.0; expected pixels"),
        ({"overlap": 1}, "overlap is 1; expected a number from 0 to below 1"),
        ({"overlap": "half"}, "overlap is 'half'"),
        ({"overlap": math.nan}, "overlap is nan"),
        ({"size": 0}, "size is 0; expected"),
        ({"size": (64, 64)}, "size is 64x64; expected one number, the shorter side"),
        ({"size": 64, "full_size": True}, "size is 64 and full_size is True; expected one of them"),
    ],
)
def test_wrong_arguments_are_refused(model: Model, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        hierax.segment([], model=model, **options)


def test_a_model_for_another_task_is_refused(
    run: Run, classifier_folder: str, clips: str, segmenter_folder: str
) -> None:
    for other, task in ((classifier_folder, "classification"), (clips, "video-classification")):
        code, _, err = run("segment", "a", "-o", "out", "--model", other)
        assert code == 2
        assert f"this model is for {task}; segment needs a segmentation model, such as the run of hierax fine" in err
    assert not Path("out").exists()
    code, _, err = run("reconstruct", "a", "-o", "out.png", "--model", segmenter_folder)
    assert (code, "this model is for segmentation; reconstruct needs an MAE model" in err) == (2, True)
    code, _, err = run("classify", "a", "--model", segmenter_folder)
    assert code == 2
    assert "this model is for segmentation; classify needs a classifier, such as hierax/femto; segment takes" in err


# -- files


def test_the_command_writes_a_mask_an_overlay_and_areas(run: Run, model: Model, segmenter_folder: str) -> None:
    noise("street.jpg", 120, 80)
    code, out, err = run("segment", "street.jpg", "-o", "out", "--model", segmenter_folder, *TORCH)
    assert code == 0, err
    assert out.startswith("street.jpg: out/street.png   ")
    assert sorted(path.name for path in Path("out").iterdir()) == ["street-overlay.jpg", "street.json", "street.png"]
    found = one("street.jpg", model=model)
    assert found.mask is not None
    with Image.open("out/street.png") as mask:
        assert (mask.mode, mask.size) == ("P", (120, 80))
        assert np.array_equal(np.asarray(mask), found.mask)
        areas = json.loads(Path("out/street.json").read_text())
        assert areas == found.to_dict()
        for area in areas["areas"]:
            y, x = np.argwhere(found.mask == area["index"])[0]
            assert list(mask.convert("RGB").getpixel((int(x), int(y)))) == area["color"]  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with Image.open("out/street-overlay.jpg") as drawn:
        assert drawn.width == 120
        assert drawn.height > 80


def test_what_cannot_be_read_is_skipped_and_told(run: Run, segmenter_folder: str) -> None:
    Path("b/broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    common = ("-o", "out", "--model", segmenter_folder, *TORCH)
    code, out, err = run("segment", "a", "b", "missing.png", *common)
    assert code == 3
    assert "b/broken.jpg" in err
    assert "missing.png: no such file" in err
    assert len(out.splitlines()) == 4
    code, out, _ = run("segment", "notes.txt", "a", *common, "--json", "--overwrite")
    good, bad = sorted((json.loads(line) for line in out.splitlines()), key=lambda found: "error" in found)
    assert (code, bad["path"], list(bad)) == (3, "notes.txt", ["path", "error"])
    assert Path(good["mask"]).is_file()
    assert Path(good["overlay"]).is_file()
    assert good["width"] * good["height"] == sum(area["pixels"] for area in good["areas"])
    code, out, _ = run("segment", "notes.txt", "-o", "other", "--model", segmenter_folder)
    assert (code, out) == (2, "")
    assert not Path("other").exists()


def test_images_of_the_same_name_are_both_kept(run: Run, segmenter_folder: str) -> None:
    noise("cat.png", 64, 64)
    code, _, _ = run("segment", "a", "b", "cat.png", "-o", "out", "--model", segmenter_folder, *TORCH)
    assert code == 0
    masks = sorted(path.name for path in Path("out").glob("*.png"))
    assert masks == ["a-cat.png", "b-cat.png", "cat.png", "dog.png", "owl.png"]
    assert len(list(Path("out").iterdir())) == 15


def test_files_are_replaced_only_when_told_to_and_inputs_never(run: Run, segmenter_folder: str) -> None:
    command = ("segment", "a", "-o", "out", "--model", segmenter_folder, *TORCH)
    assert run(*command)[0] == 0
    Path("out/cat.json").unlink()
    before = Path("out/cat.png").stat().st_mtime_ns
    code, _, err = run(*command)
    assert code == 2
    assert "out/cat.png and 1 more would be replaced; choose another folder, or pass --overwrite" in err
    assert Path("out/cat.png").stat().st_mtime_ns == before
    assert run(*command, "--overwrite")[0] == 0
    assert Path("out/cat.json").exists()
    code, _, err = run("segment", "b/dog.png", "-o", "b", "--model", segmenter_folder, "--overwrite")
    assert code == 2
    assert "b/dog.png is one of the inputs and would be replaced; choose another place for the output" in err
    code, _, err = run("segment", "a", "-o", "notes.txt", "--model", segmenter_folder)
    assert code == 2
    assert "is a file; expected a folder to write to" in err


def test_the_windows_of_a_large_image_have_a_progress_of_their_own(
    run: Run, segmenter_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    class Display(ProgressDisplay):
        def update(self, done: int, total: int, note: str = "") -> None:
            seen.append((done, total))

    monkeypatch.setattr("hierax.cli.segment.ProgressDisplay", Display)
    command = ("segment", "a", "-o", "out", "--model", segmenter_folder, *TORCH, "--overwrite", "--full-size")
    assert run(*command)[0] == 0
    assert seen == []
    assert run(*command, "--window", "32")[0] == 0
    assert seen == [(number, 12) for number in range(1, 13)]


def test_masks_of_an_earlier_call_are_no_images(run: Run, segmenter_folder: str) -> None:
    """The folder of the results may be the folder of the images, or lie in it."""
    noise("photos/a.jpg", 64, 64)
    noise("photos/b.png", 64, 64)
    for output, left in (("photos/masks", 4), ("photos", 2)):
        command = ("segment", "photos", "-o", output, "--model", segmenter_folder, *TORCH, "--overwrite")
        if output == "photos":
            Path("photos/b.png").unlink()  # its mask would replace it
        assert run(*command)[0] == 0
        before = sorted(path.name for path in Path(output).iterdir())
        code, out, err = run(*command)
        assert (code, len(out.splitlines())) == (0, 2 if left == 4 else 1)
        assert "left out: masks and overlays that hierax segment wrote" in err
        assert sorted(path.name for path in Path(output).iterdir()) == before
    assert run("segment", "photos/a.png", "-o", "other", "--model", segmenter_folder, *TORCH)[0] == 0
    assert Path("other/a.png").is_file()


def test_results_can_be_saved_from_python(here: Path, model: Model) -> None:
    first, second, third = hierax.segment(["a/cat.jpg", "b/cat.jpg", "notes.txt"], model=model)
    assert [path.name for path in first.save("out")] == ["a-cat.png", "a-cat-overlay.jpg", "a-cat.json"]
    with pytest.raises(ValueError, match=r"out/a-cat\.png and 2 more would be replaced"):
        first.save("out")
    assert first.save("out", overwrite=True).mask == Path("out/a-cat.png")
    assert second.save("out").areas == Path("out/b-cat.json")
    for call in (third.overlay, lambda: third.save("out")):
        with pytest.raises(ValueError, match=r"notes\.txt has no mask, because of its error: .*not an image"):
            call()
    noise("a/cat.jpg", 20, 30)
    with pytest.raises(ImageError, match="the image has another size than its mask"):
        first.overlay()


def test_an_overlay_of_a_very_large_image_is_smaller(here: Path, model: Model) -> None:
    path = noise("wide.png", 9000, 40)
    files = one(path, model=model).save("out")
    with Image.open(files.overlay) as drawn, Image.open(files.mask) as mask:
        assert drawn.width == 8192
        assert mask.size == (9000, 40)


def test_images_are_read_as_they_are_needed(here: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is in memory at its own size."""
    paths = [noise(f"many/{number}.png", 64, 64, seed=number) for number in range(10)]
    seen: list[object] = []
    decoded = hierax.HieraImageProcessor.decoded

    def noted(self: hierax.HieraImageProcessor, images: Any, **options: Any) -> Any:
        seen.append(images)
        return decoded(self, images, **options)

    monkeypatch.setattr(hierax.HieraImageProcessor, "decoded", noted)
    results = segmentations(open_segmenter(model), paths)
    next(results)
    results.close()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    assert len(seen) <= 3
