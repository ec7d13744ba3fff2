"""The views of the page in a Chromium, from an image to its answer, with the models of the package."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
from PIL import Image
from playwright.sync_api import Page, expect

import browsing
from browsing import ASSETS, CAT, PHOTOS, Server, Visitor, drop, pixel
from hierax.serve.app import create_app

pytestmark = pytest.mark.browser
browser, visitors = browsing.browser, browsing.visitors  # fixtures
Visitors = Callable[..., Visitor]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmentation model with random weights, and a collection of 120 small images, each of them twice."""
    from hierax import HieraForSemanticSegmentation
    from hierax.checkpoint.save import save_model
    from hierax.embedding import embed
    from small import image_config, randomize

    folder = tmp_path_factory.mktemp("served")
    names = {0: "sky", 1: "fur", 2: "eye", 3: "nose", 4: "wood"}
    model: Any = randomize(HieraForSemanticSegmentation(image_config(id2label=names))).eval()
    save_model(model, folder / "segmentation", dialect="transformers")
    (folder / "images").mkdir()
    with Image.open(ASSETS / "gallery.jpg") as gallery:
        for number in range(120):
            row, column = divmod(number % 60, 10)
            tile = gallery.crop((96 * column, 96 * row, 96 * column + 96, 96 * row + 96))
            tile.save(folder / f"images/tile-{number:03d}.png")
    embed([str(folder / "images")], folder / "collection", workers=0, backend="torch")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """hierax/femto with everything that has a view."""
    server = Server(
        lambda: create_app(
            segmentation=folder / "segmentation", collection=folder / "collection", backend="torch", threads=1
        )
    )
    yield server
    server.stop()


@pytest.fixture(scope="module")
def plain() -> Iterator[Server]:
    """hierax/femto alone."""
    server = Server(lambda: create_app(backend="torch", threads=1))
    yield server
    server.stop()


def test_a_dropped_image_gets_labels_with_probabilities(server: Server, visitors: Visitors) -> None:
    page = visitors(server.url).open()
    drop(page, "cat.jpg", CAT.read_bytes())
    expect(page.locator("#view-what .verdict")).to_contain_text("mammals")
    shares = [float(text.strip("< %")) for text in page.locator(".bars .number").all_text_contents()]
    assert len(shares) == 5
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 101
    expect(page.locator("#what-facts")).to_contain_text("Answered in")
    expect(page.locator("#view-what .seen")).to_contain_text("160 × 160 pixels")


def test_a_pasted_image_gets_labels(server: Server, visitors: Visitors) -> None:
    page = visitors(server.url).open()
    page.evaluate(
        """(bytes) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "pasted.jpg", {type: "image/jpeg"}));
            document.body.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
        }""",
        list(CAT.read_bytes()),
    )
    expect(page.locator("#view-what .verdict")).to_contain_text("mammals")


