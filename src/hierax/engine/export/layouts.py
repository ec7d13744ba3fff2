"""Layouts of exports: folders as other programs look for them. A new one is a function here and a row of `LAYOUTS`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hierax.engine.backends.onnx import data_file
from hierax.engine.export.formats import FORMATS, Job
from hierax.engine.export.servers import model_server_config, triton_config
from hierax.model.config import HieraConfig
from hierax.model.registry import TASKS, TaskSpec, task_of
from hierax.notices import notify, printable
from hierax.processing import Preprocessing
from hierax.processing.record import FILE_NAME
from hierax.reprs.text import short_repr

_ASSETS = Path(__file__).parents[2] / "assets" / "layouts"
_JS_FILES = {"fp32": ("model", "fp32"), "fp16": ("model_fp16", "fp16"), "int8": ("model_quantized", "q8")}
"""The stem of the file, and the name of the precision in transformers.js."""
_LABELS = "labels.txt"


@dataclass(frozen=True)
class Contents:
    """What a layout arranges.

    Attributes:
        folder: holds the file of the export, `config.json` and, if the model has one, `preprocessor_config.json`.
        format: a key of `FORMATS`.
        job: the request for the export.
        config: of the exported model.
    """

    folder: Path
    format: str
    job: Job
    config: HieraConfig

    @property
    def task(self) -> TaskSpec:
        """The task of the model."""
        return task_of(type(self.job.model))

    @property
    def file(self) -> Path:
        """The file that `FORMATS` wrote."""
        return self.folder / FORMATS[self.format].file

    @property
    def name(self) -> str:
        """A name for the model, from the source of its weights: "tiny" for "runs/tiny"."""
        report = self.job.model.loading_report
        source = Path(report.source if report else "")
        stem = source.name if source.suffix.lower() not in (".safetensors", ".bin", ".pt", ".pth") else source.stem
        return re.sub(r"[^\w.-]+", "-", stem, flags=re.ASCII).strip("-.") or "hiera"


@short_repr()
@dataclass(frozen=True, kw_only=True)
class Layout:
    """One layout.

    Attributes:
        reader: what opens it.
        formats: the formats that it is for; the first is the default.
        tasks: the tasks that its reader knows.
        images: whether it is for models of images (two axes) alone.
        photos: whether its reader makes the pixels of photos (three channels of 8 bits) in batches of any size.
        arrange: moves the files to their places and adds the others; returns the place of the export's file.
    """

    reader: str
    formats: tuple[str, ...]
    tasks: tuple[str, ...] = tuple(TASKS)
    images: bool = False
    photos: bool = False
    arrange: Callable[[Contents], Path]


def _arrange_optimum(contents: Contents) -> Path:
    _describe_for_transformers(contents, contents.folder)
    if contents.format == "openvino":
        return contents.file
    return _move_onnx(contents.file, contents.folder / "model.onnx")


def _arrange_transformers_js(contents: Contents) -> Path:
    stem, dtype = _JS_FILES[contents.job.precision]
    apart = data_file(contents.file).exists()
    place = _move_onnx(contents.file, contents.folder / "onnx" / f"{stem}.onnx")
    settings = {"dtype": dtype, **({"use_external_data_format": 1} if apart else {})}
    _describe_for_transformers(contents, contents.folder, {"transformers.js_config": settings})
    (contents.folder / "pixels.js").write_bytes((_ASSETS / "pixels.js").read_bytes())
    if contents.config.problem_type not in (None, "single_label_classification"):
        notify(
            f"problem_type is {contents.config.problem_type!r}, but the pipeline of transformers.js always makes "
            "probabilities that add up to 1; use the logits of its AutoModelForImageClassification"
        )
    return place


def _arrange_triton(contents: Contents) -> Path:
    place = _move_version(contents)
    named = contents.task.labels and not contents.task.dense  # Triton names the entries of a list of logits
    labels = list(contents.config.id2label.values()) if named else []
    if labels:  # one line each, in the order of the logits
        lines = "".join(printable(label) + "\n" for label in labels)
        (place.parents[1] / _LABELS).write_text(lines, encoding="utf-8")
    text = triton_config(place, batch=contents.job.batch, labels=_LABELS if labels else None)
    (place.parents[1] / "config.pbtxt").write_text(text, encoding="utf-8")
    return place


def _arrange_model_server(contents: Contents) -> Path:
    place = _move_version(contents)
    values = model_server_config(contents.name, precision=contents.job.precision)
    write_json(contents.folder / "config.json", values)
    return place


LAYOUTS: Mapping[str, Layout] = {
    "optimum": Layout(
        reader="optimum", formats=("onnx", "openvino"), images=True, arrange=_arrange_optimum,
    ),
    "transformers.js": Layout(
        reader="transformers.js", formats=("onnx",), tasks=("classification", "features"), images=True, photos=True,
        arrange=_arrange_transformers_js,
    ),
    "triton": Layout(reader="Triton", formats=("onnx",), arrange=_arrange_triton),
    "ovms": Layout(reader="OpenVINO Model Server", formats=("openvino",), arrange=_arrange_model_server),
}  # fmt: skip
"""All layouts by name. The names of inputs and outputs are those of transformers in every export."""


def format_for(format: str | None, layout: str | None) -> str:
    """The format of an export: the one that is asked for, or the first of its layout.

    Raises:
        ValueError: a name is unknown, both are None, or the layout is for other formats.
    """
    if layout is None:
        if format is None or format not in FORMATS:
            raise ValueError(f"format is {format!r}; expected {', '.join(FORMATS)}")
        return format
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; expected {', '.join(LAYOUTS)}")
    allowed = LAYOUTS[layout].formats
    if format is not None and format not in allowed:
        raise ValueError(f"format is {format!r}; expected {' or '.join(allowed)} for layout {layout!r}")
    return format or allowed[0]


def check_layout(
    layout: str, *, config: HieraConfig, task: TaskSpec, record: Preprocessing | None, batch: int | None
) -> None:
    """Raises `ValueError` if the reader of a layout cannot run a model; the message says what it can run."""
    row = LAYOUTS[layout]
    start = f"layout is {layout!r}, but {row.reader}"
    if row.images and config.axes != 2:
        kind = {1: "signals", 3: "clips" if config.is_video else "volumes"}[config.axes]
        raise ValueError(f"{start} runs models of images; this model takes {kind} (expected layout triton or ovms)")
    if task.name not in row.tasks:
        raise ValueError(f"{start} runs the tasks {' and '.join(row.tasks)}; the task of this model is {task.name}")
    if not row.photos:
        return
    if config.num_channels != 3:
        raise ValueError(f"{start} reads images of 3 channels; this model takes {config.num_channels}")
    if record is not None and record.takes_values:
        raise ValueError(f"{start} reads images of 8 bits; this model was trained on other values than gray levels")
    if batch not in (None, 1):
        raise ValueError(f"{start} asks for one image or more per call; batch is {batch} (expected None or 1)")


def _describe_for_transformers(contents: Contents, folder: Path, more: Mapping[str, Any] | None = None) -> None:
    """Writes the class into `config.json` by which these libraries find theirs, also for models that transformers
    itself cannot build: the folder has no weights, only the graph. Inputs and outputs are in float32.
    """
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**values, "model_type": "hiera", "dtype": "float32", **(more or {})})


def _move_version(contents: Contents) -> Path:
    """Moves everything into `NAME/`, and the export's file into its version 1; returns its place."""
    home = contents.folder / contents.name
    version = home / "1"
    version.mkdir(parents=True)
    for name in ("config.json", FILE_NAME):
        if (contents.folder / name).exists():
            (contents.folder / name).rename(home / name)
    if contents.format == "onnx":
        return _move_onnx(contents.file, version / "model.onnx")
    for suffix in (".bin", ".xml"):
        contents.file.with_suffix(suffix).rename(version / f"model{suffix}")
    return version / "model.xml"


def _move_onnx(source: Path, target: Path) -> Path:
    """Moves an ONNX file. If its weights are in a separate file, that is moved beside it, under the usual name
    `NAME.onnx_data`, which the ONNX file then states.
    """
    target.parent.mkdir(exist_ok=True)
    weights = data_file(source)
    if weights.exists():
        import onnx

        proto = onnx.load(source, load_external_data=False)
        beside = target.with_name(f"{target.name}_data")
        for tensor in proto.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = beside.name
        weights.rename(beside)
        source.unlink()
        target.write_bytes(proto.SerializeToString())
    else:
        source.rename(target)
    return target


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes readable JSON, in UTF-8."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
