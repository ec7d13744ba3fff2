"""`--columns`: names of columns in lists and tables, alike in each command that reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hierax.data import open_dataset
from hierax.data.split import open_train_and_validation
from hierax.train.description import DamagedRun, read_description
from opening import refused
from samples import encoded, picture, write_parquet
from training import pictures

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)

OWN = {"path": "foto", "label": "art"}
COLUMNS = ("--columns", "path=foto,label=art")
SHORT = (
    "--recipe", "finetune_tiny_small_data_cpu", "--device", "cpu", "--from", "scratch", "epochs=1", "batch_size=4",
    "workers=0", "image_size=64", "embed_dim=8", "depths=[1,1,1,1]", "num_heads=[1,1,1,1]",
)  # fmt: skip


def write_lists(folder: Path) -> None:
    """The same list of 12 images in two classes, in each format, with columns foto and art."""
    pictures(folder / "p", each=6)
    files = [str(path.relative_to(folder)) for path in sorted((folder / "p").rglob("*.png"))]
    arts = [Path(file).parts[1] for file in files]
    pairs = list(zip(files, arts, strict=True))
    (folder / "l.csv").write_text("foto,art\n" + "".join(f"{file},{art}\n" for file, art in pairs))
    (folder / "l.jsonl").write_text("".join(json.dumps({"foto": f, "art": a}) + "\n" for f, a in pairs))
    pq.write_table(pa.table({"foto": files, "art": arts}), folder / "l.parquet")


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table with images, whose columns are foto and art."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    images = [{"bytes": encoded(picture(seed=i)), "path": None} for i in range(4)]
    return write_parquet(tmp_path / "t.parquet", {"foto": images, "art": [1, 0, 1, 0], "label": [2, 2, 2, 2]})


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_lists_of_each_format_take_other_names(tmp_path: Path, suffix: str) -> None:
    write_lists(tmp_path)
    source = tmp_path / f"l.{suffix}"
    found = open_dataset(source, columns=OWN)
    assert (found.classes, found.labels()) == (("class0", "class1"), [0] * 6 + [1] * 6)
    assert found.sample(0).content == str(tmp_path / "p/class0/0.png")
    refused(source, "no column 'nix'; there are: foto, art", columns={"path": "nix"})
    refused(source, "columns names 'pfad'; expected one of path, label, start, end, split", columns={"pfad": "foto"})


def test_tables_of_images_take_other_names(table: Path) -> None:
    found = open_dataset(table, columns=OWN)
    assert (found.labels(), found.sample(1).content) == ([1, 0, 1, 0], encoded(picture(seed=1)))
    refused(table, "no column 'nix'; there are: foto, art, label", columns={"path": "foto", "label": "nix"})
    refused(table, "no column of images among foto, art, label", "--columns path=NAME names another one")


def test_columns_of_data_without_columns_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path / "p")
    refused(tmp_path / "p", "columns names path, label, but only lists", columns=OWN)


def test_columns_are_for_the_one_of_two_sets_that_has_columns(tmp_path: Path) -> None:
    write_lists(tmp_path)
    pictures(tmp_path / "val", each=2, seed=1)
    for data, validation, sizes in (("l.csv", "val", (12, 4)), ("val", "l.csv", (4, 12))):
        train, held = open_train_and_validation(tmp_path / data, validation=tmp_path / validation, columns=OWN)
        assert (len(train), len(held or ())) == sizes
    with pytest.raises(ValueError, match="val: columns names path, label, but only lists"):
        open_train_and_validation(tmp_path / "p", validation=tmp_path / "val", columns=OWN)


def test_a_jsonl_list_names_the_line_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    for text, problem in (
        ('{"path": "a.png"}\n{"path"\n', "line 2: .*expected a JSON object in each line"),
        ('{"path": "a.png"}\n[1]\n', r"line 2: \[1\]; expected a JSON object in each line"),
        ('{"path": "a.png"}\n{"other": 1}\n', "line 2: no path"),
        ('{"text": "a"}\n', "its first line is text; expected names of columns"),
        ("[" * 100_000 + "\n", "line 1: .*expected a JSON object"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=problem):
            open_dataset(path)


def test_a_run_remembers_the_columns(run: Run, here: Path) -> None:
    write_lists(here)
    code, _, err = run("finetune", "l.csv", *COLUMNS, "-o", "run", *SHORT)
    assert code == 0, err
    assert read_description(Path("run/run.json"))["columns"] == OWN
    code, _, err = run("finetune", "l.csv", "-o", "run", *SHORT)
    assert (code, "run is already finished" in err) == (0, True)
    code, _, err = run("finetune", "l.csv", "--columns", "path=foto", "-o", "run", *SHORT)
    assert code == 2
    assert "columns was {'path': 'foto', 'label': 'art'}, now {'path': 'foto'}" in err
    code, out, err = run("evaluate", "l.csv", "--model", "run", "--json", "--device", "cpu")
    assert (code, "that it held out" in err) == (0, True)
    assert json.loads(out)["samples"] < 12
    assert run("finetune", "--config", "run", "-o", "again", "--device", "cpu")[0] == 0
    values = json.loads(Path("run/run.json").read_text())
    Path("run/run.json").write_text(json.dumps({**values, "columns": ["foto"]}))
    with pytest.raises(DamagedRun, match=r"columns is .*expected an object of names"):
        read_description(Path("run/run.json"))


@pytest.mark.parametrize(
    "command",
    [
        ("stats", "l.jsonl", "--workers", "0"),
        ("pretrain", "l.jsonl", "-o", "out", "--recipe", "mae_tiny_small_data_cpu", *SHORT[2:], "decoder_depth=1"),
        ("evaluate", "l.jsonl", "--probe", "knn", "--train", "l.jsonl", "--device", "cpu"),
    ],
)
def test_each_command_takes_columns_and_says_what_is_wrong(run: Run, here: Path, command: tuple[str, ...]) -> None:
    write_lists(here)
    code, _, err = run(*command, *COLUMNS)
    assert code == 0, err
    for given, problem in (
        ("path=nix", "l.jsonl: no column 'nix'; there are: foto, art"),
        ("foto", "argument --columns: 'foto' is not path=NAME or label=NAME, with the name of a column"),
        ("path=foto,path=art", "argument --columns: 'path=foto,path=art' is not path=NAME or label=NAME"),
        ("path=foto,", "no column 'foto,'"),
    ):
        code, _, err = run(*command[:2], "-o", "new", "--columns", given) if command[0] == "pretrain" else run(
            *command, "--columns", given
        )  # fmt: skip
        assert code == 2
        assert problem in err


def test_a_name_of_a_column_may_hold_a_comma(run: Run, here: Path) -> None:
    pictures(here / "p", classes=1, each=1)
    Path("l.csv").write_text('"foto, groß",art\np/class0/0.png,x\n')
    code, out, _ = run("stats", "l.csv", "--columns", "path=foto, groß,label=art", "--json")
    assert code == 0
    assert json.loads(out)["classes"] == {"x": 1}


# -- folders with a list in them


def metadata(folder: Path, text: str, name: str = "metadata.csv") -> Path:
    (folder / "b").mkdir(parents=True, exist_ok=True)
    for place in ("1.png", "2.png", "b/3.png"):
        (folder / place).write_bytes(encoded(picture(seed=1)))
    (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "file_name,label\n1.png,x\nb/3.png,y\n"),
        ("metadata.jsonl", '{"file_name": "1.png", "label": "x"}\n{"file_name": "b/3.png", "label": "y"}\n'),
    ],
)
def test_labels_of_a_folder_come_from_its_metadata(tmp_path: Path, name: str, text: str) -> None:
    folder = metadata(tmp_path / "d", text, name)
    with pytest.warns(match=f"labels are read from {name}; 1 other image in the folder is not used"):
        found = open_dataset(folder)
    assert (found.classes, found.labels()) == (("x", "y"), [0, 1])
    assert found.sample(1).content == str(folder / "b/3.png")
    with pytest.warns(match="1 file left out"):
        assert len(open_dataset(folder, labels=False)) == 3


def test_metadata_without_labels_leaves_class_folders_as_they_are(tmp_path: Path) -> None:
    pictures(tmp_path / "p", each=1)
    (tmp_path / "p/metadata.csv").write_text("file_name,text\nclass0/0.png,a dog\n")
    with pytest.warns(match=r"1 file left out: 1 \.csv"):
        assert open_dataset(tmp_path / "p").classes == ("class0", "class1")


def test_the_label_of_metadata_may_have_another_name(tmp_path: Path) -> None:
    folder = metadata(tmp_path / "d", "file_name,art\n1.png,x\n2.png,y\nb/3.png,y\n")
    with pytest.warns(match=r"labels are read from metadata.csv$"):
        assert open_dataset(folder, columns={"label": "art"}).labels() == [0, 1, 1]
    refused(folder, "metadata.csv: no column 'nix'; there are: file_name, art", columns={"label": "nix"})


def test_metadata_that_is_not_read_is_told(run: Run, here: Path) -> None:
    metadata(here / "d", "file_name,art\n1.png,x\n2.png,y\n")
    (here / "d/b/3.png").unlink()
    code, _, err = run("stats", "d", "--workers", "0")
    assert (code, "if metadata.csv has labels, --columns label=NAME names their column" in err) == (0, True)
    pictures(here / "s/train", each=1)
    pictures(here / "s/val", each=1)
    (here / "s/metadata.csv").write_text("file_name,label\ntrain/class0/0.png,x\n")
    code, out, err = run("stats", "s", "--workers", "0", "--json")
    assert (code, json.loads(out)["classes"]) == (0, {"class0": 1, "class1": 1})
    assert "s/metadata.csv is not read, because s/train is beside it; to use its labels, pass the list itself" in err


def test_embed_reads_the_column_of_images_that_is_named(
    run: Run, here: Path, classifier_folder: str, table: Path
) -> None:
    fast: tuple[str, ...] = ("--model", classifier_folder, "--device", "cpu", "--workers", "0", "--json")
    code, _, err = run("embed", str(table), "-o", "out", *fast)
    assert (code, "--columns path=NAME names another one" in err) == (2, True)
    code, _, err = run("embed", str(table), "-o", "out", "--columns", "path=nix", *fast)
    assert (code, "no column 'nix'; there are: foto, art, label" in err) == (2, True)
    images = [{"bytes": encoded(picture(seed=i)), "path": None} for i in range(4)]
    write_parquet(table, {"foto, groß#?": images, "image": images[::-1]})
    code, out, err = run("embed", str(table), "-o", "out", "--columns", "path=foto, groß#?", *fast)
    assert (code, json.loads(out)["rows"]) == (0, 4), err
    code, out, err = run("embed", "-o", "out", "--update", *fast)
    assert (code, json.loads(out)["done"]) == (0, 0), err
    code, out, err = run("embed", "-o", "out", "--update", "--columns", "path=image", *fast)
    assert (code, json.loads(out)["done"], json.loads(out)["rows"]) == (0, 4, 4), err


# -- folders that hold no images


def test_embed_reads_a_folder_of_parquet_files(
    run: Run, here: Path, classifier_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", here / "cache")
    fast: tuple[str, ...] = ("--model", classifier_folder, "--device", "cpu", "--workers", "0", "--json")
    rows: dict[str, list[Any]] = {"image": [{"bytes": encoded(picture(seed=i)), "path": None} for i in range(3)]}
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        write_parquet(here / f"hub/data/{name}.parquet", rows)
    code, out, err = run("embed", "hub", "-o", "out", *fast)
    assert (code, json.loads(out)["rows"]) == (0, 9), err
    write_parquet(here / "hub/data/test-00001-of-00002.parquet", rows)
    code, out, err = run("embed", "-o", "out", "--update", *fast)
    assert (code, json.loads(out)["rows"], json.loads(out)["done"]) == (0, 12, 3), err


def test_what_holds_no_image_files_says_which_command_reads_it(run: Run, here: Path, classifier_folder: str) -> None:
    assert run("embed", "a", "-o", "out", "--model", classifier_folder, "--device", "cpu", "--workers", "0")[0] == 0
    collection = "out: a collection that hierax embed wrote; it contains features, not images; expected images"
    for command in (
        ("stats", "out"),
        ("finetune", "out", "-o", "r"),
        ("embed", "out", "-o", "o2"),
        ("classify", "out"),
    ):
        code, _, err = run(*command)
        assert (code, collection in err) == (2, True), err
    (here / "t").mkdir()
    for name, kind in (("l.csv", "a list"), ("t/x.parquet", "a list or a table of images"), ("x.tar", "a shard")):
        (here / name).write_bytes(b"")
        code, _, err = run("classify", name)
        assert code == 2
        assert f"{name}: {kind}, which this command does not read; expected files, folders or patterns of images" in err
    code, _, err = run("features", "t", "-o", "f")
    assert code == 2
    assert "1 file left out: 1 .parquet (hierax embed reads lists, .tar and .parquet files)" in err
