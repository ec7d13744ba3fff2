"""Images that are too large: one option, one default and one sentence in every command that reads images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import hierax
from hierax.cli.loading import MAX_PIXELS
from hierax.embedding import embed
from hierax.processing import DEFAULT_MAX_PIXELS

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)
READERS = (
    "demo", "classify", "features", "segment", "reconstruct", "embed", "search", "duplicates", "outliers", "map",
    "export", "stats", "pretrain", "finetune", "evaluate", "bench",
)  # fmt: skip
TOO_LARGE = "larger than --max-pixels 7999"


@pytest.fixture
def classes(here: Path) -> Path:
    """Two classes of small images, and one image of 8000 pixels that is 100 x 80."""
    random = np.random.default_rng(0)
    for number in range(6):
        place = here / "data" / f"class{number % 2}" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place)
    Image.new("RGB", (100, 80), "gray").save(here / "data" / "class0" / "large.jpg")
    return here / "data"


@pytest.mark.parametrize("command", READERS)
def test_every_command_that_reads_images_has_the_option(run: Run, command: str) -> None:
    text = " ".join(run(command, "--help")[1].split())
    assert f"--max-pixels N refuse images of more than N pixels (default: {DEFAULT_MAX_PIXELS})" in text
    assert MAX_PIXELS == DEFAULT_MAX_PIXELS


def test_embed_keeps_an_error_row_and_an_update_with_a_larger_limit_reads_it(
    run: Run, classes: Path, classifier_folder: str
) -> None:
    command = ("embed", "-o", "out", "--workers", "0")
    code, _, err = run(*command, str(classes), "--model", classifier_folder, "--max-pixels", "7999")
    assert (code, f"{TOO_LARGE} (1)" in err) == (3, True)
    (error,) = pq.read_table("out/errors.parquet").column("error").to_pylist()
    assert error == f"{TOO_LARGE} (100 x 80 pixels; in Python: max_pixels)"
    code, out, _ = run(*command, "--update", "--max-pixels", "8000")
    assert (code, out) == (0, "7 rows in out\n")


def test_search_and_pages_hold_to_the_limit(run: Run, classes: Path, classifier_folder: str) -> None:
    large = str(classes / "class0" / "large.jpg")
    small = [str(path) for path in sorted(classes.rglob("*.png"))]
    assert run("embed", *small, "-o", "out", "--model", classifier_folder, "--workers", "0")[0] == 0
    code, _, err = run("search", "out", large, "--max-pixels", "7999")
    assert (code, TOO_LARGE in err) == (2, True)
    assert run("search", "out", large, "--max-pixels", "8000")[0] == 0
    for command in (("outliers", "out", "--html"), ("map", "out", "-o")):
        assert run(*command, "page.html", "--overwrite", "--max-pixels", "4095")[0] == 0
        assert "cannot be read" in Path("page.html").read_text(encoding="utf-8") or command[0] == "map"
        few = Path("page.html").stat().st_size
        assert run(*command, "page.html", "--overwrite", "--max-pixels", "4096")[0] == 0
        assert Path("page.html").stat().st_size > few


def test_statistics_and_evaluation_name_what_is_too_large(run: Run, classes: Path, classifier_folder: str) -> None:
    code, _, err = run("stats", str(classes), "--max-pixels", "7999")
    assert (code, TOO_LARGE in err) == (3, True)
    assert run("stats", str(classes), "--max-pixels", "8000")[0] == 0
    (classes / "class0").rename(classes / "tench")
    (classes / "class1").rename(classes / "crane")
    command = ("evaluate", str(classes), "--model", classifier_folder, "--device", "cpu", "--max-pixels")
    code, _, err = run(*command, "7999")
    assert (code, TOO_LARGE in err) == (3, True)
    assert run(*command, "8000")[0] == 0


@pytest.mark.parametrize("fast", [True, False])
def test_training_leaves_out_what_is_too_large_and_says_so(
    run: Run, classes: Path, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    if not fast:
        for module in ("data.partial_decode", "processing.decode", "processing.jpeg"):
            monkeypatch.setattr(f"hierax.{module}.simplejpeg", lambda: None)
    settings = (
        "epochs=1",
        "batch_size=7",
        "workers=0",
        "max_bad=0.5",
        "image_size=64",
        "validation_fraction=0",
        "precision=fp32",
    )
    command = ("finetune", str(classes), *settings, "--device", "cpu", "--max-pixels")
    code, out, err = run(*command, "7999", "-o", "run")
    assert (code, TOO_LARGE in out + err + Path("run/log.jsonl").read_text()) == (0, True)
    assert '"max_pixels": 7999' in Path("run/run.json").read_text()
    code, out, err = run(*command, "8000", "-o", "other")
    assert (code, "--max-pixels" in out + err) == (0, False)


def test_python_has_the_same_argument(here: Path, classifier_folder: str) -> None:
    image: Any = "a/cat.jpg"
    (answer,) = hierax.classify([image], model=classifier_folder, max_pixels=7999)
    assert TOO_LARGE in str(answer.error)
    report = embed([image], here / "out", model=classifier_folder, max_pixels=7999, workers=0)
    assert (report.rows, report.errors) == (0, 1)
    assert embed([image], here / "more", model=classifier_folder, max_pixels=None, workers=0).rows == 1


def test_bench_calibrates_on_no_larger_image(run: Run, classes: Path, classifier_folder: str) -> None:
    pytest.importorskip("openvino")
    command = ("bench", "--model", classifier_folder, "--precision", "int8", "--backend", "openvino", "--seconds", "0",
               "--rounds", "1", "--batch", "1", "--no-memory", "--calibration", str(classes))  # fmt: skip
    code, _, err = run(*command, "--max-pixels", "7999")
    assert (code, TOO_LARGE in err) == (2, True)