def test_a_bundled_photo_gets_labels_by_keyboard_alone(server: Server, visitors: Visitors) -> None:
    page = visitors(server.url).open()
    page.locator("#choose").focus()
    page.keyboard.press("Tab")
    expect(page.locator(".sample").first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#view-what .verdict")).to_contain_text("mammals")


def test_several_images_are_listed_and_saved_as_csv_that_no_spreadsheet_runs(
    server: Server, visitors: Visitors, tmp_path: Path
) -> None:
    visitor = visitors(server.url)
    page = visitor.open()
    evil = tmp_path / '=cmd,"x".jpg'
    evil.write_bytes(CAT.read_bytes())
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not an image")
    visitor.give(evil, *PHOTOS, broken)
    rows = page.locator("#what-list tbody tr")
    expect(rows).to_have_count(len(PHOTOS) + 2)
    expect(page.locator("#what-list h2")).to_have_text(f"{len(PHOTOS) + 2} images")
    expect(rows.last).to_contain_text("cannot be read")
    with page.expect_download() as saved:
        page.click("#what-save")
    text = Path(saved.value.path()).read_text(encoding="utf-8-sig")
    table = list(csv.DictReader(io.StringIO(text, newline="")))
    assert table[0]["file"] == '\'=cmd,"x".jpg'
    assert table[0]["label"] == "mammals"
    assert len(table) == 5 * (len(PHOTOS) + 1) + 1
    assert table[-1]["error"].startswith("This image cannot be read")


def test_a_point_shows_where_the_image_is_similar_at_once(server: Server, visitors: Visitors) -> None:
    visitor = visitors(server.url)
    page = visitor.open("see")
    visitor.give(CAT)
    expect(page.locator("#see-read")).to_contain_text("row 11 of 20, column 11 of 20")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    frame = page.locator("#see-frame")
    frame.hover(position={"x": 5, "y": 5})
    expect(page.locator("#see-read")).to_contain_text("row 1 of 20, column 1 of 20")
    near = pixel(page, "#see-heat", 0.01, 0.01)
    box = frame.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] - 5, box["y"] + box["height"] - 5)
    expect(page.locator("#see-read")).to_contain_text("row 20 of 20, column 20 of 20")
    assert pixel(page, "#see-heat", 0.01, 0.01) != near
    here = pixel(page, "#see-heat", 0.995, 0.995)
    assert max(abs(a - b) for a, b in zip(here, near, strict=True)) < 16, "the point itself has the color of 1"
    assert requests == []


def test_the_map_of_the_browser_is_that_of_the_server(server: Server, visitors: Visitors) -> None:
    visitor = visitors(server.url)
    page = visitor.open("see")
    visitor.give(CAT)
    expect(page.locator("#see-read")).to_contain_text("row 11 of 20")
    differences = page.evaluate(
        """async () => {
            const {unitVectors, similarity} = await import("/assets/maps.js");
            const {current} = await import("/assets/images.js");
            const {item} = await import("/assets/server.js");
            const found = await item("/v1/features", {images: [current()], query: {stage: 3}});
            const theirs = await item("/v1/similarity", {images: [current()], query: {stage: 3, x: 0.25, y: 0.75}});
            const ours = similarity(unitVectors(found.data, found.shape), ...theirs.cell);
            return theirs.values.flat().map((value, i) => Math.abs(value - ours[i]));
        }"""
    )
    assert len(differences) == 100
    assert max(differences) < 1e-4


def test_arrow_keys_move_the_point_by_cells(server: Server, visitors: Visitors) -> None:
    visitor = visitors(server.url)
    page = visitor.open("see")
    visitor.give(CAT)
    expect(page.locator("#see-read")).to_contain_text("row 11 of 20, column 11 of 20")
    page.locator("#see-frame").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#see-read")).to_contain_text("row 9 of 20, column 10 of 20")


def test_stages_and_input_sizes_are_chosen_and_saved(server: Server, visitors: Visitors) -> None:
    visitor = visitors(server.url)
    page = visitor.open("see")
    visitor.give(CAT)
    expect(page.locator("#see-stages img:visible")).to_have_count(4)
    page.locator('#see-stages [aria-checked="true"]').focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#see-read")).to_contain_text("Stage 4: cosine similarity with the cell in row 6 of 10")
    page.select_option("#see-size", label="160 pixels, as trained")
    expect(page.locator("#see-read")).to_contain_text("row 3 of 5")
    with page.expect_download() as saved:
        page.click("#see-npy")
    assert saved.value.suggested_filename == "cat-stage4.npy"
    assert np.load(saved.value.path()).shape == (320, 5, 5)
    with page.expect_download() as saved:
        page.click("#see-png")
    with Image.open(saved.value.path()) as image:
        assert image.format == "PNG"


