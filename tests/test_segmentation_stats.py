"""Counting images and the classes of their pixels, and `hierax stats --task segment`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hierax.data import segmentation_statistics
from hierax.data.stats import dataset_statistics
from samples import picture

MASKS = ([[0, 0, 1], [0, 255, 255]], [[2, 0], [0, 0]], [[255, 255]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for name, values in zip("abc", MASKS, strict=True):
        mask = np.array(values, np.uint8)
        picture(*mask.shape, seed=len(name)).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    return tmp_path


def test_pixels_and_images_are_counted_by_class(folder: Path) -> None:
    found = segmentation_statistics(folder)
    assert (found.samples, found.readable, found.validation, found.without_labels) == (3, 3, None, 1)
    assert found.pixels == {"0": 6, "1": 1, "2": 1}
    assert found.share == {"0": 0.75, "1": 0.125, "2": 0.125}
    assert found.images == {"0": 2, "1": 1, "2": 1}
    assert found.ignored == 4 / 12
    assert (found.smallest, found.largest) == ([1, 2], [2, 3])


def test_mean_and_deviation_are_those_of_the_images(folder: Path) -> None:
    found, plain = segmentation_statistics(folder), dataset_statistics(folder / "images")
    assert (found.mean, found.std) == (plain.mean, plain.std)


def test_what_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "images" / "a.png").write_bytes(b"bad")
    with pytest.warns(match="1 of 3 images with masks cannot be used"):
        found = segmentation_statistics(folder)
    assert (found.samples, found.readable) == (3, 2)
    assert found.unreadable == [(str(folder / "images" / "a.png"), found.unreadable[0][1])]
    assert found.unreadable[0][1].startswith("not an image")


def test_several_processes_find_the_same(folder: Path) -> None:
    assert segmentation_statistics(folder, workers=2) == segmentation_statistics(folder, workers=0)


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    from hierax.cli import main

    def command(*arguments: Any) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        written = capsys.readouterr()
        return code, written.out, written.err

    return command


def test_the_command_prints_a_table_of_classes(folder: Path, run: Any) -> None:
    code, out, err = run("stats", folder, "--task", "segment", "--classes", "sky,sea,boat")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert ["samples", "3"] in lines
    assert ["class", "pixels", "share", "images"] in lines
    assert ["sky", "6", "75.00%", "2"] in lines
    assert ["ignored", "33.33%"] in lines
    assert ["without_labels", "1"] in lines
    code, out, _ = run("stats", folder, "--task", "segment", "--json")
    assert json.loads(out) == json.loads(json.dumps(segmentation_statistics(folder).to_dict()))


def test_the_exit_code_says_whether_all_could_be_read(folder: Path, run: Any) -> None:
    (folder / "images" / "a.png").write_bytes(b"bad")
    code, out, err = run("stats", folder, "--task", "segment")
    assert code == 3
    assert "a.png: not an image" in err
    assert "readable       2" in out
    code, _, err = run("stats", folder / "images", "--task", "segment")
    assert code == 2
    assert "images without masks; pass" in err


def test_options_of_masks_are_for_masks(folder: Path, run: Any) -> None:
    for option in (("--classes", "a,b"), ("--reduce-labels",)):
        code, _, err = run("stats", folder / "images", *option)
        assert code == 2
        assert f"{option[0]} is for --task segment; leave it out, or add --task segment" in err
    code, out, _ = run("stats", folder, "--task", "segment", "--reduce-labels", "--json")
    assert code == 0
    assert json.loads(out)["pixels"] == {"0": 1, "1": 1}
