"""Verified exports: a file for another runtime is compared with the model before it gets its final name."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from hierax.atomic import check_writable
from hierax.checkpoint.opened import DIALECTS, open_checkpoint
from hierax.checkpoint.preprocessing import resize_record
from hierax.digests import weights_digest
from hierax.engine.backends.exported import RECORD, VERSION, file_records, recorded_files
from hierax.engine.calibration import ImageInputs, check_images, sample_pixels
from hierax.engine.export.formats import FORMATS, Job, open_runner
from hierax.engine.export.layouts import LAYOUTS, Contents, check_layout, format_for, write_json
from hierax.engine.export.parity import ParityError, ParityReport, evaluation_inputs, measure, with_units
from hierax.engine.hardware import PRECISIONS
from hierax.engine.opening import axes_of, model_for
from hierax.engine.signature import Signature
from hierax.engine.traced import INPUTS
from hierax.extras import require
from hierax.folders import atomic_folder, restore_folder
from hierax.model.config import HieraConfig
from hierax.model.encoder import visible_units
from hierax.model.mae import check_mae_size
from hierax.model.pretrained import Pretrained
from hierax.model.registry import task_of
from hierax.processing import DEFAULT_MAX_PIXELS, IMAGENET, HieraImageProcessor, Preprocessing
from hierax.processing.frames import FIRST_ONLY

_CALIBRATED = 64  # images to calibrate int8 on
_SUFFIXES = (".pt2", ".onnx", ".onnx.data", ".xml", ".bin")
_FILE_SUFFIXES = {*_SUFFIXES, ".pt", ".pth", ".json", ".safetensors", ".zip", ".tflite", ".engine"}
Progress: TypeAlias = Callable[[str, float], None]
_OUR_FILES = {"config.json", "preprocessor_config.json", RECORD}


def export(
    model: Pretrained | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    format: str | None = None,
    precision: str = "fp32",
    layout: str | None = None,
    size: int | Sequence[int] | None = None,
    batch: int | None = None,
    task: str | None = None,
    out_features: Sequence[str] | None = None,
    calibration: ImageInputs | None = None,
    evaluate: ImageInputs | None = None,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ParityReport:
    """Writes a model for another runtime, if the file's outputs agree with the model's.

    The file is run by its own runtime and compared with the model in float32. In fp32, the relative error of every map
    and output must be at most 1e-4. The cosine of every output must be at least 0.9995 in bf16 and fp16, and 0.995 in
    int8. `hierax.Engine` opens the folder.

    Args:
        model: a model, or a Hub id, a folder or a file to load one from.
        folder: created if it is missing; it gets the file (`model.pt2`, `model.onnx`, or `openvino_model.xml` and
            `.bin`), `export.json`, `config.json` and, if the preprocessing is known, `preprocessor_config.json`.
        format: "pt2", "onnx" or "openvino"; None is the format of the layout.
        precision: "fp32", "bf16", "fp16" or "int8"; pt2 has no int8, and onnx has no bf16. With OpenVINO, weights are
            in float32 for bf16, and fp16 computes in float32.
        layout: "optimum", "transformers.js", "triton" or "ovms": the files have the places and names that these
            programs expect, and the configuration that they read. None is the layout above.
        size: pixels, of a square or per axis; the file accepts only this size. None is the model's own.
        batch: images per call, or None for any number.
        task: as in `hierax.load`.
        out_features: names of the maps, for `task="backbone"`; None is those of the checkpoint, or all stages if it
            names none.
        calibration: images to calibrate int8 on: a folder, a list, or preprocessed pixels; None uses crops of the photo
            that is part of hierax.
        evaluate: images for the comparison, or preprocessed pixels; None uses 200 crops of that photo, or 16 inputs of
            noise for models that do not take images.
        max_pixels: larger images of `calibration` and `evaluate` are an error; None: no limit.
        overwrite: whether to replace an export in `folder`.
        progress: is called with the text of the next step and the share of the work that is done, from 0 to 1.

    Returns:
        The `ParityReport` of the comparison.

    Raises:
        ValueError: a name is unknown, a combination is not possible, or the folder is not empty; or an error of
            `hierax.load`. `ParityError` if the export is outside of its tolerance: then nothing is written.
        ImportError: a package is missing; the message names the extra.
    """
    target = Path(folder)
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise ValueError(f"batch is {batch!r}; expected a whole number above 0, or None for any number")
    format = check_export(format, precision, target, layout=layout, overwrite=overwrite)
    if calibration is not None and precision != "int8":
        raise ValueError(f"calibration is for precision='int8'; precision is {precision!r}")
    for images in (calibration, evaluate):
        check_images(images, max_pixels=max_pixels)
    tell = progress or (lambda step, done: None)
    own = open_for_export(model, task, out_features)
    config = own.config.replace(image_size=axes_of(own.config, size))
    masked = Signature.of(own).masked
    kept = None
    if masked:
        check_mae_size(config.image_size, config)
        kept = visible_units(config, torch.Size(config.unit_grid(config.image_size)).numel())
    record = _preprocessing_for(own, config)
    if layout is not None:
        check_layout(layout, config=config, task=task_of(type(own)), record=record, batch=batch)
    processor = HieraImageProcessor(record or IMAGENET, max_pixels=max_pixels)
    kind, inputs = evaluation_inputs(evaluate, config=config, processor=processor, masked=masked)

    def calibrated() -> list[tuple[Tensor, ...]]:
        count = -(-_CALIBRATED // (batch or 1)) * (batch or 1)
        pixels = sample_pixels(calibration, count, config=config, processor=processor)
        return list(with_units(pixels.split(batch or 1), config=config, masked=masked))

    job = Job(own, config.image_size, batch, kept, precision, calibrated, tell)
    with FIRST_ONLY.report_at_end(), _put_in_place(target, overwrite=overwrite) as part:
        report = _write_and_compare(job, FORMATS[format].file, format, part, inputs, kind)
        if not report.passed:
            raise ParityError(report)
        _describe_model(job, part, config=config, record=record)
        file = part / FORMATS[format].file
        if layout is not None:
            file = LAYOUTS[layout].arrange(Contents(part, format, job, config))
        _write_record(job, format, part, layout=layout, file=file, config=config, report=report)
    return report


def open_for_export(
    model: Pretrained | str | os.PathLike[str], task: str | None, out_features: Sequence[str] | None = None
) -> Pretrained:
    """The model to export: a copy, or loaded from a source. See `export` for the arguments.

    Raises:
        ValueError: `out_features` for a task without maps, or for a model that is built; or an error of `hierax.load`.
    """
    if task == "backbone" and out_features is None and not isinstance(model, Pretrained):
        opened = open_checkpoint(model)
        config = opened.config
        named = config.out_features or config.fpn_hidden_size is not None
        return model_for(opened, task, config.map_names if named else config.stage_names[1:])
    return model_for(model, task, out_features)


def check_export(
    format: str | None,
    precision: str,
    folder: str | os.PathLike[str],
    *,
    layout: str | None = None,
    overwrite: bool = False,
) -> str:
    """Raises the errors of `export` that do not need the model; returns the format."""
    format = format_for(format, layout)
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; expected {', '.join(PRECISIONS)}")
    _check_target(Path(folder), overwrite=overwrite)
    kind = FORMATS[format]
    if precision in kind.refused:
        raise ValueError(f"format {format!r} does not support precision {precision!r}: {kind.refused[precision]}")
    require(f"format {format!r}", *kind.writes)
    if precision == "int8":
        require("precision 'int8'", "nncf")
    return format


def _preprocessing_for(model: Pretrained, config: HieraConfig) -> Preprocessing | None:
    """The model's preprocessing for inputs of exactly the exported size; None if none is known."""
    record = Preprocessing.for_model(model.config, model.preprocessing)
    if record is None or config.axes == 1:  # signals are not resized
        return record
    return resize_record(record, model.config, config).at(config.image_size[-2:])