def test_the_regions_that_speak_for_a_label_are_shown(server: Server, visitors: Visitors) -> None:
    visitor = visitors(server.url)
    page = visitor.open("see")
    visitor.give(CAT)
    page.click('#see-mode [value="label"]')
    expect(page.locator("#see-read")).to_contain_text('speak for "mammals"')
    expect(page.locator('#see-label .chip[aria-pressed="true"]')).to_contain_text("mammals")
    before = [pixel(page, "#see-heat", x, 0.5) for x in (0.1, 0.5, 0.9)]
    page.locator("#see-label .chip").nth(1).click()
    expect(page.locator("#see-read")).not_to_contain_text("mammals")
    assert [pixel(page, "#see-heat", x, 0.5) for x in (0.1, 0.5, 0.9)] != before
    page.fill("#see-name", "no such label")
    page.keyboard.press("Enter")
    expect(page.locator("#view-see .notice")).to_contain_text("no such label")
    page.select_option("#see-method", "rollout")
    expect(page.locator("#see-read")).to_contain_text("attends to")


def test_units_are_hidden_by_mouse_and_the_reconstruction_follows(server: Server, visitors: Visitors) -> None:
    visitor = visitors(server.url)
    page = visitor.open("imagine")
    visitor.give(CAT)
    expect(page.locator("#imagine-count")).to_contain_text("15 of 25")
    expect(page.locator("#imagine-error")).to_contain_text("Error 0.")
    page.click("text=Show all")
    expect(page.locator("#imagine-error")).to_contain_text("Nothing is hidden")
    before = page.locator("#imagine-answer").get_attribute("src")
    box = page.locator("#imagine-units").bounding_box()
    assert box
    unit = box["width"] / 5
    page.mouse.move(box["x"] + unit / 2, box["y"] + unit / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 2.5 * unit, box["y"] + unit / 2, steps=8)
    page.mouse.up()
    expect(page.locator("#imagine-count")).to_contain_text("3 of 25")
    hidden = page.locator("#imagine-units [role=gridcell]").evaluate_all(
        "(cells) => cells.map((cell, i) => cell.ariaSelected === 'true' ? i : -1).filter((i) => i >= 0)"
    )
    assert hidden == [0, 1, 2]
    expect(page.locator("#imagine-error")).to_contain_text("Error")
    assert page.locator("#imagine-answer").get_attribute("src") != before


def test_units_are_hidden_by_keyboard(server: Server, visitors: Visitors) -> None:
    visitor = visitors(server.url)
    page = visitor.open("imagine")
    visitor.give(CAT)
    page.click("text=Show all")
    expect(page.locator("#imagine-error")).to_contain_text("Nothing is hidden")
    page.locator("#imagine-units [tabindex='0']").focus()
    for key in ("ArrowRight", "ArrowDown", "Space"):
        page.keyboard.press(key)
    expect(page.locator("#imagine-units [aria-selected=true]")).to_have_attribute("aria-label", "Row 2, column 2")
    expect(page.locator("#imagine-error")).to_contain_text("Error")


def test_the_newest_mask_wins(server: Server, visitors: Visitors) -> None:
    visitor = visitors(server.url)
    page = visitor.open("imagine")
    visitor.give(CAT)
    expect(page.locator("#imagine-error")).to_contain_text("Error")
    for ratio in (10, 80, 40, 20):
        page.fill("#imagine-ratio", str(ratio))
    expect(page.locator("#imagine-count")).to_contain_text("5 of 25")
    page.wait_for_timeout(300)
    expect(page.locator("#imagine-count")).to_contain_text("5 of 25")


def test_the_same_seed_hides_the_same_units(server: Server, visitors: Visitors) -> None:
    visitor = visitors(server.url)
    page = visitor.open("imagine")
    visitor.give(CAT)
    expect(page.locator("#imagine-error")).to_contain_text("Error")

    def hidden() -> str:
        return page.locator("#imagine-units").inner_html().replace("tabindex", "")

    first = hidden()
    page.click("#imagine-next")
    expect(page.locator("#imagine-seed")).to_have_value("1")
    page.wait_for_timeout(500)
    assert hidden() != first
    page.fill("#imagine-seed", "0")
    page.wait_for_timeout(500)
    assert hidden() == first


