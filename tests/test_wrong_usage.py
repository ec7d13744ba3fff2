"""Commands that are used in a wrong way: an error of one sentence, and nothing is lost or ignored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

import hierax

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)

RECIPES = {"pretrain": "mae", "finetune": "finetune"}


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (200, 80, 40)).save(path)
    return path


@pytest.mark.parametrize("command", ["search", "duplicates", "outliers", "map"])
def test_a_file_is_not_a_collection(run: Run, tmp_path: Path, command: str) -> None:
    file = image(tmp_path / "photo.jpg")
    more = {"search": ("x.jpg",), "map": ("-o", str(tmp_path / "map.html"))}.get(command, ())
    code, _, err = run(command, str(file), *more)
    assert (code, err) == (2, f"hierax: {file} is a file; expected a collection: a folder that hierax embed wrote\n")


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_a_file_is_not_the_folder_of_a_run(run: Run, tmp_path: Path, command: str) -> None:
    for name in ("a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg"):
        image(tmp_path / "data" / name)
    file = image(tmp_path / "photo.jpg")
    code, _, err = run(
        command, str(tmp_path / "data"), "-o", str(file), "--recipe", f"{RECIPES[command]}_tiny_small_data"
    )
    assert code == 2
    assert f"{file} is a file; expected a folder for the run" in err
    assert file.stat().st_size


@pytest.mark.parametrize(
    ("setting", "option"),
    [
        ("validation=held", "--validation held"),
        ("device=cpu", "--device cpu"),
        ("teacher_cache=x", "--teacher-cache x"),
    ],
)
def test_an_option_that_is_written_as_a_setting_is_named(run: Run, tmp_path: Path, setting: str, option: str) -> None:
    code, _, err = run("finetune", str(tmp_path), "-o", str(tmp_path / "run"), setting)
    assert code == 2
    assert err.rstrip().endswith(f"is an option, not a setting: {option}")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("export", "--format", "pt2", "-o", "x", "--calibration", "nope"), "--calibration is for --precision int8"),
        (("finetune", "data", "-o", "x", "--teacher-cache", "cache"), "--teacher-cache is for --teacher"),
        (("evaluate", "data", "--train", "other"), "--train is for --probe"),
        (("evaluate", "data", "--probe", "knn", "--confusion", "x.png"), "--confusion does not work with --probe"),
        (
            ("bench", "--calibration", "nope"),
            "calibration is 'nope', which does not exist; expected images",
        ),
    ],
)
def test_an_option_that_would_have_no_effect_is_an_error(run: Run, given: tuple[str, ...], said: str) -> None:
    code, _, err = run(*given)
    assert code == 2
    assert said in err


def test_images_to_calibrate_on_are_for_int8() -> None:
    with pytest.raises(ValueError, match="calibration is for precision='int8'; precision is 'fp32'"):
        hierax.export("hierax/femto", "x", format="pt2", calibration="photos")


def test_labels_of_a_map_are_a_table(tmp_path: Path) -> None:
    from hierax.collection.drawing import table_of

    with pytest.raises(ValueError, match=r"photo.jpg: not a table; expected a \.csv or \.tsv file in UTF-8"):
        table_of(str(image(tmp_path / "photo.jpg")))


def test_a_description_of_a_run_that_is_not_text_is_named(run: Run, tmp_path: Path) -> None:
    file = image(tmp_path / "photo.jpg")
    code, _, err = run("finetune", "-o", str(tmp_path / "run"), "--config", str(file))
    assert (code, err) == (2, f"hierax: {file} is not a text file\n")


def test_a_model_is_not_converted_into_a_folder_of_images(run: Run, tmp_path: Path) -> None:
    file = image(tmp_path / "photos" / "1.jpg")
    code, _, err = run("convert", "hierax/femto", str(file.parent), "--to", "timm")
    assert code == 2
    assert f"{file.parent} is not empty and holds no model; choose another folder, or pass --overwrite" in err
    assert list(file.parent.iterdir()) == [file]


def test_only_written_files_are_listed_by_convert(run: Run, tmp_path: Path) -> None:
    file = image(tmp_path / "photos" / "1.jpg")
    code, out, _ = run("convert", "hierax/femto", str(file.parent), "--to", "timm", "--overwrite")
    assert code == 0
    assert "model.safetensors" in out
    assert file.name not in out


@pytest.mark.parametrize(
    ("name", "said"), [("mae_tiny", "; did you mean mae_tiny_small_data"), ("zzz", " (hierax rec")]
)
def test_a_recipe_is_suggested_only_if_its_name_is_similar(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"no recipe '{name}'") as caught:
        hierax.train.recipe(name)
    assert f"no recipe '{name}'{said}" in str(caught.value)


def test_views_are_not_for_a_probe(run: Run, tmp_path: Path) -> None:
    assert run("evaluate", str(tmp_path), "--probe", "knn", "--views", "2x1") == (
        2, "", "hierax: --views does not work with --probe, which takes one view; leave one of them out\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("command", "rest"),
    [
        (("classify",), "; --json lists all"),
        (("classify", "--json"), ""),
        (("classify", "-o", "found.csv"), ""),
        (("features", "-o", "maps"), "; --json lists all"),
        (("features", "-o", "maps", "--json"), ""),
        (("reconstruct", "-o", "sheet.png"), ""),
        (("demo",), ""),
    ],
    ids=" ".join,
)
def test_of_many_errors_the_first_twenty_are_written(
    run: Run, tmp_path: Path, command: tuple[str, ...], rest: str
) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(23)]
    for path in paths[:3]:
        path.write_bytes(b"no image")
    code, out, err = run(*command, *map(str, paths))
    assert (code, out.count('"error"')) == (2, 23 if "--json" in command else 0)
    assert err.count("not an image") + err.count("no such file") == 20
    assert f"hierax: and 3 more that cannot be read{rest}\n" in err


def test_an_optional_place_may_come_after_an_option(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("convert", "hierax/femto", "--to", "timm", str(tmp_path / "timm"))
    assert (code, (tmp_path / "timm" / "model.safetensors").is_file()) == (0, True)
    code, out, _ = run("recipes", "--json", "mae_tiny_small_data_cpu")
    assert (code, "mae_tiny_small_data_cpu" in out) == (0, True)
    code, _, err = run("convert", "hierax/femto", "--to", "timm", str(tmp_path / "a"), str(tmp_path / "b"))
    assert (code, "unrecognized" in err or str(tmp_path / "b") in err) == (2, True)


def collected(run: Run, tmp_path: Path, *more: str) -> Path:
    """A collection of a list of one image, whose column is called photo."""
    image(tmp_path / "photos" / "one.jpg")
    (tmp_path / "list.csv").write_text("photo\nphotos/one.jpg\n")
    out = tmp_path / "collection"
    code, _, err = run("embed", str(tmp_path / "list.csv"), "-o", str(out), "--columns", "path=photo", "--workers", "0")
    assert code == 0, err
    return out


@pytest.mark.parametrize("source", ["photos", "photos/one.jpg", "photos/*.jpg"])
def test_columns_of_images_are_an_error(run: Run, tmp_path: Path, source: str) -> None:
    image(tmp_path / "photos" / "one.jpg")
    out = tmp_path / "collection"
    code, _, err = run("embed", str(tmp_path / source), "-o", str(out), "--columns", "path=x", "--workers", "0")
    assert code == 2
    assert "columns names path, but none of the sources has columns; expected a list" in err
    assert not out.exists()


def test_columns_are_for_the_sources_that_have_them(run: Run, tmp_path: Path) -> None:
    out = collected(run, tmp_path)
    code, _, err = run("embed", str(tmp_path / "list.csv"), "-o", str(out), "--columns", "path=photo", "--workers", "0")
    assert code == 0
    assert "already complete" in err


def test_other_columns_than_those_of_the_collection_are_an_error(run: Run, tmp_path: Path) -> None:
    out = collected(run, tmp_path)
    code, _, err = run("embed", str(tmp_path / "list.csv"), "-o", str(out), "--columns", "path=x", "--workers", "0")
    assert code == 2
    assert "was listed with other columns (path=photo); update lists again (--update)" in err


@pytest.mark.parametrize("command", ["search", "duplicates", "outliers"])
def test_images_are_not_fetched_without_a_page(run: Run, tmp_path: Path, command: str) -> None:
    code, _, err = run(command, str(tmp_path), *(["x.jpg"] if command == "search" else []), "--fetch")
    assert (code, err) == (2, "hierax: --fetch is for the images of a page; add --html FILE, or leave --fetch out\n")
