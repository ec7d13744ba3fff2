"""Images of one color are alike, and are named blank, not called copies of each other."""

import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from hierax.cli import main
from hierax.collection.blank import blank_rows, is_blank
from hierax.collection.mapped import RowInfo
from hierax.collection.originals import Original

pytest.importorskip("pyarrow")
Said = pytest.CaptureFixture[str]


def drawing(background: tuple[int, ...] | str, *, mode: str = "RGB") -> Image.Image:
    image = Image.new(mode, (300, 200), background)
    ImageDraw.Draw(image).line([(10, 10), (280, 150)], fill="white", width=6)
    return image


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blank")
    images = folder / "images"
    images.mkdir()
    for number in range(3):
        Image.new("RGB", (300, 200), "white").save(images / f"page{number}.png")
        Image.new("RGB", (640 + number, 480), (10, 90, 30)).save(images / f"green{number}.jpg")
    for number in range(2):
        drawing("navy").save(images / f"drawing{number}.png")
    assert main(["embed", str(images), "-o", str(folder / "features"), "--workers", "0"]) == 0
    return folder / "features"


def test_blank_images_are_named_so_and_are_not_redundant(collection: Path, tmp_path: Path, capsys: Said) -> None:
    page = tmp_path / "page.html"
    assert main(["duplicates", str(collection), "--json", "--html", str(page)]) == 0
    said = capsys.readouterr()
    groups = [json.loads(line)["members"] for line in said.out.splitlines()]
    assert [[Path(m["path"]).stem for m in group] for group in groups] == [
        ["drawing0", "drawing1"], ["green0", "green1", "green2"], ["page0", "page1", "page2"],
    ]  # fmt: skip
    assert [[m["blank"] for m in group] for group in groups] == [[False] * 2, [True] * 3, [True] * 3]
    assert "1 group of duplicates: 2 of 8 images; 1 is redundant; 6 blank images, of one color" in said.err
    text = page.read_text(encoding="utf-8")
    assert text.count("<h2>3 blank images</h2>") == 2
    assert text.count('<section class="copies">') == 1  # only there all but the largest are marked


def test_blank_groups_have_a_heading(collection: Path, capsys: Said) -> None:
    assert main(["duplicates", str(collection)]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line[0].isdigit()] == [
        "2 images", "3 blank images", "3 blank images",
    ]  # fmt: skip


def test_white_on_a_transparent_ground_is_not_blank() -> None:
    image = drawing((255, 255, 255, 0), mode="RGBA")
    over = [
        Image.alpha_composite(Image.new("RGBA", image.size, color), image).convert("RGB")
        for color in ("white", "black")
    ]
    assert is_blank(Original(over[0]))
    assert not is_blank(Original(over[0], shaded=over[1]))


def test_a_blank_first_frame_is_no_blank_animation() -> None:
    white = Image.new("RGB", (20, 20), "white")
    assert is_blank(Original(white, later=(white,)))
    assert not is_blank(Original(white, later=(drawing("navy"),)))


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "bmp", "gif", "tiff"])
def test_files_of_any_format_are_found_blank(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"image.{kind}"
    Image.new("RGB", (1500, 1200), (200, 30, 90)).save(path)
    row = RowInfo("", str(path), "", 1500, 1200)
    assert blank_rows([], [row]) == {""}
    noise = tmp_path / "noise.jpg"
    Image.effect_noise((300, 300), 90).save(noise)
    assert blank_rows([], [RowInfo("", str(noise), "", 300, 300)]) == set()