def test_the_original_is_shown_while_the_reconstruction_is_held(server: Server, visitors: Visitors) -> None:
    visitor = visitors(server.url)
    page = visitor.open("imagine")
    visitor.give(CAT)
    expect(page.locator("#imagine-answer")).to_be_visible()
    hold, original = page.locator("#imagine-hold"), page.locator("#imagine-original")
    expect(original).to_be_hidden()
    hold.hover()
    page.mouse.down()
    expect(original).to_be_visible()
    page.mouse.up()
    expect(original).to_be_hidden()
    hold.focus()
    page.keyboard.down("Space")
    expect(original).to_be_visible()
    page.keyboard.up("Space")
    expect(original).to_be_hidden()


def test_a_class_is_shown_alone(server: Server, visitors: Visitors) -> None:
    visitor = visitors(server.url)
    page = visitor.open("segment")
    visitor.give(CAT)
    classes = page.locator("#segment-classes .class")
    expect(classes.first).to_be_visible()
    assert classes.count() >= 2

    def covered() -> float:
        return page.evaluate(
            """() => {
                const canvas = document.querySelector("#segment-over");
                const {width, height} = canvas;
                const copy = new OffscreenCanvas(width, height).getContext("2d", {willReadFrequently: true});
                copy.drawImage(canvas, 0, 0);
                const {data} = copy.getImageData(0, 0, width, height);
                let count = 0;
                for (let i = 3; i < data.length; i += 4) count += data[i] > 0;
                return count / (data.length / 4);
            }"""
        )

    whole = covered()  # all but the background, which is black
    assert whole > 0.5
    classes.nth(1).click()
    share = float(classes.nth(1).locator(".number").inner_text().strip("< %")) / 100
    assert math.isclose(covered(), share, abs_tol=0.006)
    classes.nth(1).click()
    assert covered() == whole
    with page.expect_download() as saved:
        page.click("#segment-save")
    assert saved.value.suggested_filename == "cat-mask.png"
    with Image.open(saved.value.path()) as mask, Image.open(CAT) as image:
        assert mask.size == image.size


def test_of_a_file_that_the_browser_cannot_show_the_mask_alone_is_shown(
    server: Server, visitors: Visitors, tmp_path: Path
) -> None:
    with Image.open(CAT) as image:
        image.crop((0, 0, 240, 80)).save(tmp_path / "wide.tif")
    visitor = visitors(server.url)
    page = visitor.open("segment")
    visitor.give(CAT)
    expect(page.locator("#segment-classes .class").first).to_be_visible()
    visitor.give(tmp_path / "wide.tif")
    expect(page.locator("#segment-facts")).to_have_text(
        "wide.tif, 240 × 80 pixels. This browser cannot show the image itself."
    )
    expect(page.locator("#segment-view")).to_be_hidden()
    box = page.locator("#segment-frame").bounding_box()
    assert box
    assert math.isclose(box["width"] / box["height"], 3, abs_tol=0.02)


def tiles(page: Page) -> list[str]:
    return page.locator("#collection-wall .tile").evaluate_all("(tiles) => tiles.map((tile) => tile.title)")


def test_a_collection_is_a_wall_of_which_only_the_visible_rows_exist(server: Server, visitors: Visitors) -> None:
    page = visitors(server.url).open("collection")
    expect(page.locator("#collection-facts")).to_contain_text("120 images")
    expect(page.locator("#collection-wall .tile img").first).to_be_visible()
    expect(page.locator(".tile[title='tile-000.png']")).to_be_visible()
    assert page.locator("#collection-wall .tile").count() < 100
    page.locator("#collection-wall").focus()
    page.keyboard.press("End")
    expect(page.locator(".tile[title='tile-119.png']")).to_be_visible()
    expect(page.locator(".tile[title='tile-000.png']")).to_have_count(0)
    loaded = page.locator(".tile[title='tile-119.png'] img")
    expect(loaded).to_have_js_property("complete", True)
    assert loaded.evaluate("(image) => image.naturalWidth") > 0