def _write_and_compare(
    job: Job, name: str, format: str, folder: Path, inputs: Iterable[tuple[Tensor, ...]], kind: str
) -> ParityReport:
    """Writes the file and compares it with the model; deletes its twin with maps afterwards."""
    twin = folder / "with_maps"
    twin.mkdir()
    FORMATS[format].write(job, folder / name, twin / name)
    job.tell("reading the file", 0.5)
    exported, mapped = (
        open_runner(format, path / name, precision=job.precision, threads=None, batch=job.batch)
        for path in (folder, twin)
    )
    report = measure(job.model, exported, mapped, _count_inputs(inputs, job.tell), precision=job.precision, kind=kind)
    exported.close()
    mapped.close()
    shutil.rmtree(twin)
    return report


def _count_inputs(inputs: Iterable[tuple[Tensor, ...]], tell: Progress) -> Iterator[tuple[Tensor, ...]]:
    """The batches; reports the number of inputs that were compared, because their total is not known before."""
    count = 0
    for batch in inputs:
        tell(f"comparing with the model: {count} inputs", 0.5 + 0.5 * (1 - 0.99**count))
        yield batch
        count += len(batch[0])


def _describe_model(job: Job, folder: Path, *, config: HieraConfig, record: Preprocessing | None) -> None:
    """Writes the files that describe the model and its inputs."""
    write_json(folder / "config.json", DIALECTS["transformers"].config_values(config, task_of(type(job.model))))
    if record is not None:
        record.write(folder)


