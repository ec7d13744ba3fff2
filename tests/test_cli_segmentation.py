"""The commands for segmentation: finetune and evaluate, their options, and what they print."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shapes import pairs

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)

SMALL = ("epochs=1", "image_size=64", "workers=0", "batch_size=4", "validation_fraction=0.25")
SMALL_MODEL = ("embed_dim=8", "depths=[1,1,1,1]", "num_heads=[1,1,1,1]", "segmentation_hidden_size=16")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("segmentation")
    pairs(folder / "data", ignored=True)
    (folder / "names.txt").write_text("ground\nred\nblue\n")
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def trained(here: Path, run: "Run") -> Path:
    """A run, made by the first test that asks for it."""
    if not Path("run").exists():
        how = ("--task", "segment", "--classes", "names.txt", "--from", "scratch", "--device", "cpu")
        code, out, err = run("finetune", "data", "-o", "run", *how, *SMALL, *SMALL_MODEL)
        assert code == 0, err
        assert out == ""
        assert "3 classes of pixels: ground, red, blue" in err
        assert "mean IoU" in err
        assert "done: run/model" in err
    return here / "run"


def test_the_held_out_images_of_a_run_are_evaluated(trained: Path, run: "Run") -> None:
    code, out, err = run("evaluate", "data", "--model", "run", "--device", "cpu", "--confusion", "c.png", "--overwrite")
    assert code == 0
    assert "only the 2 samples that it held out are evaluated" in err
    assert out.startswith("loss ")
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["ground", "red", "blue"]
    assert "mean IoU" in out.splitlines()[0]
    assert Path("c.png").stat().st_size > 5000


def test_json_has_the_numbers_of_the_run(trained: Path, run: "Run") -> None:
    code, out, _ = run("evaluate", "data", "--model", "run", "--device", "cpu", "--json")
    assert code == 0
    found = json.loads(out)
    metrics = json.loads((trained / "run.json").read_text())["result"]["last"]
    assert {name: found[name] for name in metrics if name != "score"} == pytest.approx(
        {name: value for name, value in metrics.items() if name != "score"}
    )
    assert (found["samples"], found["unreadable"]) == (2, 0)
    assert set(found["classes"][0]) == {"label", "iou", "recall", "precision", "pixels"}


def test_other_data_are_evaluated_whole_and_by_number(trained: Path, run: "Run", tmp_path: Path) -> None:
    other = pairs(tmp_path / "other", 3, seed=7)
    code, out, err = run("evaluate", str(other), "--model", "run", "--device", "cpu")
    assert code == 0, err
    assert "on 3 samples" in out


def test_the_task_is_that_of_the_run_or_of_the_recipe(trained: Path, run: "Run") -> None:
    for given in (("--resume",), ("--config", "run")):
        code, _, err = run("finetune", *given, "-o", "run", "--device", "cpu")
        assert code == 0, err
        assert "run is already finished: model: step 1 of 1, mean IoU" in err
    code, _, err = run(
        "finetune", "data", "-o", "frozen", "--recipe", "segment_tiny_small_data_frozen_cpu", "--from", "run",
        "--device", "cpu", *SMALL,
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(Path("frozen/run.json").read_text())["mode"] == "segment"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "data", "--reduce-labels"), "--reduce-labels is for segmentation models"),
        (("evaluate", "data", "--model", "run", "--views", "2x1"), "--views is for classifiers of videos"),
        (("evaluate", "data", "--model", "run", "--classes", "a,b,c"), "the data has the classes a, b, c; the model"),
        (("finetune", "data", "-o", "x", "--classes", "a,b"), "classes is for the task segment"),
        (
            ("finetune", "data", "-o", "x", "--from", "scratch"),
            "images and masks, which look like images",
        ),
        (("finetune", "data/images", "-o", "x", "--task", "segment"), "data/images"),
        (("finetune", "data", "-o", "x", "--colors", "none.csv"), "none.csv"),
        (("finetune", "data", "-o", "x", "task=segment"), "task is an option, not a setting: --task segment"),
        (("finetune", "data", "-o", "x", "--task", "segment", "--teacher", "t"), "teacher is 't'"),
        (
            ("finetune", "data", "-o", "x", "--task", "classify", "--recipe", "segment_tiny_small_data"),
            "is for segment",
        ),
        (("pretrain", "data", "-o", "x", "--recipe", "segment_tiny_small_data"), "is for segment, not for pretrain"),
    ],
)
def test_what_does_not_fit_is_an_error_of_one_line(
    arguments: tuple[str, ...], message: str, trained: Path, run: "Run"
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_an_export_is_evaluated_in_windows_of_its_size(trained: Path, run: "Run") -> None:
    assert run("export", "run", "-o", "exported", "--format", "pt2", "--overwrite")[0] == 0
    code, out, err = run("evaluate", "data", "--model", "exported", "--device", "cpu", "--json")
    assert code == 0, err
    whole = json.loads(run("evaluate", "data", "--model", "run", "--device", "cpu", "--json")[1])
    found = json.loads(out)
    assert found["pixels"] >= whole["pixels"], "an export does not know which images were held out, unless it says so"
    assert 0 <= found["mean_iou"] <= 1
