"""Counting a dataset, and `hierax stats`."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hierax.data import open_dataset
from hierax.data.stats import Moments, dataset_statistics
from samples import encoded, picture, write_pictures, write_tar


def levels(*paths: Path) -> np.ndarray:
    pixels = [np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3) for path in paths]
    return np.concatenate(pixels).astype(np.float64) / 255


def test_mean_and_deviation_are_those_of_all_pixels(tmp_path: Path) -> None:
    for name, size in (("cat/1.png", (20, 30)), ("cat/2.png", (50, 11)), ("dog/1.png", (7, 9))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(*size, seed=len(name) + size[0]).save(tmp_path / name)
    found = dataset_statistics(tmp_path)
    values = levels(*sorted(tmp_path.rglob("*.png")))
    assert np.allclose(found.mean, values.mean(0), rtol=1e-12)
    assert np.allclose(found.std, values.std(0), rtol=1e-12)
    assert (found.samples, found.readable, found.channels, found.validation) == (3, 3, 3, None)
    assert (found.smallest, found.largest) == ([7, 9], [50, 30])
    assert found.classes == {"cat": 2, "dog": 1}


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_are_counted_as_rgb_and_by_what_they_are_stored_as(tmp_path: Path, workers: int) -> None:
    random = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    levels, alpha = random[..., :3].astype(np.float64), random[..., 3:] / 255
    Image.fromarray(random).save(tmp_path / "rgba.png")
    Image.fromarray(random[..., 0]).save(tmp_path / "gray.png")
    Image.fromarray(random[..., 1].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(random[..., :3]).save(tmp_path / "rgb.png")
    over_white = np.rint(levels * alpha + 255 * (1 - alpha))
    gray, deep = (np.repeat(levels[..., c : c + 1], 3, axis=2) for c in (0, 1))
    values = np.concatenate([over_white, gray, deep, levels]).reshape(-1, 3) / 255
    found = dataset_statistics(tmp_path, workers=workers)
    assert (found.channels, found.modes) == (3, {"I;16": 1, "L": 1, "RGB": 1, "RGBA": 1})
    assert np.allclose(found.mean, values.mean(0), atol=1e-3)
    assert np.allclose(found.std, values.std(0), atol=1e-3)


def test_holes_in_a_palette_are_told(tmp_path: Path) -> None:
    flat = picture().convert("P")
    flat.save(tmp_path / "a.png")
    flat.save(tmp_path / "b.png", transparency=0)
    assert dataset_statistics(tmp_path).modes == {"P": 1, "P+transparency": 1}


def test_what_cannot_be_read_is_listed_and_not_counted(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, "a/1.png", "b/2.png")
    (folder / "b" / "3.png").write_bytes(b"bad")
    found = dataset_statistics(folder)
    assert (found.samples, found.readable, found.classes) == (3, 2, {"a": 1, "b": 1})
    ((name, problem),) = found.unreadable
    assert name == str(folder / "b" / "3.png")
    assert problem.startswith("not an image")
    assert np.allclose(found.mean, levels(folder / "a" / "1.png", folder / "b" / "2.png").mean(0))


def test_a_training_set_is_read_and_what_is_beside_it_counted(tmp_path: Path) -> None:
    found = dataset_statistics(write_pictures(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/1.png"))
    assert (found.samples, found.validation, found.classes) == (2, 1, {"a": 1, "b": 1})


def test_samples_of_several_classes_count_for_each(tmp_path: Path) -> None:
    members: dict[str, Any] = {f"{i}.png": encoded(picture(seed=i)) for i in range(3)}
    members |= {f"{i}.json": {"label": label} for i, label in enumerate(([0, 2], [2], []))}
    found = dataset_statistics(write_tar(tmp_path / "0.tar", members))
    assert found.classes == {"0": 1, "1": 0, "2": 2}


def test_arrays_are_counted_as_they_are(tmp_path: Path) -> None:
    """Far from zero, where a sum of squares would lose the deviation."""
    array = np.random.default_rng(0).normal(1e6, 0.5, (5, 2, 40))
    np.save(tmp_path / "x.npy", array)
    found = dataset_statistics(tmp_path / "x.npy")
    assert np.allclose(found.mean, array.mean((0, 2)), rtol=1e-12)
    assert np.allclose(found.std, array.std((0, 2)), rtol=1e-6)
    assert (found.channels, found.modes, found.smallest, found.classes) == (2, {}, [40], {})


def test_arrays_of_other_kinds_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "1.npy", np.zeros((2, 8)))
    np.save(tmp_path / "2.npy", np.zeros((3, 8)))
    with pytest.raises(ValueError, match=r"2.npy has 3 channels and 1 axes, others 2 and 1"):
        dataset_statistics(tmp_path)
    np.save(tmp_path / "2.npy", np.full((2, 8), np.inf))
    assert dataset_statistics(tmp_path).unreadable[0][1].startswith("an array of shape [2, 8]; expected finite")


def test_workers_name_what_cannot_be_read(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, "a/1.png", "b/1.png")
    (folder / "a/2.png").write_bytes(b"no image")
    (folder / "b/2.png").write_bytes(b"")
    alone, shared = (dataset_statistics(folder, workers=workers) for workers in (0, 1))
    assert shared == alone
    assert [Path(name).parent.name for name, _ in shared.unreadable] == ["a", "b"]
    assert shared.classes == {"a": 1, "b": 1}


def test_workers_count_the_same(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, *(f"{i}.jpg" for i in range(9)))
    assert dataset_statistics(folder, workers=2) == dataset_statistics(folder, workers=0)


def test_a_dataset_of_which_nothing_can_be_read_has_no_mean(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"bad")
    found = dataset_statistics(tmp_path)
    assert (found.readable, found.mean, found.smallest) == (0, [], [])
    assert len(open_dataset(tmp_path)) == 1


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    from hierax.cli import main

    def command(*arguments: Any) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        written = capsys.readouterr()
        return code, written.out, written.err

    return command


def test_the_command_prints_what_the_function_finds(tmp_path: Path, run: Any) -> None:
    folder = write_pictures(tmp_path, "ant/1.png", "bee/1.png", "bee/2.png")
    code, out, err = run("stats", folder)
    assert (code, err) == (0, "")
    assert "samples    3\n" in out
    assert "modes      RGB 3\n" in out
    assert "classes    ant 1, bee 2\n" in out
    code, out, _ = run("stats", folder, "--json", "--workers", 0)
    assert (code, json.loads(out)) == (0, json.loads(json.dumps(dataset_statistics(folder).to_dict())))


def test_counting_a_folder_and_a_list_needs_no_torch(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, "ant/1.png", "bee/1.jpg")
    (tmp_path / "list.csv").write_text(f"path,label\n{folder / 'ant/1.png'},x\n{folder / 'bee/1.jpg'},y\n")
    commands = [["stats", str(folder)], ["stats", str(tmp_path / "list.csv"), "--json"]]
    code = f"import sys; from hierax.cli import main; print([main(c) for c in {commands}], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[0, 0] False"


def test_the_command_tells_that_other_pictures_are_counted_as_rgb(tmp_path: Path, run: Any) -> None:
    picture(channels=4).save(tmp_path / "a.png")
    picture(channels=1).save(tmp_path / "b.png")
    _, out, _ = run("stats", tmp_path)
    assert "channels   3\nmodes      RGBA 1, L 1 (counted as RGB: see --help)\n" in out


def test_the_exit_code_says_whether_all_could_be_read(tmp_path: Path, run: Any) -> None:
    folder = write_pictures(tmp_path, "1.png", "2.png")
    (folder / "1.png").write_bytes(b"bad")
    code, _, err = run("stats", folder)
    assert code == 3
    assert "1.png: not an image" in err
    (folder / "2.png").write_bytes(b"bad")
    assert run("stats", folder)[0] == 2
    code, out, err = run("stats", tmp_path / "missing")
    assert (code, out) == (2, "")
    assert "no such file or folder" in err


@pytest.mark.parametrize("offset", [0.0, 1e8, -3e11])
def test_moments_of_pieces_are_those_of_the_whole_where_the_mean_is_large(offset: float) -> None:
    """A mean of squares less the square of the mean would lose all 16 digits."""
    values = np.random.default_rng(0).normal(size=(2, 6, 50)) * [[[1.0]], [[30.0]]] + offset
    pieces = [Moments.of(values[:, i]) for i in range(6)]
    found = sum(pieces[1:], pieces[0])
    assert found.count == 300
    np.testing.assert_allclose(found.mean, values.reshape(2, -1).mean(1), rtol=1e-12)
    np.testing.assert_allclose(found.std, values.reshape(2, -1).std(1), rtol=1e-3 if offset else 1e-12)
