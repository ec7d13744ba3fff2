"""`hierax evaluate`: measures a classifier, a segmentation model, or a probe on frozen features."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hierax.checkpoint.bundled import FEMTO
from hierax.cli.clips import add_views
from hierax.cli.columns import add_columns
from hierax.cli.loading import add_batch_size, add_device, add_max_pixels, count
from hierax.cli.masks import add_masks, mask_options
from hierax.cli.outputs import add_json, add_overwrite, check_output, output_file
from hierax.cli.terminal import UserError, say_unreadable
from hierax.console import ProgressDisplay, quantity, say, tell
from hierax.extras import require

if TYPE_CHECKING:
    from hierax.checkpoint.opened import Checkpoint
    from hierax.engine import Engine
    from hierax.train.evaluation import Evaluation
    from hierax.train.segmentation_evaluation import SegmentationEvaluation

SUMMARY = "measure a classifier, a segmentation model or a detector, or probe frozen features"
EPILOG = """DATA is a labeled dataset. If it has train/ and val/, val/ is evaluated. --probe linear fits a linear
classifier on the pooled map of each stage. --probe knn classifies by the nearest neighbors. Both use the
training data of --train or DATA/train.
A model of `hierax finetune --task detect` or `--task instances` is measured by COCO's twelve numbers (AP, AR).
For a video, one clip from the middle is used. --views 5x3 averages five clips and three crops of each clip.
With a segmentation model, DATA is images with masks. All pixels count in one confusion matrix, except pixels with
the value 255. IoU is the intersection of true and predicted pixels of a class, divided by their union. --batch-size
has no effect then: images are computed one by one, because each has its own size."""


_SHARES = {"IoU": "iou", "recall": "recall", "precision": "precision"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("data", metavar="DATA", help="folder, list, tar shards, Parquet files, .npy, or hub:ID")
    parser.add_argument(
        "--model",
        default=FEMTO,
        metavar="M",
        help=f"Hub id, folder, file or export (default: {FEMTO}, part of the package)",
    )
    parser.add_argument(
        "--weights", choices=("best", "last"), default="best", help="which weights of a run: best (default) or last"
    )
    parser.add_argument("--probe", choices=("linear", "knn"), help="probe frozen features instead")
    parser.add_argument("--train", metavar="DATA", help="training data of a probe (default: DATA/train)")
    add_views(parser)
    add_columns(parser, "path", "label")
    plots = output_file((".png", ".svg", ".pdf"), "a plot")
    parser.add_argument("--confusion", type=plots, metavar="FILE", help="draw the confusion matrix: .png, .svg or .pdf")
    add_masks(parser)
    add_overwrite(parser)
    add_json(parser)
    add_device(parser)
    add_batch_size(parser, shown="32", default=32)
    add_max_pixels(parser)
    parser.add_argument(
        "--workers", type=count, metavar="N", help="number of processes that decode (default: by the number of cores)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.detection.build import detector_folder
    from hierax.train import TrainingStopped

    try:
        folder = detector_folder(arguments.model)
        return _run(arguments) if folder is None else _detection(arguments, folder)
    except TrainingStopped as error:
        raise UserError(str(error)) from error


def _detection(arguments: argparse.Namespace, folder: Path) -> int:
    """Measures a model of detection; returns the exit code."""
    from hierax.cli.detection import run_evaluate

    bad = run_evaluate(arguments, folder)
    say_unreadable(bad)
    return 3 if bad else 0


def _run(arguments: argparse.Namespace) -> int:
    if arguments.train and not arguments.probe:
        raise UserError("--train is for --probe; add --probe, or leave --train out")
    if arguments.views != (1, 1) and arguments.probe:
        raise UserError("--views does not work with --probe, which takes one view; leave one of them out")
    if arguments.confusion and arguments.probe:
        raise UserError("--confusion does not work with --probe; leave one of them out")
    common: dict[str, Any] = {
        name: getattr(arguments, name) for name in ("device", "batch_size", "workers", "max_pixels", "columns")
    }
    model: Any = _model(arguments)
    common["model"] = model
    writes = os.environ.get("RANK", "0") == "0"  # with torchrun, one of the ranks writes
    measure = _probe if arguments.probe else _segment if model.task == "segmentation" else _classify
    if measure is not _segment:
        given = next((name for name, value in mask_options(arguments).items() if value), None)
        if given is not None:
            raise UserError(f"--{given.replace('_', '-')} is for segmentation models; leave it out")
    bad = measure(arguments, common, writes=writes)
    if writes:
        say_unreadable(bad)
    return 3 if bad else 0


def _probe(arguments: argparse.Namespace, common: dict[str, Any], *, writes: bool) -> list[tuple[str, str]]:
    """Probes frozen features; returns names and problems of what cannot be read."""
    from hierax.train.evaluation import probe_features

    with ProgressDisplay("sample", quiet=not writes) as display:
        scores, bad = probe_features(
            arguments.data, kind=arguments.probe, train=arguments.train, on_progress=display.update, **common
        )
    if writes and arguments.json:
        print(json.dumps({"probe": arguments.probe, "top1": scores, "unreadable": len(bad)}))
    elif writes:
        for stage, score in scores.items():
            tell(f"{stage}  {arguments.probe} top-1 {100 * score:.1f} %")
    return bad


def _classify(arguments: argparse.Namespace, common: dict[str, Any], *, writes: bool) -> list[tuple[str, str]]:
    """Measures a classifier; returns names and problems of what cannot be read."""
    from hierax.train.evaluation import evaluate

    if arguments.confusion and writes:
        require("a plot", "matplotlib")
        check_output(arguments.confusion, overwrite=arguments.overwrite)
    with ProgressDisplay("sample", quiet=not writes) as display:
        found = evaluate(arguments.data, views=arguments.views, on_progress=display.update, **common)
    if not writes:
        return found.predictions.bad
    if found.note:
        say(found.note)
    if arguments.json:
        print(json.dumps(found.to_dict()))
    else:
        _show(found)
    if arguments.confusion:
        say(f"wrote {found.draw_confusion(arguments.confusion)}")
    return found.predictions.bad


def _segment(arguments: argparse.Namespace, common: dict[str, Any], *, writes: bool) -> list[tuple[str, str]]:
    """Measures a segmentation model; returns names and problems of what cannot be read."""
    from hierax.train.segmentation_evaluation import evaluate_segmentation

    if arguments.views != (1, 1):
        raise UserError("--views is for classifiers of videos; leave it out")
    if arguments.confusion and writes:
        require("a plot", "matplotlib")
        check_output(arguments.confusion, overwrite=arguments.overwrite)
    given = {name: value for name, value in common.items() if name != "batch_size"}
    with ProgressDisplay("sample", quiet=not writes) as display:
        found = evaluate_segmentation(arguments.data, on_progress=display.update, **mask_options(arguments), **given)
    if writes and found.note:
        say(found.note)
    if writes and arguments.json:
        print(json.dumps(found.to_dict()))
    elif writes:
        _show_segmentation(found)
    if writes and arguments.confusion:
        say(f"wrote {found.draw_confusion(arguments.confusion)}")
    return found.result.bad


def _show_segmentation(found: SegmentationEvaluation) -> None:
    from hierax.train.log import format_metrics

    tell("   ".join(format_metrics(found.metrics)) + f"   on {quantity(found.count, 'sample')}")
    width = max((len(entry["label"]) for entry in found.per_class), default=0)
    for entry in found.per_class:
        shares = "  ".join(f"{name} {_percent(entry[key])}" for name, key in _SHARES.items())
        tell(f"  {entry['label']:<{width}}  {shares}  {entry['pixels']:>11,} pixels")


def _model(arguments: argparse.Namespace) -> str | Checkpoint | Engine:
    """The checkpoint or engine to evaluate: an export runs on an engine. A probe opens its data first."""
    from hierax.checkpoint.opened import open_checkpoint
    from hierax.engine import Engine
    from hierax.engine.backends.exported import is_export

    source = _weights(arguments.model) if arguments.weights == "last" else arguments.model
    if not is_export(source):
        return source if arguments.probe else open_checkpoint(source)
    if arguments.probe:
        raise UserError(f"{arguments.model} is an export; a probe needs the checkpoint that it was made from")
    engine = Engine(arguments.model, device=arguments.device)
    assert engine.exported is not None
    say(f"{arguments.model} is {engine.exported.describe()}")
    return engine


def _weights(run: str) -> str:
    """The last weights of a run."""
    if not Path(run, "run.json").is_file():
        raise UserError(f"--weights last is for a run; {run} is not a run")
    last = Path(run, "model-last")
    return str(last) if last.is_dir() else run  # without model-last, the last weights are in model/


def _show(found: Evaluation) -> None:
    from hierax.train.log import format_metrics

    metrics = {name: value for name, value in found.metrics.items() if name != "score"}
    tell("   ".join(format_metrics(metrics)) + f"   on {quantity(found.count, 'sample')}")
    width = max((len(entry["label"]) for entry in found.per_class), default=0)
    for entry in found.per_class:
        shares = f"recall {_percent(entry['recall'])}  precision {_percent(entry['precision'])}"
        noun = "sample" if entry["samples"] == 1 else "samples"
        tell(f"  {entry['label']:<{width}}  {shares}  {entry['samples']:>6} {noun}")


def _percent(value: float | None) -> str:
    return "     -" if value is None else f"{100 * value:5.1f} %"
