"""The report of a run, and its plots."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hierax.data.sources import open_dataset
from hierax.train import evaluate, finetune
from hierax.train.plots import draw_confusion, plot_losses
from hierax.train.predictions import Predictions
from hierax.train.report import keep_predictions, write_report
from training import held, pictures

pytest_plugins = ("runs",)

HOSTILE = "<img src=x onerror=alert(1)>&\"'"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of two classes, eight samples of which are held out."""
    place = tmp_path_factory.mktemp("report")
    data = pictures(place / "data")
    return finetune(data, source=None, out=place / "run", recipe=held("finetune"), device="cpu", quiet=True)


def page(run: Path) -> str:
    return (run / "report.html").read_text()


def test_the_report_says_what_was_kept_and_how_good_it_is(run: Path) -> None:
    text, result = page(run), json.loads((run / "run.json").read_text())["result"]
    assert f"model: step {result['best_step']:,} of 6, top-1 {100 * result['best']:.1f} %" in text
    assert "Only 4 validation samples" in text
    for name in ("Curves", "Confusion matrix", "Classes", "Wrong predictions", "Settings"):
        assert f"<h2>{name}</h2>" in text


def test_only_a_run_with_a_top_1_says_how_much_one_sample_changes_it(run: Path, pretrained: Path) -> None:
    assert "Only 4 validation samples: one sample changes top-1 by 25 %." in page(run)
    assert "Only 4 validation samples. Small differences" in page(pretrained)


def test_the_numbers_of_the_report_are_those_of_an_evaluation(run: Path) -> None:
    found = evaluate(run.parent / "data", model=run, device="cpu")
    matrix = page(run).partition('class="matrix"')[2].partition("</table>")[0]
    cells = [int(cell or 0) for cell in re.findall(r"<td[^>]*>(\d*)</td>", matrix)]
    assert cells == found.predictions.confusion_matrix().flatten().tolist()
    wrong = int((found.predictions.logits.argmax(1) != found.predictions.labels).sum())
    assert page(run).count("<figure>") == wrong


def test_the_report_needs_nothing_and_allows_nothing_from_outside(run: Path) -> None:
    text = page(run)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert re.fullmatch(r"default-src 'none'; img-src data:; style-src 'sha256-[\w+/]+='", policy[1])
    assert "<script" not in text
    assert " style=" not in text
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)
    assert "http" not in text.replace("http-equiv", "")


def test_names_in_the_report_are_text(run: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("plain", "<b>&"):
        (data / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(data / name / "<i>'.png")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"id2label": {"0": HOSTILE, "1": "<b>&"}}))
    (tmp_path / "run.json").write_text((run / "run.json").read_text())
    keep_predictions(tmp_path, 1, Predictions(torch.arange(2), torch.eye(2), torch.tensor([1, 0])))
    text = write_report(tmp_path, open_dataset(data)).read_text()
    assert HOSTILE not in text
    assert "<b>" not in text
    assert "<i>" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert text.count("<figure><img") == 2


def test_names_that_are_not_text_or_turn_the_line_are_escaped(run: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    names = (os.fsdecode(b"caf\xe9.png"), "a\u202egnp.exe.png", "new\nline.png")
    for name, other in zip(("x", "y", "z"), names, strict=True):
        (data / name).mkdir(parents=True)
        try:
            Image.new("RGB", (40, 40)).save(tmp_path / "image.png")
            (tmp_path / "image.png").rename(data / name / other)
        except OSError:
            pytest.skip("this file system takes no such names")
    (tmp_path / "model").mkdir()
    labels = {"0": "x", "1": "y\u202e", "2": "z"}
    (tmp_path / "model" / "config.json").write_text(json.dumps({"id2label": labels}))
    (tmp_path / "run.json").write_text((run / "run.json").read_text())
    keep_predictions(tmp_path, 1, Predictions(torch.arange(3), torch.eye(3), torch.tensor([1, 2, 0])))
    text = write_report(tmp_path, open_dataset(data)).read_text(encoding="utf-8")
    assert "\u202e" not in text
    assert all(name in text for name in ("caf\\xe9.png", "a\\u202egnp.exe.png", "new\\nline.png", "y\\u202e"))


def test_the_diagonal_of_the_confusion_matrix_has_a_number_in_each_cell(run: Path) -> None:
    diagonal = re.findall(r'<td class="right[^"]*">(\d*)</td>', page(run))
    assert len(diagonal) == 2
    assert all(diagonal)


def test_of_many_classes_the_pairs_that_are_confused_most_are_listed(run: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    labels = {str(i): f"class {i}" for i in range(70)}
    (tmp_path / "model" / "config.json").write_text(json.dumps({"id2label": labels}))
    (tmp_path / "run.json").write_text((run / "run.json").read_text())
    logits = torch.zeros(5, 70)
    logits[:, 3] = 9.0
    keep_predictions(tmp_path, 1, Predictions(torch.arange(5), logits, torch.tensor([3, 8, 8, 8, 2])))
    text = write_report(tmp_path, open_dataset(run.parent / "data")).read_text()
    assert 'class="matrix"' not in text
    first, second = re.findall(r'<td class="text">(class \d+)</td><td class="text">class 3</td><td>(\d)</td>', text)
    assert (first, second) == (("class 8", "3"), ("class 2", "1"))


def test_a_run_of_arrays_has_a_report_without_images(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(16, 3, 64, 64)).astype(np.float32))
    np.save(tmp_path / "x.labels.npy", np.arange(16) % 2)
    recipe = held("finetune", epochs=1)
    made = finetune(tmp_path / "x.npy", source=None, out=tmp_path / "run", recipe=recipe, device="cpu", quiet=True)
    assert "<img" not in page(made)
    assert "Confusion matrix" in page(made)


def test_the_plot_of_the_losses_has_the_scores_beside_them(run: Path, tmp_path: Path) -> None:
    with Image.open(run / "loss.png") as plot:
        assert plot.size == (1440, 540)
    lines = [{"step": 1, "loss": 1.0}, {"step": 2, "validation": {"loss": 0.5, "score": -0.5}, "best": True}]
    (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines) + "damaged\n")
    assert plot_losses(tmp_path) == tmp_path / "loss.png"
    with Image.open(tmp_path / "loss.png") as plot:
        assert plot.size == (960, 540)


def test_a_confusion_matrix_has_its_numbers_and_a_title(tmp_path: Path, monkeypatch: Any) -> None:
    from matplotlib.figure import Figure

    written: list[list[str]] = []
    save = Figure.savefig

    def saved(figure: Any, *arguments: Any) -> None:
        axes = figure.axes[0]
        written.append([axes.get_title(), *(text.get_text() for text in axes.texts)])
        save(figure, *arguments)

    monkeypatch.setattr(Figure, "savefig", saved)
    draw_confusion(np.array([[1500, 2], [0, 498]]), ["cat", "dog"], tmp_path / "c.png")
    assert written == [["Confusion matrix: 1,998 of 2,000 right (99.9 %)", "1,500", "2", "498"]]
