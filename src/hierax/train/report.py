"""The report of a run: one HTML page with curves, classes, confusion matrix and wrongly classified images.

The page is self-contained and works offline; it allows no scripts and no outside content. Names of files and classes
are escaped.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from html import escape as escape_html
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hierax.data.dataset import Dataset
from hierax.notices import printable
from hierax.processing.reading import load_image
from hierax.train.checkpoints import write_text
from hierax.train.choice import FEW_HELD
from hierax.train.description import DESCRIPTION, read_description, read_object
from hierax.train.log import format_metrics, result_sentence
from hierax.train.overlays import OVERLAYS
from hierax.train.plots import SCORES, curve, read_log
from hierax.train.predictions import Predictions
from hierax.train.segmentation_metrics import SegmentationMatrix

REPORT, _VALIDATION = "report.html", "validation.json"
_MOST_CLASSES = 60
"""With more classes, the page lists the most confused pairs, not the whole matrix."""
_PAIRS, _WRONG, _SIDE, _POINTS = 30, 60, 176, 600
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 460, 240, 48, 30, 26  # of a curve


def keep_predictions(folder: Path, step: int, found: Predictions) -> None:
    """Writes the predictions of the weights of `step` for the held-out samples to `validation.json`, for the report."""
    if found.labels.ndim != 1:
        return
    likely, said = found.logits.double().softmax(1).max(1)
    own = found.logits.double().softmax(1).gather(1, found.labels[:, None])[:, 0]
    columns = {
        "indices": found.indices.tolist(),
        "labels": found.labels.tolist(),
        "predicted": said.tolist(),
        "probability": [round(p, 5) for p in likely.tolist()],
        "probability_of_label": [round(p, 5) for p in own.tolist()],
    }
    write_text(folder / _VALIDATION, json.dumps({"step": step, **columns}) + "\n")


def keep_matrix(folder: Path, step: int, matrix: SegmentationMatrix) -> None:
    """Writes the confusion matrix of the held-out pixels to `validation.json`, for the report."""
    write_text(folder / _VALIDATION, json.dumps({"step": step, "counts": matrix.counts.tolist()}) + "\n")


def write_report(folder: Path, validation: Dataset | None) -> Path:
    """Writes `report.html` of a finished run; `validation` is its validation set."""
    run = read_description(folder / DESCRIPTION)
    steps, checks = read_log(folder)
    result = run["result"]
    parts = [_curves(steps, checks, result["steps"] if result.get("weights") == "last" else result.get("best_step"))]
    table = _read_predictions(folder)
    labels = _labels(folder)
    if table is not None and "counts" in table:
        if table["counts"].shape == (len(labels),) * 2:
            parts += [
                _overlays(folder),
                _matrix(table["counts"], labels, pixels=True),
                _pixel_classes(table["counts"], labels),
            ]
    elif table is not None and validation is not None and labels:
        parts += [
            _matrix(_counts(table, len(labels)), labels),
            _classes(table, labels, run.get("classes") or {}),
            _wrong(table, labels, validation),
        ]
    parts.append(_settings(run))
    path = folder / REPORT
    write_text(path, _page(folder.resolve().name, _head(run, checks), parts))
    return path


def _labels(folder: Path) -> list[str]:
    try:
        names = read_object(folder / "model" / "config.json")["id2label"]
        return [names[str(i)] for i in range(len(names))]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _read_predictions(folder: Path) -> dict[str, np.ndarray] | None:
    try:
        values = read_object(folder / _VALIDATION)
        return {name: np.asarray(column) for name, column in values.items()}
    except (OSError, ValueError):
        return None


def _text(text: str) -> str:
    """Text escaped for HTML, on one line. Bytes of file names that are not valid text become backslash escapes."""
    return escape_html(printable(text))


def _page(title: str, head: str, parts: Sequence[str]) -> str:
    style = files("hierax").joinpath("assets").joinpath("report.css").read_text()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'"
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{_text(title)}</title>\n'
        f"<style>{style}</style>\n</head>\n<body>\n<h1>{_text(title)}</h1>\n{head}\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def _head(run: Mapping[str, Any], checks: Sequence[Mapping[str, Any]]) -> str:
    result, validation = run["result"], run.get("facts", {}).get("held_out", 0)
    lines = [f"<p>{_text(result_sentence(result, validation))}</p>"]
    last = result.get("last")
    if last and result.get("weights") == "best" and result.get("best_step") != result["steps"]:
        lines.append(f"<p>last step, {result['steps']:,}: {_text(', '.join(format_metrics(last)))}</p>")
    count = f"{run.get('facts', {}).get('samples', 0):,} training samples, {validation:,} validation samples"
    lines.append(f'<p class="faded">{count}; {result["seconds"]:,.0f} s on {_text(_device(run))}</p>')
    if checks and validation < FEW_HELD:
        changes = f": one sample changes top-1 by {100 / max(validation, 1):.0f} %" if "top1" in checks[-1] else ""
        lines.append(
            f'<p class="warning">Only {validation} validation samples{changes}. Small differences are not reliable.</p>'
        )
    return "\n".join(lines)


def _device(run: Mapping[str, Any]) -> str:
    return str(run.get("environment", {}).get("device", "an unknown device"))


def _curves(steps: Sequence[dict[str, Any]], checks: Sequence[dict[str, Any]], kept: int | None) -> str:
    losses = {"training": curve(steps, "loss"), "validation": curve(checks, "loss")}
    scores = {label: [(x, 100 * y) for x, y in curve(checks, name)] for name, label in SCORES.items()}
    drawn = [_svg("loss", losses, kept)]
    if any(scores.values()):
        drawn.append(
            _svg("validation, %", dict(list({k: v for k, v in scores.items() if v}.items())[:2]), kept, top=100)
        )
    note = "<p class='faded'>The dashed line marks the step whose weights were kept.</p>" if kept else ""
    return f'<h2>Curves</h2>\n<div class="curves">{"".join(drawn)}</div>\n{note}'


def _svg(title: str, curves: Mapping[str, list[tuple[int, float]]], kept: int | None, top: float | None = None) -> str:
    points = [point for line in curves.values() for point in line]
    if not points:
        return ""
    last = max(x for x, _ in points)
    low, high = (0.0, top) if top else (min(y for _, y in points), max(y for _, y in points))
    span = high - low or 1.0

    def place(x: float, y: float) -> str:
        across = _LEFT + (_WIDTH - _LEFT - 10) * x / max(last, 1)
        return f"{across:.1f},{_HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * (y - low) / span:.1f}"

    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - 10
    parts = [f'<text class="name" x="{_LEFT}" y="14">{_text(title)}</text>']
    parts.append(f'<path class="axis" d="M{_LEFT},{_TOP} V{bottom} H{right}"/>')
    for value in (low, high):
        height = place(0, value).partition(",")[2]
        parts.append(f'<text x="{_LEFT - 6}" y="{float(height) + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    parts.append(f'<text x="{right}" y="{_HEIGHT - 10}" text-anchor="end">step {last:,}</text>')
    if kept:
        x = place(kept, low).partition(",")[0]
        parts.append(f'<path class="kept" d="M{x},{_TOP} V{bottom}"/>')
    for number, (name, line) in enumerate(curves.items()):
        kind, thin = ("one", "two")[number % 2], line[:: max(len(line) // _POINTS, 1)]
        if thin:
            parts.append(f'<polyline class="{kind}" points="{" ".join(place(x, y) for x, y in thin)}"/>')
            spot = right - 90 * (len(curves) - 1 - number)
            parts.append(f'<text class="{kind}" x="{spot}" y="14" text-anchor="end">{_text(name)}</text>')
    label = _text(f"{title} by step")
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _counts(table: Mapping[str, np.ndarray], classes: int) -> np.ndarray:
    """Counts `[true, predicted]`."""
    flat = np.bincount(table["labels"] * classes + table["predicted"], minlength=classes**2)
    return flat.reshape(classes, classes)


def _matrix(counts: np.ndarray, labels: Sequence[str], *, pixels: bool = False) -> str:
    """The confusion matrix of samples with their numbers, or of `pixels` with percentages of the true class."""
    told = " The numbers are percentages of the pixels of the true class." if pixels else ""
    note = f"<p class='faded'>Rows: the true class. Columns: the predicted class.{told}</p>"
    heading = f"<h2>Confusion matrix</h2>\n{note}"
    if len(labels) > _MOST_CLASSES:
        return "<h2>Most frequent confusions</h2>\n" + _pairs(counts, labels, unit="pixels" if pixels else "samples")
    head = "".join(f"<th>{_text(label)}</th>" for label in labels)
    rows = []
    for true, label in enumerate(labels):
        cells = []
        for said, number in enumerate(counts[true].tolist()):
            shade = 0 if not number else max(round(8 * number / counts[true].sum()), 1)
            kind = " ".join(filter(None, ("right" if true == said else "", f"s{shade}" if shade else "")))
            content: object = number if number or true == said else ""
            if pixels:
                share = 100 * number / max(counts[true].sum(), 1)
                content = f"{share:.1f}" if share >= 0.05 or true == said else ""
            cells.append(f"<td{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{content}</td>")
        rows.append(f"<tr><th>{_text(label)}</th>{''.join(cells)}</tr>")
    body = f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'{heading}\n<div class="wide"><table class="matrix">{body}</table></div>'


def _pairs(counts: np.ndarray, labels: Sequence[str], *, unit: str) -> str:
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    rows = []
    for place in order.tolist():
        true, said = divmod(place, len(labels))
        if wrong[true, said]:
            names = "".join(f'<td class="text">{_text(str(labels[i]))}</td>' for i in (true, said))
            rows.append(f"<tr>{names}<td>{wrong[true, said]:,}</td></tr>")
    head = f"<tr><th>true class</th><th>predicted</th><th>{unit}</th></tr>"
    return f'<div class="wide"><table>{head}{"".join(rows)}</table></div>'


def _classes(table: Mapping[str, np.ndarray], labels: Sequence[str], trained: Mapping[str, int]) -> str:
    counts = _counts(table, len(labels))
    rows = []
    for index, label in enumerate(labels):
        true, said, right = counts[index].sum(), counts[:, index].sum(), counts[index, index]
        cells = [f"{trained[label]:,}" if label in trained else "-", f"{true:,}", f"{right:,}"]
        cells += [f"{100 * right / n:.1f} %" if n else "-" for n in (true, said)]
        rows.append(f"<tr><th>{_text(label)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    names = ("class", "training samples", "validation samples", "correct", "recall", "precision")
    head = "".join(f"<th>{name}</th>" for name in names)
    return f'<h2>Classes</h2>\n<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _pixel_classes(counts: np.ndarray, labels: Sequence[str]) -> str:
    rows = []
    for entry in SegmentationMatrix(torch.from_numpy(counts)).per_class(tuple(labels)):
        shares = [entry[name] for name in ("iou", "recall", "precision")]
        cells = [*("-" if share is None else f"{100 * share:.1f} %" for share in shares), f"{entry['pixels']:,}"]
        rows.append(f"<tr><th>{_text(entry['label'])}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("class", "IoU", "recall", "precision", "validation pixels"))
    absent = len(labels) - len(rows)
    left = "1 class has" if absent == 1 else f"{absent} classes have"
    note = f"<p class='faded'>{left} no pixel, neither true nor predicted, and no IoU.</p>"
    table = f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
    return f"<h2>Classes</h2>\n{note if absent else ''}{table}"


def _overlays(folder: Path) -> str:
    """The image with held-out images and what is predicted for them; "" if there is none or it is damaged."""
    try:
        image = load_image(str(folder / OVERLAYS), max_pixels=None).convert("RGB")
    except (OSError, ValueError):
        return ""
    return f"<h2>Held-out images</h2>\n<div class='wide'>{_inline(image, OVERLAYS)}</div>"


def _wrong(table: Mapping[str, np.ndarray], labels: Sequence[str], validation: Dataset) -> str:
    wrong = np.flatnonzero(table["labels"] != table["predicted"])
    if not len(wrong):
        return "<h2>Wrong predictions</h2>\n<p>All validation samples were classified correctly.</p>"
    surest = wrong[np.argsort(-table["probability"][wrong], kind="stable")]
    figures = []
    for place in surest[:_WRONG].tolist():
        name, image = _thumbnail(validation, int(table["indices"][place]))
        true, said = labels[int(table["labels"][place])], labels[int(table["predicted"][place])]
        share, own = table["probability"][place], table["probability_of_label"][place]
        text = f"{_text(said)} {100 * share:.0f} %<span>true class: {_text(true)} ({100 * own:.0f} %)</span>"
        figures.append(f"<figure>{image}<figcaption>{text}<span>{_text(name)}</span></figcaption></figure>")
    more = f" The {_WRONG} with the highest probability are shown." if len(wrong) > _WRONG else ""
    count = f"{len(wrong):,} of {len(table['labels']):,} validation samples are wrong."
    note = f"<p class='faded'>{count}{more} The highest probability comes first.</p>"
    return f'<h2>Wrong predictions</h2>\n{note}\n<div class="row">{"".join(figures)}</div>'


def _thumbnail(validation: Dataset, index: int) -> tuple[str, str]:
    """Name of a held-out sample, and a small image of it; "" if it is not an image or can no longer be read."""
    try:
        sample = validation.sample(index)
        name = os.path.basename(sample.name)
        if validation.arrays or validation.videos:
            return name, ""
        image = (
            sample.content if isinstance(sample.content, Image.Image) else load_image(sample.content, max_pixels=None)
        )
        image = image.convert("RGB")
        image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    except (OSError, ValueError):
        return f"sample {index}", ""
    return name, _inline(image, name)


def _inline(image: Image.Image, name: str) -> str:
    """An element with the image inside of the page."""
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    data = base64.b64encode(content.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{_text(name)}">'


def _settings(run: Mapping[str, Any]) -> str:
    places = {name: run.get(name) for name in ("data", "validation", "from", "teacher")}
    masks = {name: value for name, value in (run.get("masks") or {}).items() if value}
    rows = {**places, **masks, **run["recipe"], **run.get("environment", {})}
    cells = "".join(
        f'<tr><th>{_text(str(name)).replace("_", "_<wbr>")}</th><td class="text">{_text(_value(value))}</td></tr>'
        for name, value in rows.items()
        if value not in (None, "", {}, [])
    )
    return f'<h2>Settings</h2>\n<div class="wide"><table>{cells}</table></div>'


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