def _write_record(
    job: Job, format: str, folder: Path, *, layout: str | None, file: Path, config: HieraConfig, report: ParityReport
) -> None:
    """Writes `export.json`, which is last, because it has the digests of all other files."""
    task, model = task_of(type(job.model)), job.model
    packages = ("hierax", "torch", *FORMATS[format].writes, *(("nncf",) if job.precision == "int8" else ()))
    write_json(
        folder / RECORD,
        {
            "version": VERSION,
            "format": format,
            "layout": layout,
            "file": file.relative_to(folder).as_posix(),
            "precision": job.precision,
            "task": task.name,
            "inputs": list(INPUTS[: 2 if job.signature.masked else 1]),
            "outputs": job.signature.outputs,
            "masked": job.signature.masked,
            "kept": job.kept,
            "size": job.size,
            "batch": job.batch,
            "config": config.to_dict(),
            "weights": {
                "sha256": weights_digest(model),
                "source": model.loading_report.source if model.loading_report else None,
                "license": model.license,
            },
            "versions": {name: _version(name) for name in packages},
            "parity": report.to_dict(),
            "files": file_records(folder),
        },
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a source tree
        return None


def _check_target(target: Path, *, overwrite: bool) -> None:
    """Raises `ValueError` if `target` holds files that must not be lost, or cannot be created."""
    check_writable(target)
    restore_folder(target)
    if not target.exists():
        suffix = target.suffix.lower()
        if suffix in _FILE_SUFFIXES:
            raise ValueError(
                f"{target}: looks like a file; expected a folder to write to, such as {target.with_suffix('')}, which "
                f"then holds the {suffix} file, its preprocessing and a report"
            )
        return
    if not target.is_dir():
        raise NotADirectoryError(f"{target}: is a file; expected a folder to write to")
    names = sorted(path.name for path in target.iterdir())
    if names and not overwrite:
        raise ValueError(f"{target}: is not empty; choose another folder, or overwrite it (--overwrite)")
    foreign = _foreign_files(target)
    if names and (foreign or RECORD not in names):
        what = f"it holds {foreign[0]}" if foreign else f"it has no {RECORD}"
        raise ValueError(f"{target}: is not an export, {what}; only exports are overwritten")


def _foreign_files(folder: Path) -> list[str]:
    """What is in a folder that is not part of an export: neither its record nor the names of exported files say so."""
    stems = tuple(Path(kind.file).stem for kind in FORMATS.values())
    recorded = recorded_files(folder)
    paths = sorted(folder.rglob("*") if recorded else folder.iterdir())
    names = [p.relative_to(folder).as_posix() for p in paths if not recorded or p.is_symlink() or not p.is_dir()]
    usual = {n for n in names if n.startswith(stems) and n.endswith(_SUFFIXES) and "/" not in n}
    return [n for n in names if n not in {*_OUR_FILES, *recorded, *usual}]


def _put_in_place(target: Path, *, overwrite: bool) -> AbstractContextManager[Path]:
    """A context with an empty folder beside `target`. It replaces `target` on success; otherwise it is deleted."""
    # checked again before it is replaced: minutes have passed
    return atomic_folder(target, lambda: _check_target(target, overwrite=overwrite))
