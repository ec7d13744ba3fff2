"""`hierax embed`: what it says, and its exit codes."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

import hierax
from hierax.cli import embed as command
from hierax.cli import main
from hierax.collection.store import Manifest
from hierax.embedding.run import Progress
from hierax.stopping import SIGNALS

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)
FAST = ("--backend", "torch", "--precision", "fp32", "--workers", "0")


def test_a_folder_becomes_a_collection_and_the_same_line_goes_on(run: Run, classifier_folder: str) -> None:
    run("embed", "b", "-o", "out", "--model", classifier_folder, *FAST)
    code, out, err = run("embed", "b", "-o", "out", "--model", classifier_folder, *FAST)
    assert (code, out) == (0, "3 rows in out\n")
    assert "weights under CC-BY-NC-4.0" in err
    assert "images/s" not in err
    assert err.endswith("already complete; use --update to pick up added, changed or deleted files\n")
    assert run("embed", "-o", "out", "--update", *FAST)[2].endswith("hierax: no changes\n")
    names = [Path(path).name for path in pq.read_table("out/data").column("path").to_pylist()]
    assert names == ["cat.jpg", "owl.webp", "dog.png"]


def test_what_a_collection_knows_need_not_be_said_again(run: Run, classifier_folder: str) -> None:
    run("embed", "b", "-o", "out", "--model", classifier_folder, "--l2", "--half", "--layer", "stage2", *FAST)
    Path("b/new.png").write_bytes(Path("b/dog.png").read_bytes())
    Path("b/cat.jpg").unlink()
    assert run("embed", "-o", "out", "--update", *FAST)[:2] == (0, "3 rows in out (1 gone)\n")


def test_another_batch_size_of_a_collection_is_not_used_and_says_so(run: Run, classifier_folder: str) -> None:
    line = ("embed", "b", "-o", "out", "--model", classifier_folder, *FAST)
    assert "--batch-size" not in run(*line, "--batch-size", "2")[2]
    assert "--batch-size" not in run(*line, "--batch-size", "2")[2]
    assert "hierax: --batch-size is not used: out was started with 2, and every" in run(*line, "--batch-size", "8")[2]


def test_an_update_that_only_marks_deleted_images_says_so(run: Run, classifier_folder: str) -> None:
    run("embed", "b", "-o", "out", "--model", classifier_folder, *FAST)
    Path("b/cat.jpg").unlink()
    code, out, err = run("embed", "-o", "out", "--update", *FAST)
    assert (code, out) == (0, "2 rows in out (1 gone)\n")
    assert err.endswith("hierax: 1 image marked as gone; no other changes\n")
    assert run("embed", "-o", "out", "--update", *FAST)[2].endswith("hierax: no changes\n")


def test_size_and_precision_of_a_collection_need_not_be_said_again(run: Run, classifier_folder: str) -> None:
    made = ("embed", "a", "-o", "out", "--model", classifier_folder, "--workers", "0")
    run(*made, "--precision", "fp32", "--backend", "torch", "--size", "96", "--layer", "stage2", "--layer", "stage2")
    Path("a/new.png").write_bytes(Path("b/dog.png").read_bytes())
    assert run("embed", "-o", "out", "--update")[:2] == (0, "2 rows in out\n")
    code, _, err = run("embed", "-o", "out", "--precision", "bf16")
    assert (code, "precision was 'fp32', now 'bf16'" in err) == (2, True)


def test_without_a_model_it_is_the_one_that_comes_with_hierax(run: Run) -> None:
    assert run("embed", "a", "-o", "out", "--backend", "torch")[:2] == (0, "1 row in out\n")
    assert Manifest.read(Path("out")).model == "hierax/femto"


@pytest.mark.parametrize("number", SIGNALS)
def test_that_it_is_about_to_stop_is_said_at_once(
    here: Path, classifier_folder: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], number: int
) -> None:
    said: list[str] = []

    def told(_: Progress) -> None:
        signal.raise_signal(number)
        said.append(capfd.readouterr().err)

    monkeypatch.setattr(command, "_follow", lambda *_: told)
    code = main(["embed", "a", "-o", "out", "--model", classifier_folder, *FAST])
    assert said[0].endswith("\nhierax: finishing the current images, then stopping; Ctrl-C again stops at once\n")
    assert code == 0, "there was nothing left to do"


def test_some_that_cannot_be_read_are_3_and_all_are_2(run: Run, classifier_folder: str) -> None:
    code, out, err = run("embed", "a", "notes.txt.png", "-o", "out", "--model", classifier_folder, *FAST)
    assert (code, out) == (2, "")
    assert err.endswith("/notes.txt.png: no such file or folder\n")
    assert "weights" not in err, "what is missing is said before a model is loaded"
    Path("bad.png").write_text("no picture")
    code, out, err = run("embed", "a", "bad.png", "-o", "out", "--model", classifier_folder, *FAST)
    assert (code, out) == (3, "1 row in out\n")
    assert "1 cannot be read, see out/errors.parquet: not an image (1)\n" in err
    assert run("embed", "bad.png", "-o", "other", "--model", classifier_folder, *FAST)[0] == 2


def test_json_holds_the_counts(run: Run, classifier_folder: str) -> None:
    _, out, _ = run("embed", "a", "-o", "out", "--model", classifier_folder, "--json", *FAST)
    found = json.loads(out)
    assert (found["rows"], found["done"], found["errors"], found["pending"], found["stopped"]) == (1, 1, 0, 0, False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("embed", "a", "-o", "new", "--workers", "-3"), "'-3' is not a whole number, 0 or more"),
        (("embed", "-o", "new", "--model", "M"), "is a new collection; expected SOURCE"),
        (("embed", "a", "-o", "new", "--model", "M", "--shard", "2/2"), "'2/2' is not I/N with I from 0 to N - 1"),
        (("embed", "a", "-o", "b", "--model", "M", *FAST), "b is not empty and contains no collection"),
        (("embed", "a", "-o", "new", "--model", "M", "--layer", "neck", *FAST), "layer is 'neck'; expected pooled"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    run: Run, classifier_folder: str, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = run(*(classifier_folder if a == "M" else a for a in arguments))
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]
    assert not Path("new").exists()


def test_a_missing_package_is_named_with_its_extra(
    run: Run, classifier_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = run("embed", "a", "-o", "out", "--model", classifier_folder)
    line = "pip install 'pyarrow>=15' (part of hierax[embed])"
    assert (code, err) == (2, f"hierax: a collection of features needs the package pyarrow: {line}\n")


def test_features_of_a_mae_come_with_a_note(run: Run, mae_folder: str) -> None:
    _, _, err = run("embed", "a", "-o", "out", "--model", mae_folder, *FAST)
    assert "the encoder of an MAE; its last norm was not trained" in err


def test_features_of_a_segmentation_model_come_with_a_note(run: Run, classifier_folder: str) -> None:
    hierax.load(classifier_folder, task="segmentation", num_labels=2).save_pretrained("segmenter")
    code, out, err = run("embed", "a", "-o", "out", "--model", "segmenter", *FAST)
    assert (code, out != "") == (0, True), err
    assert "a segmentation model has no norm at its end" in err
    assert "A classifier may be better" in err


def test_a_collection_of_a_model_that_was_an_object_asks_for_its_name(run: Run, classifier_folder: str) -> None:
    hierax.embed(["a"], "out", model=hierax.HieraModel.from_pretrained(classifier_folder), workers=0)
    code, _, err = run("embed", "-o", "out", "--update", *FAST)
    assert code == 2
    assert "object, which has no name; pass its folder or Hub id with --model" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_after_the_images_in_hand_with_its_exit_code(
    run: Run, classifier_folder: str, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    for n in range(20):
        Path(f"b/{n}.png").write_bytes(Path("b/dog.png").read_bytes())

    def told(progress: Progress) -> None:
        if progress.done == 1:  # a second one would end it at once
            signal.raise_signal(number)

    monkeypatch.setattr(command, "_follow", lambda *_: told)
    found, _, err = run("embed", "b", "-o", "out", "--model", classifier_folder, "--batch-size", "1", *FAST)
    assert found == code
    assert err.endswith("stopped; 7 images left; run the same command again to resume\n")


def test_another_name_of_the_column_of_paths_is_kept_for_updates(run: Run, classifier_folder: str) -> None:
    Path("list.csv").write_text("foto,path\nb/dog.png,wrong.png\n")
    arguments = ("embed", "list.csv", "-o", "out", "--model", classifier_folder, *FAST)
    assert run(*arguments, "--columns", "path=foto")[:2] == (0, "1 row in out\n")
    Path("list.csv").write_text("foto,path\nb/dog.png,wrong.png\nb/cat.jpg,\n")
    assert run("embed", "-o", "out", "--update", *FAST)[:2] == (0, "2 rows in out\n")
    code, _, err = run(*arguments[:3], "new", "--columns", "foto")
    assert code == 2
    assert "'foto' is not path=NAME, with the name of a column" in err


def test_a_manifest_without_a_crop_is_no_fault(run: Run, classifier_folder: str) -> None:
    run("embed", "a", "-o", "out", "--model", classifier_folder, *FAST)
    values = json.loads(Path("out/manifest.json").read_text())
    values["preprocessing"]["crop_size"] = None
    Path("out/manifest.json").write_text(json.dumps(values))
    code, _, err = run("embed", "-o", "out", "--update", *FAST)
    assert code == 2
    assert "a fault of hierax" not in err