def test_neighbors_of_neighbors_have_a_way_back(server: Server, visitors: Visitors) -> None:
    page = visitors(server.url).open("collection")
    page.locator(".tile[title='tile-005.png']").click()
    expect(page.locator(".asked figcaption")).to_have_text("Similar to tile-005.png")
    expect(page.locator("#collection-wall .score").first).to_be_visible()
    assert "tile-005.png" not in tiles(page), "the image itself is no neighbor"
    page.locator("#collection-wall").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator(".asked figcaption")).not_to_have_text("Similar to tile-005.png")
    page.click("#collection-back")
    expect(page.locator(".asked figcaption")).to_have_text("Similar to tile-005.png")
    page.go_back()
    expect(page.locator("#collection-similar")).to_be_hidden()


def test_without_an_image_the_first_row_is_searched(server: Server, visitors: Visitors) -> None:
    page = visitors(server.url).open("collection/duplicates")
    expect(page.locator(".group").first).to_be_visible()
    page.click('#collection-part [value="similar"]')
    expect(page.locator(".asked figcaption")).to_have_text("Similar to tile-000.png")
    expect(page.locator("#collection-wall .score").first).to_be_visible()


def test_an_image_of_the_user_is_searched(server: Server, visitors: Visitors, folder: Path) -> None:
    page = visitors(server.url).open("collection")
    expect(page.locator("#collection-wall .tile img").first).to_be_visible()
    drop(page, "mine.png", (folder / "images/tile-042.png").read_bytes(), "image/png")
    expect(page.locator(".asked figcaption")).to_have_text("Similar to mine.png")
    expect(page.locator("#collection-wall .score").first).to_have_text("1.000")
    assert "tile-042.png" in tiles(page)[:4]


def test_near_duplicates_are_grouped(server: Server, visitors: Visitors) -> None:
    page = visitors(server.url).open("collection/duplicates")
    expect(page.locator(".group").first).to_be_visible()
    expect(page.locator("#collection-groups > p")).to_contain_text("groups with")
    names = page.locator(".group").first.locator("button").evaluate_all("(all) => all.map((one) => one.title)")
    assert len(names) >= 2
    assert len({int(name[5:8]) % 60 for name in names}) == 1
    page.locator(".group button").first.click()
    expect(page.locator(".asked figcaption")).to_have_text(f"Similar to {names[0]}")


def test_the_map_shows_and_opens_images_by_mouse_and_keyboard(server: Server, visitors: Visitors) -> None:
    page = visitors(server.url).open("collection/map")
    canvas = page.locator("#collection-map canvas")
    expect(canvas).to_be_visible()
    expect(canvas).to_have_attribute("data-points", "120", timeout=40_000)
    canvas.focus()
    page.keyboard.press("ArrowRight")
    card = page.locator("#collection-map .map-card")
    expect(card).to_contain_text("tile-")
    page.keyboard.press("+")
    page.keyboard.press("Enter")
    expect(page.locator(".asked figcaption")).to_contain_text("Similar to tile-")


def test_views_that_the_server_lacks_say_how_to_start_it(plain: Server, visitors: Visitors) -> None:
    page = visitors(plain.url).open("collection")
    expect(page.locator("#view-missing")).to_contain_text("hierax serve --collection FOLDER")
    expect(page.locator("nav a[href='#collection']")).to_be_hidden()
    expect(page.locator("nav a[href='#segment']")).to_be_hidden()
    expect(page.locator("nav a[href='#imagine']")).to_be_visible()
    expect(page.locator("#lacks")).to_contain_text("--segmentation MODEL")


@pytest.mark.parametrize("view", ["what", "see", "imagine", "segment", "collection", "collection/map"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_view_is_wider_than_a_small_telephone(server: Server, visitors: Visitors, view: str, scheme: str) -> None:
    visitor = visitors(server.url, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page = visitor.open(view)
    visitor.give(CAT, *PHOTOS)
    expect(page.locator("[aria-busy=true]")).to_have_count(0)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(json.loads(paper.replace("rgb(", "[").replace(")", "]"))[0]) > 128) == (scheme == "light")
