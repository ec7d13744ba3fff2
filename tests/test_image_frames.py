"""Files of several frames or pages: the first one is read, everywhere, and every command says so once."""

from __future__ import annotations

import io
import json
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from hierax import HieraImageProcessor, load_image
from hierax.embedding import embed
from hierax.notices import Notice
from hierax.processing.frames import FIRST_ONLY

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)
RED, BLUE = (255, 0, 0), (0, 0, 255)
SAID = "2 animations, such as {}: only the first frame of each is read"
PAGES = "{} is a TIFF of several pages: only its first page is read"


def several(form: str, *, mode: str = "RGB", **options: Any) -> bytes:
    """A red image, and a blue one behind it."""
    images = [Image.new("RGB", (64, 48), color).convert(mode) for color in (RED, BLUE)]
    file = io.BytesIO()
    images[0].save(file, form, save_all=True, append_images=images[1:], **options)
    return file.getvalue()


@pytest.fixture
def data(here: Path) -> Path:
    """Class folders with two animations, a TIFF of two pages and an image of one frame."""
    files = {"tench/a.gif": several("GIF"), "crane/b.png": several("PNG"), "crane/c.tif": several("TIFF")}
    for name, content in files.items():
        (here / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "data" / name).write_bytes(content)
    shutil.copy(here / "a" / "cat.jpg", here / "data" / "tench" / "d.jpg")
    return here / "data"


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_or_page_is_read_and_noted(form: str) -> None:
    options: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
    for fast in (False, True):
        FIRST_ONLY.take()
        HieraImageProcessor(fast=fast)(several(form, **options))
        assert FIRST_ONLY.take() == {"page" if form == "TIFF" else "frame": ["image"]}
    assert load_image(several(form, **options)).getpixel((5, 5)) == RED


def test_pages_of_16_bits_are_noted_too() -> None:
    FIRST_ONLY.take()
    images = [Image.fromarray(np.full((8, 8), value, np.uint16)) for value in (65535, 0)]
    file = io.BytesIO()
    images[0].save(file, "TIFF", save_all=True, append_images=images[1:])
    assert load_image(file.getvalue()).getpixel((0, 0)) == (255, 255, 255)
    assert FIRST_ONLY.take() == {"page": ["image"]}


def test_images_of_one_frame_smaller_versions_and_previews_of_cameras_are_not_noted() -> None:
    FIRST_ONLY.take()
    for form in ("GIF", "PNG", "TIFF", "JPEG", "BMP", "ICO"):
        file = io.BytesIO()
        Image.new("RGB", (64, 48), RED).save(file, form)
        load_image(file.getvalue())
    load_image(several("MPO"))
    data = bytearray(several("TIFF"))
    first = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[first : first + 2], "little")
    second = int.from_bytes(data[first + 2 + 12 * count :][:4], "little")
    tag = data.index((254).to_bytes(2, "little"), second) if b"\xfe\x00" in data[second : second + 14] else None
    if tag is not None:
        data[tag + 8] = 1  # a smaller version of the first
        load_image(bytes(data))
        assert FIRST_ONLY.take() == {}


def test_pages_that_lead_back_to_themselves_end() -> None:
    data = bytearray(several("TIFF"))
    first = int.from_bytes(data[4:8], "little")
    place = first + 2 + 12 * int.from_bytes(data[first : first + 2], "little")
    data[place : place + 4] = first.to_bytes(4, "little")
    FIRST_ONLY.take()
    load_image(bytes(data))
    assert FIRST_ONLY.take() == {}


def told(text: str, data: Path) -> list[str]:
    """What of the sentences is missing in a text."""
    names = {name: str(data / name) for name in ("tench/a.gif", "crane/b.png", "crane/c.tif")}
    found = [SAID.format(names[name]) in text for name in ("tench/a.gif", "crane/b.png")]
    lines = [line for line in text.splitlines() if "only the first" in line or "only its first" in line]
    return ([] if any(found) and len(lines) == 2 else ["animations", *lines]) + (
        [] if PAGES.format(names["crane/c.tif"]) in text else ["pages", text]
    )


