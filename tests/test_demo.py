"""The demonstration: its pictures, its sheet, and what it prints, whatever the models answer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

import hierax
from hierax.checkpoint.bundled import bundled_metrics
from hierax.checkpoint.records import list_checkpoints
from hierax.cli.demo import _open_photos, next_steps
from hierax.cli.terminal import Tally
from hierax.demo.answers import answers_for, probabilities, side
from hierax.demo.demo import demo
from hierax.demo.filling import errors, fill
from hierax.demo.images import gallery, photos
from hierax.demo.inputs import pooled
from hierax.demo.sheet import SMALL, TILE, Row, demo_sheet

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)
ASSETS = Path(hierax.__file__).parent / "assets"
COLORS = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200), (200, 0, 200)]


# -- the pictures that come with hierax ------------------------------------------------------------------------------


def test_there_are_six_to_eight_small_photos_and_the_cat_is_first() -> None:
    found = photos()
    assert 6 <= len(found) <= 8
    assert found[0].name == "cat.jpg"
    assert all(220 <= min(photo.picture.size) <= 320 for photo in found)
    assert all(file.stat().st_size <= 60_000 for file in (ASSETS / "cat.jpg", *(ASSETS / "photos").iterdir()))


def test_the_gallery_is_small_and_each_of_its_pictures_has_a_name_a_category_and_an_origin() -> None:
    listed = json.loads((ASSETS / "gallery.json").read_text(encoding="utf-8"))
    assert 80 <= len(listed["pictures"]) == len(gallery()) <= 130
    assert len({entry["name"] for entry in listed["pictures"]}) == len(listed["pictures"])
    assert all(entry["label"] and entry["source"] and entry["license"] for entry in listed["pictures"])
    assert all(other.picture.size == (listed["side"], listed["side"]) for other in gallery())
    assert sum((ASSETS / name).stat().st_size for name in ("gallery.jpg", "gallery.json")) < 400_000


def test_cells_of_the_gallery_are_cut_out_where_they_are() -> None:
    """None is empty, as the last ones would be if it was cut in another order or at another size."""
    assert all(max(high - low for low, high in other.picture.getextrema()) > 20 for other in gallery())  # type: ignore[misc]


def test_every_photo_is_credited() -> None:
    credits = (ASSETS / "CREDITS.md").read_text(encoding="utf-8")
    assert [photo.name for photo in photos() if f"`{photo.name}`" not in credits.replace("photos/", "")] == []


def test_no_photo_is_in_the_gallery_too() -> None:
    stems = {Path(photo.name).stem for photo in photos()}
    assert not stems & {other.name for other in gallery()}


# -- the sheet -------------------------------------------------------------------------------------------------------


def rows(count: int) -> list[Row]:
    pictures = [Image.new("RGB", (10, 10), color) for color in COLORS[:5]]
    near = [Image.new("RGB", (96, 96), COLORS[5])] * 4
    labels = [("yes", 0.5, "50 %")] * 3
    return [Row(f"{number}.jpg", pictures, labels, near, note="error 3") for number in range(count)]


def sheet(count: int) -> Image.Image:
    columns = [(f"column {number}", "a note") for number in range(7)]
    return demo_sheet(rows(count), heading="Heading", notes=["a note", "another"], columns=columns)


def count_of(page: Image.Image, color: tuple[int, int, int]) -> int:
    """Pixels of exactly this color."""
    found = page.getcolors(page.width * page.height) or []
    return sum(count for count, other in found if other == color)


@pytest.mark.parametrize("count", [1, 6])
def test_every_row_shows_all_its_pictures_whole(count: int) -> None:
    page = sheet(count)
    for color in COLORS[:5]:
        assert count_of(page, color) == count * TILE**2
    assert count_of(page, COLORS[5]) == count * 4 * SMALL**2


def test_a_row_more_makes_the_sheet_longer_and_no_wider() -> None:
    one, two, three = sheet(1), sheet(2), sheet(3)
    assert one.width == two.width == three.width
    assert three.height - two.height == two.height - one.height > TILE


def test_cells_of_a_map_stay_sharp() -> None:
    cells = Image.new("RGB", (2, 2), (0, 0, 0))
    cells.putpixel((0, 0), (255, 0, 0))
    page = demo_sheet([Row("x", [cells], [], [])], heading="", notes=[], columns=[("", ""), ("", "")])
    assert count_of(page, (255, 0, 0)) == (TILE // 2) ** 2


@pytest.mark.parametrize(("probability", "wide"), [(0.0, 1), (0.25, TILE // 4), (1.0, TILE)])
def test_a_bar_is_as_long_as_its_label_is_probable(probability: float, wide: int) -> None:
    page = demo_sheet([Row("x", [], [("", probability, "")], [])], heading="", notes=[], columns=[("", ""), ("", "")])
    assert (np.asarray(page) == (203, 222, 248)).all(axis=2).any(axis=0).sum() == wide


def test_the_sheet_gives_the_first_label_as_the_answer_only_if_the_model_is_sure() -> None:
    labels = [("mammals", 0.9, "90 %"), ("birds", 0.1, "10 %")]
    sure, unsure = (Row("x", [], labels, [], sure=sure) for sure in (True, False))
    assert (sure.verdict, unsure.verdict) == ("mammals", "not sure")
    pages = [demo_sheet([row], heading="", notes=[], columns=[("", ""), ("", "")]) for row in (sure, unsure)]
    box = ImageChops.difference(*pages).getbbox()
    assert box is not None  # only the line of the answer differs, not the bars
    assert box[3] - box[1] < 50


def test_words_that_do_not_fit_are_cut_and_signs_without_a_letter_are_no_error() -> None:
    long = Row("naïve ☃.jpg", [], [("a label that is far too long for its bar", 0.5, "50 %")], [])
    page = demo_sheet([long], heading="…", notes=["é"], columns=[("", ""), ("", "")])
    assert page.width > TILE
    longer = Row("n" * 240 + ".jpg", [], long.answers, [])  # no name runs into what is beside it
    again = demo_sheet([longer], heading="…", notes=["é"], columns=[("", ""), ("", "")])
    beside = (32 + 260 + TILE, 0, page.width, page.height)
    assert again.crop(beside).tobytes() == page.crop(beside).tobytes()


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_demo_prints_a_line_for_each_photo_and_writes_a_sheet_with_a_row_for_each(run: Run) -> None:
    before = torch.get_rng_state()
    code, out, err = run("demo")
    assert (code, err) == (0, "")
    names = [photo.name for photo in photos()]
    first, *lines = out.splitlines()
    assert re.fullmatch(
        rf"hierax \S+ · hierax/femto \(Apache-2\.0, \d\.\d M parameters, fp32 on CPU via PyTorch\) · {len(names)} "
        r"bundled photos",
        first,
    )
    assert [line.split()[0] for line in lines[: len(names)]] == names
    labels = {label.replace("-", " ") for label in hierax.load("hierax/femto").config.id2label.values()}
    assert {other.label for other in gallery()} <= labels
    for line in lines[: len(names)]:
        listed = re.split(r" {3,}", line.strip().replace("not sure: ", ""))[1:]
        found = [re.sub(r" (\d+|<1) %$", "", part) for part in listed]
        assert 1 <= len(found) <= 3
        assert set(found) <= labels
    done = lines[len(names)]
    assert re.fullmatch(
        r"wrote demo/sheet\.png: labels, feature maps, reconstruction, nearest neighbors +\d+\.\d s", done
    )
    with Image.open("demo/sheet.png") as page:
        assert page.size == sheet(len(names)).size
    assert torch.equal(torch.get_rng_state(), before)


def test_the_demo_draws_images_of_ones_own_and_names_those_that_it_cannot_read(run: Run) -> None:
    code, out, err = run("demo", "a", "notes.txt", "-o", "mine")
    assert code == 3
    assert err == "hierax: notes.txt: not an image (PNG, JPEG, WebP, … are read)\n"
    assert "1 image\n" in out
    assert out.splitlines()[1].split()[0] == "cat.jpg"
    with Image.open("mine/sheet.png") as page:
        assert page.size == sheet(1).size
    code, _, err = run("demo", "a", "-o", "mine")
    assert (code, "mine/sheet.png would be replaced" in err) == (2, True)


@pytest.mark.parametrize(("arguments", "code"), [(("nothing.jpg",), 2), (("a", "-o", "sheet.png"), 2)])
def test_the_demo_of_nothing_draws_nothing(run: Run, arguments: tuple[str, ...], code: int) -> None:
    assert run("demo", *arguments)[0] == code
    assert not Path("demo").exists()


def test_large_images_are_made_smaller_when_they_are_read(tmp_path: Path) -> None:
    Image.new("RGB", (4096, 1024)).save(tmp_path / "a.jpg")
    (photo,) = _open_photos([str(tmp_path)], Tally(), 10**9)
    assert photo.picture.size == (2048, 512)


def test_a_model_is_sure_from_the_threshold_on() -> None:
    model = hierax.load("hierax/femto")
    assert isinstance(model, hierax.HieraForImageClassification)
    vectors = pooled(model, [photos()[0].picture], side(model))
    (found,) = answers_for(model, vectors)
    first = found.labels[0][1]
    assert first == pytest.approx(probabilities(model, vectors).max().item())
    assert [answers_for(model, vectors, threshold=t)[0].sure for t in (first, first + 1e-6)] == [True, False]
    assert str(answers_for(model, vectors, threshold=1)[0]) == f"not sure: {found}"
    (cooler,) = answers_for(model, vectors, temperature=0.5)
    assert [label for label, *_ in cooler.labels[:1]] == [found.labels[0][0]]
    assert cooler.labels[0][1] > first


def test_the_threshold_of_the_bundled_classifier_is_a_measured_probability() -> None:
    metrics = bundled_metrics("hierax/femto")
    assert 0 < metrics["sure"] < 1
    assert metrics["sure_side"] == side(hierax.load("hierax/femto"))  # type: ignore[arg-type]
    assert 0 < metrics["sure_coverage"] < 100
    assert metrics["top1"] < metrics["sure_precision"] <= 100


def test_hidden_parts_are_filled_in_and_visible_parts_stay() -> None:
    model = hierax.load("hierax/femto.mae")
    assert isinstance(model, hierax.HieraForPreTraining)
    found, note = fill(model, [photos()[0].picture], seed=0, side=240)
    (one,) = found
    assert note == "15 of 25 parts are visible"
    masked, made = np.asarray(one.masked, np.int32), np.asarray(one.made, np.int32)
    units = [np.s_[top + 4 : top + 44, left + 4 : left + 44] for top in range(0, 240, 48) for left in range(0, 240, 48)]
    hidden = [unit for unit in units if np.ptp(masked[unit].reshape(-1, 3), axis=0).max() == 0]
    assert len(hidden) == 10
    assert all((masked[unit] != made[unit]).any(axis=2).mean() > 0.9 for unit in hidden)
    shown = [unit for unit in units if unit not in hidden]
    assert all(np.array_equal(masked[unit], made[unit]) for unit in shown)
    assert 0 < one.error < one.flat


def test_the_errors_of_a_reconstruction_are_those_of_the_hidden_pixels() -> None:
    truth = Image.new("RGB", (64, 64), (100, 100, 100))
    truth.paste((160, 160, 160), (32, 0, 64, 64))
    guess = truth.copy()
    guess.paste((150, 160, 170), (32, 0, 64, 64))
    visible = np.zeros((64, 64), bool)
    visible[:, :32] = True
    assert errors(truth, guess, visible) == pytest.approx(((200 / 3) ** 0.5, 60))


def test_another_seed_hides_other_parts_and_changes_nothing_else() -> None:
    one, same, other = (demo(photos()[:2], seed=seed) for seed in (0, 0, 1))
    assert one.tobytes() == same.tobytes()
    assert one.size == other.size
    left, _, right, _ = ImageChops.difference(one, other).getbbox() or (0, 0, 0, 0)
    assert 4 * TILE < left < right < 7 * TILE  # the columns of what is masked and reconstructed


def test_the_demo_tells_what_to_do_next_with_checkpoints_that_exist() -> None:
    known = {record.hub_id: record.license for record in list_checkpoints()}
    license = ""
    for line in next_steps():
        license = line if line.startswith("#") else license
        if "--model" in line:
            assert known[line.split()[-1]] in license
    assert any("--model" in line for line in next_steps())
