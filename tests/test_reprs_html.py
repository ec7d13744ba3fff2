"""HTML of objects in notebooks: self-contained, escaped, bounded, readable on light and dark pages, never an error."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hierax
from collections_of import collection, noise
from hierax.benchmark import BenchReport
from hierax.collection import Hit
from hierax.collection.source import content_hash
from hierax.data import SegmentationStatistics
from hierax.detection import Detection, DetectionEvaluation, FoundObject
from hierax.embedding.search import SearchResult
from hierax.model.outputs import HieraModelOutput
from hierax.predict.reconstruct import Reconstruction
from hierax.processing import ImageError
from hierax.reprs.markup import MOST_BYTES, bar, card, html_repr, table
from hierax.train import Evaluation, SegmentationEvaluation
from hierax.train.predictions import Predictions
from hierax.train.segmentation import SegmentationResult
from hierax.train.segmentation_metrics import SegmentationMatrix
from hierax.viz.animation import Animation
from hierax.viz.sheets import Tile

BAD = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u202e\x1b[31m\udcff"
FACTS = {"readable": 1, "smallest": [9, 8], "largest": [9, 8], "mean": [0.5], "std": [0.1]}


def evaluation(count: int = 3, labels: tuple[str, ...] = (BAD, "b", "c")) -> Evaluation:
    found = Predictions(torch.arange(count), torch.rand(count, len(labels)), torch.arange(count) % len(labels))
    return Evaluation(found, labels, found.metrics() if count else {"loss": float("nan"), "top1": float("nan")})


def detection(path: Path) -> Detection:
    objects = (FoundObject((1.0, 1.0, 5.0, 5.0), 0, 0.9),)
    return Detection(path, 9, 9, objects, (BAD,))


def objects(folder: Path) -> dict[str, Any]:
    """An object of every class with HTML, with hostile names."""
    path = folder / f"{BAD[:20].replace('/', '_')}.png"
    Image.new("RGB", (40, 30), (200, 30, 30)).save(path)
    gone, picture = folder / "gone.png", Image.new("RGB", (16, 16))
    error = ImageError(BAD, BAD)
    likely = tuple(hierax.Prediction(BAD, number, 0.5) for number in range(3))
    mask = np.zeros((30, 40), np.uint8)
    areas = (hierax.ClassArea(BAD, 0, 1200, 1.0, (128, 0, 0)),)
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    heat = hierax.Explanation(0, BAD, 0.5, values, (16, 16))
    matrix = SegmentationMatrix(torch.tensor([[3, 1], [0, 2]]))
    moving = Animation([(picture, picture)] * 3, [(BAD, BAD)] * 2, 0.1)
    config = hierax.HieraConfig(id2label={0: BAD.replace("\udcff", ""), 1: "b"}, embed_dim=8, num_heads=(1, 1, 1, 1))
    per_class = [{"label": BAD, "ap": None, "objects": 3}]
    return {
        "classification": hierax.Classification(path, likely),
        "unreadable": hierax.Classification(path, error=error),
        "gone": hierax.Classification(gone, likely),
        "segmentation": hierax.Segmentation(path, mask, areas, (BAD,)),
        "segmentation of a file that is gone": hierax.Segmentation(gone, mask, areas, (BAD,)),
        "explanation": heat,
        "explanation of a clip": hierax.Explanation(None, None, None, values[None], (2, 16, 16), "rollout"),
        "explanation files": hierax.ExplanationFiles(path, (heat,), gone, path),
        "feature files": hierax.FeatureFiles(path, gone, path),
        "reconstruction": Reconstruction(path, (Tile(picture, BAD, BAD),)),
        "reconstruction of a clip": Reconstruction(path, animation=moving),
        "hits": SearchResult(BAD, (Hit(BAD, BAD, 0.5),)),
        "evaluation": evaluation(),
        "segmentation evaluation": SegmentationEvaluation(SegmentationResult(matrix, 0.1, 1, []), (BAD, "b")),
        "statistics": hierax.DatasetStatistics(
            samples=1, validation=2, classes={BAD: 1}, channels=3, modes={BAD: 1}, types={}, unreadable=[(BAD, BAD)],
            **FACTS,
        ),
        "statistics of masks": SegmentationStatistics(
            samples=1, validation=2, pixels={BAD: 1}, share={BAD: 1.0}, images={BAD: 1}, ignored=0.1, without_labels=0,
            unreadable=[(BAD, BAD)], **FACTS,
        ),
        "detection": detection(path),
        "detection in a file that is gone": detection(gone),
        "detection evaluation": DetectionEvaluation({"AP": 0.5, "AP50": None}, per_class, False, 3, []),
        "batch": hierax.BatchFeature({BAD: torch.zeros(2, 3)}),
        "output": hierax.ClassifierOutput(None, torch.zeros(0, 3, device="meta")),
        "model": hierax.HieraForImageClassification(config).to("meta"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return objects(tmp_path_factory.mktemp("html"))


class Reader(HTMLParser):
    """Collects tags, and checks that each is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def pieces(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in found.items():
        html = value._repr_html_()
        assert html is not None, name
        yield name, html


def test_every_object_has_html_that_is_closed_and_small(found: dict[str, Any]) -> None:
    for name, html in pieces(found):
        reader = Reader()
        reader.feed(html)
        assert reader.open == [], name
        assert len(html.encode()) <= 100_000, name


def test_names_of_files_and_classes_are_only_text(found: dict[str, Any]) -> None:
    allowed = {
        "div",
        "span",
        "strong",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "img",
        "br",
        "figure",
        "figcaption",
    }
    for name, html in pieces(found):
        reader = Reader()
        reader.feed(html)
        assert {tag for tag, _ in reader.tags} <= allowed, name
        assert {key for _, attrs in reader.tags for key in attrs} <= {"style", "src", "alt"}, name
        assert not re.search("[\u202e\x1b]", html), name
    assert "&lt;script&gt;" in found["classification"]._repr_html_()


def test_nothing_is_loaded_from_anywhere(found: dict[str, Any]) -> None:
    for name, html in pieces(found):
        reader = Reader()
        reader.feed(html)
        sources = [attrs["src"] or "" for tag, attrs in reader.tags if tag == "img"]
        assert all(source.startswith("data:image/") for source in sources), name
        styles = [attrs.get("style") or "" for _, attrs in reader.tags]
        assert not any("url(" in style for style in styles), name


def test_texts_have_the_colors_of_the_page(found: dict[str, Any]) -> None:
    for name, html in pieces(found):
        assert set(re.findall(r"(?<![\w-])color:([^;']*)", html)) <= {"inherit"}, name


def test_what_should_be_seen_is_there(found: dict[str, Any]) -> None:
    assert found["classification"]._repr_html_().count("<img") == 1
    assert found["classification"]._repr_html_().count("width:50.0%") == 3
    assert "cannot be shown" in found["gone"]._repr_html_()
    assert "rgb(128,0,0)" in found["segmentation"]._repr_html_()
    assert "image/gif" in found["reconstruction of a clip"]._repr_html_()
    assert "float32 [0, 3] on meta" in found["output"]._repr_html_()
    assert "0.500" in found["hits"]._repr_html_()
    assert "print(model)" in found["model"]._repr_html_()


def test_hits_are_drawn_from_files_that_have_not_changed(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths:
        Image.effect_noise((48, 48), 90).save(path)
    hashes = [content_hash(path.read_bytes()) for path in paths]
    folder = collection(tmp_path / "rows", noise(3), paths=[str(path) for path in paths], hashes=hashes)
    result = hierax.search(folder, str(paths[0]), top_k=2)[0]
    assert str(result._repr_html_()).count("<img") == 3
    Image.new("RGB", (9, 9)).save(paths[1])
    paths[2].unlink()
    html = str(result._repr_html_())
    assert html.count("<img") == 1
    assert "the file has changed" in html
    assert "the file is missing" in html


@pytest.mark.parametrize("kind", ["samples", "classes", "logits"])
def test_an_evaluation_of_nothing_and_of_many_classes_is_shown(kind: str) -> None:
    many = evaluation(5, tuple(f"class {number}" for number in range(300)))
    found = {"samples": evaluation(0), "classes": many, "logits": evaluation(30, ("a",))}[kind]
    assert len(found._repr_html_() or "") < 20_000


def test_what_cannot_be_made_or_is_too_long_is_left_to_the_text() -> None:
    class Thing:
        def __init__(self, html: Any) -> None:
            self.html = html

        @html_repr
        def _repr_html_(self) -> str:
            return self.html()

    assert Thing(lambda: "x" * MOST_BYTES)._repr_html_() == "x" * MOST_BYTES
    assert Thing(lambda: "x" * (MOST_BYTES + 1))._repr_html_() is None
    assert Thing(lambda: 1 / 0)._repr_html_() is None
    out = HieraModelOutput.__new__(HieraModelOutput)
    assert out._repr_html_() is None
    assert BenchReport.__new__(BenchReport)._repr_html_() is None


def test_a_table_shows_its_first_rows_and_the_number_of_the_others() -> None:
    html = table(("a", "b"), [(number, "x") for number in range(1000)])
    assert html.count("<tr") == 21
    assert "… and 980 more" in html


@pytest.mark.parametrize("share", [float("nan"), float("inf"), -3.0, 7.0])
def test_a_bar_stays_in_its_place(share: float) -> None:
    assert re.findall(r"width:([\d.]+)%", bar(share))[0] in ("0.0", "100.0")


def test_a_long_name_is_cut() -> None:
    assert len(card("x" * 10_000)) < 1000