@pytest.mark.parametrize(
    "command", ["classify", "features", "segment", "reconstruct", "demo", "stats", "embed", "evaluate"]
)
def test_commands_say_it_once(
    run: Run, data: Path, classifier_folder: str, mae_folder: str, segmenter_folder: str, command: str
) -> None:
    rest = {
        "classify": ("--model", classifier_folder),
        "features": ("--model", classifier_folder, "-o", "out"),
        "segment": ("--model", segmenter_folder, "-o", "out"),
        "reconstruct": ("--model", mae_folder, "-o", "made.png"),
        "demo": ("-o", "out"),
        "stats": (),
        "embed": ("--model", classifier_folder, "-o", "out", "--workers", "0"),
        "evaluate": ("--model", classifier_folder, "--device", "cpu"),
    }[command]
    code, _, err = run(command, str(data), *rest)
    if command == "demo":  # names of files alone
        assert "only the first frame of each is read" in err
        return
    assert (code, told(err, data)) == (0, [])


def test_training_says_it_at_the_end(run: Run, data: Path) -> None:
    settings = ("epochs=2", "batch_size=4", "workers=0", "image_size=64", "validation_fraction=0", "precision=fp32")
    code, out, err = run("finetune", str(data), *settings, "--device", "cpu", "-o", "run")
    assert (code, told(out + err, data)) == (0, [])


def test_a_query_says_it(run: Run, data: Path, classifier_folder: str) -> None:
    assert (
        run("embed", str(data / "tench" / "d.jpg"), "-o", "out", "--model", classifier_folder, "--workers", "0")[0] == 0
    )
    code, _, err = run("search", "out", str(data / "tench" / "a.gif"))
    assert (code, f"{data}/tench/a.gif is an animation: only its first frame is read" in err) == (0, True)


def test_other_processes_tell_it_and_python_is_warned(data: Path, classifier_folder: str, here: Path) -> None:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        embed(data, here / "out", model=classifier_folder, workers=1)
    assert told("\n".join(str(one.message) for one in found if one.category is Notice), data) == []


def test_one_of_several_ranks_tells_what_all_of_them_read() -> None:
    def read(here: bool) -> list[str]:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            with FIRST_ONLY.report_at_end(gather=lambda mine: [{"frame": ["a.gif", "b.gif"]}, mine], here=here):
                FIRST_ONLY.add("frame", "c.gif")
        return [str(one.message) for one in found]

    assert read(True) == ["3 animations, such as a.gif: only the first frame of each is read"]
    assert read(False) == []
    assert FIRST_ONLY.take() == {}


def test_an_actor_of_a_cluster_sends_its_notes(data: Path, classifier_folder: str, here: Path) -> None:
    from hierax.collection.store import Manifest
    from hierax.embedding import FeatureExtractor
    from hierax.embedding.cluster import BlockWorker

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        embed(data, here / "out", model=classifier_folder, workers=0, backend="torch", precision="fp32")
    extractor = FeatureExtractor(classifier_folder, backend="torch", precision="fp32")
    row = BlockWorker(here / "out", Manifest.read(here / "out"), extractor, 0)({"listing": 0, "number": 0})
    FIRST_ONLY.take()
    FIRST_ONLY.merge(json.loads(row["first_only"]))
    assert told("\n".join(FIRST_ONLY.lines()), data) == []


@pytest.mark.slow
def test_an_export_tells_it_of_the_images_that_it_is_compared_on(
    data: Path, classifier_folder: str, here: Path
) -> None:
    import hierax

    (here / "d.gif").write_bytes(several("GIF"))
    with pytest.warns(Notice, match="an animation: only its first frame is read"):
        hierax.export(classifier_folder, here / "out", format="pt2", evaluate=[here / "d.gif"] * 2)
