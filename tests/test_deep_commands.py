"""A model of 16-bit images through the commands: they see 16 bits, from every format, and refuse 8 bits."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hierax import Preprocessing
from hierax.cli import main
from tiffs import tiff

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)
TINY = (
    "embed_dim=8", "depths=[1,1,1,1]", "num_heads=[1,1,1,1]", "image_size=64", "num_channels=1", "epochs=1",
    "batch_size=4", "workers=0", "validation_fraction=0", "precision=fp32",
)  # fmt: skip
DECODER = ("decoder_hidden_size=16", "decoder_depth=1", "decoder_num_heads=2")
FORMATS = ("png", "tif", "npy")


def scan(number: int) -> np.ndarray:
    """A slice of few values far from 0, as of a detector: as 8 bits it is one level or two."""
    shape = 20000 + 200 * np.sin(np.arange(64)[:, None] * (1 + number) / 9) * np.cos(np.arange(64) / (3 + number))
    return np.rint(shape).astype(np.uint16)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with scans as 16-bit PNG, and beside them the first one in every format, and as 8 bits."""
    place = tmp_path_factory.mktemp("scans")
    for number in range(6):
        (place / "data" / f"kind{number % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(scan(number)).save(place / "data" / f"kind{number % 2}" / f"{number}.png")
    for number in (0, 1):
        Image.fromarray(scan(number)).save(place / f"{number}.png")
        np.save(place / f"{number}.npy", scan(number))
        (place / f"{number}.tif").write_bytes(tiff(scan(number), photometric=1))
    Image.fromarray((scan(0) // 257).astype(np.uint8)).save(place / "eight.png")
    file = io.BytesIO()
    pages = [Image.fromarray(scan(number)) for number in range(3)]
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    (place / "stack.tiff").write_bytes(file.getvalue())
    np.save(place / "stack.npy", np.stack([scan(number) for number in range(3)])[:, None])
    return place


def trained(scans: Path, command: str, *settings: str) -> str:
    out = scans / command
    code = main([command, str(scans / "data"), "-o", str(out), "--from", "scratch", "--device", "cpu", *settings])
    assert code == 0
    return str(out / "model")


@pytest.fixture(scope="module")
def classifier(scans: Path) -> str:
    return trained(scans, "finetune", "model=hiera_tiny_224", *TINY)


@pytest.fixture(scope="module")
def autoencoder(scans: Path) -> str:
    return trained(scans, "pretrain", "model=mae_hiera_tiny_224", *TINY, *DECODER)


def test_training_writes_into_the_record_that_images_are_16_bits(classifier: str, autoencoder: str) -> None:
    for model in (classifier, autoencoder):
        record = Preprocessing.read(Path(model) / "preprocessor_config.json")
        assert (record.image_dtype, record.do_rescale) == ("uint16", False)
        assert 19800 < record.image_mean[0] < 20200


def test_classify_sees_the_same_in_every_format(run: Run, scans: Path, classifier: str) -> None:
    files = [str(scans / f"{number}.{suffix}") for number in (0, 1) for suffix in FORMATS]
    code, out, _ = run("classify", *files, "--model", classifier, "--json", "--precision", "fp32")
    answers = [json.loads(line)["predictions"][0]["probability"] for line in out.splitlines()]
    assert (code, len(answers)) == (0, 6)
    assert len(set(answers[:3])) == len(set(answers[3:])) == 1
    assert answers[0] != answers[3]


def test_features_and_reconstruct_see_the_same_in_every_format(
    run: Run, scans: Path, classifier: str, autoencoder: str
) -> None:
    maps = []
    for suffix in FORMATS:
        file = str(scans / f"1.{suffix}")
        assert run("features", file, "--model", classifier, "-o", f"maps-{suffix}", "--precision", "fp32")[0] == 0
        maps.append(np.load(f"maps-{suffix}/1.npz")["stage2"])
        Path(suffix).mkdir()
        Path(suffix, "scan").write_bytes(Path(file).read_bytes())  # the name is drawn
        assert (
            run("reconstruct", f"{suffix}/scan", "--model", autoencoder, "-o", f"{suffix}.png", "--precision", "fp32")[
                0
            ]
            == 0
        )
    assert np.array_equal(maps[0], maps[1])
    assert np.array_equal(maps[0], maps[2])
    assert np.ptp(maps[0]) > 0
    assert Path("png.png").read_bytes() == Path("npy.png").read_bytes() == Path("tif.png").read_bytes()


def test_embed_sees_the_same_in_every_format_and_slices_differ(run: Run, scans: Path, classifier: str) -> None:
    files = [str(scans / f"{number}.{suffix}") for number in (0, 1) for suffix in FORMATS]
    assert run("embed", *files, "--model", classifier, "-o", "out", "--workers", "0", "--precision", "fp32")[0] == 0
    vectors = np.stack(pq.read_table("out/data").column("embedding").to_numpy())
    assert np.array_equal(vectors[0], vectors[1])
    assert np.array_equal(vectors[0], vectors[2])
    assert np.array_equal(vectors[3], vectors[5])
    assert np.abs(vectors[0] - vectors[3]).max() > 1e-6


def test_evaluate_reads_the_values_that_training_read(run: Run, scans: Path, classifier: str) -> None:
    code, out, err = run("evaluate", str(scans / "data"), "--model", classifier, "--device", "cpu", "--json")
    assert (code, json.loads(out)["samples"], json.loads(out)["unreadable"]) == (0, 6, 0), err


@pytest.mark.parametrize("command", ["classify", "features", "reconstruct", "embed", "evaluate"])
def test_images_of_8_bits_are_refused_in_one_sentence(
    run: Run, scans: Path, classifier: str, autoencoder: str, command: str
) -> None:
    eight = scans / "eight.png"
    place = eight
    if command == "evaluate":
        place = Path("labeled")
        for kind in ("kind0", "kind1"):
            (place / kind).mkdir(parents=True)
            (place / kind / "eight.png").write_bytes(eight.read_bytes())
    rest = {"features": ("-o", "out"), "reconstruct": ("-o", "made.png"), "embed": ("-o", "out", "--workers", "0")}
    model = autoencoder if command == "reconstruct" else classifier
    code, out, err = run(command, str(place), "--model", model, *rest.get(command, ()))
    assert (code, "an image of 8 bits" in err) == (2, True), out + err
    if command != "embed":
        assert "this model was trained on uint16 with mean" in err
    assert "Traceback" not in err


def test_of_a_stack_the_first_page_is_read_and_said_and_an_array_of_several_is_an_error(
    run: Run, scans: Path, classifier: str
) -> None:
    stack = str(scans / "stack.tiff")
    code, out, err = run(
        "classify", stack, str(scans / "0.png"), "--model", classifier, "--json", "--precision", "fp32"
    )
    first, same = (json.loads(line)["predictions"] for line in out.splitlines())
    assert (code, first == same) == (0, True)
    assert f"{stack} is a TIFF of several pages: only its first page is read" in err
    code, _, err = run("classify", str(scans / "stack.npy"), "--model", classifier)
    assert (code, "shape [3, 1, 64, 64]; expected [height, width, channels]" in err) == (2, True)
