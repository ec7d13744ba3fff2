"""`hierax export`: writes a model for another runtime, and compares it with the original model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hierax.checkpoint.bundled import FEMTO
from hierax.cli.loading import add_batch_size, add_max_pixels, add_size, say_license
from hierax.cli.outputs import add_json, add_overwrite
from hierax.cli.terminal import UserError
from hierax.console import ProgressDisplay, say, tell

if TYPE_CHECKING:
    from hierax.engine.export.parity import ParityReport

SUMMARY = "write a model for another runtime, and compare it with the original"
EPILOG = """MODEL is a Hub id, a folder or a file. DIR then contains the exported file, its preprocessing and
export.json. The export is compared with the model in float32, on crops of a photo or on the images of
--evaluate. It is written only if it is within the tolerance. For fp32, the relative error of all maps is at
most 1e-4. For bf16 and fp16, the cosine similarity of every output is at least 0.9995. For int8, it is at
least 0.995.
hierax.Engine("DIR") runs the export. classify, features and reconstruct run it with --model DIR.
In Python: hierax.export. With --layout, the files have the places and names that another program expects:
optimum (also optimum-intel), transformers.js, triton, or ovms (OpenVINO Model Server).

  hierax export facebook/hiera-tiny-224-in1k-hf -o tiny --format openvino --precision int8 --calibration photos/"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add = parser.add_argument
    add(
        "model",
        nargs="?",
        metavar="MODEL",
        help=f"Hub id, folder or file (default: {FEMTO}, part of the package)",
    )
    add("--model", dest="named", metavar="MODEL", help="the same as the argument MODEL")
    add("-o", "--output", required=True, metavar="DIR", help="output folder, created if missing")
    add(
        "--format",
        choices=("pt2", "onnx", "openvino"),
        help="torch.export (pt2), ONNX or OpenVINO (default: that of the --layout)",
    )
    add(
        "--layout",
        choices=("optimum", "transformers.js", "triton", "ovms"),
        help="files as optimum, transformers.js, Triton or OpenVINO Model Server expects them",
    )
    add(
        "--precision",
        choices=("fp32", "bf16", "fp16", "int8"),
        default="fp32",
        help="precision of the export (default: fp32)",
    )
    add_size(parser)
    batches = parser.add_mutually_exclusive_group()
    add_batch_size(batches, shown="any number", former="--batch")
    batches.add_argument("--dynamic-batch", action="store_true", help="allow any number of images per call (default)")
    add("--task", metavar="T", help="features, backbone, classification, video-classification, segmentation or mae (default: the task of the checkpoint)")  # noqa: E501  # fmt: skip
    add(
        "--out-features",
        metavar="NAMES",
        type=_names,
        help="maps of --task backbone, such as stage2,stage3 (default: those of the checkpoint, or all stages)",
    )
    add("--calibration", metavar="DIR", help="images for the calibration of int8 (default: crops of one photo)")
    add("--evaluate", metavar="DIR", help="images for the comparison, up to 1000 (default: 200 crops of one photo)")
    add_max_pixels(parser)
    add_overwrite(parser)
    add_json(parser)


def _names(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(name.strip() for name in text.split(","))


def size_text(count: int) -> str:
    """A file's size as text, in a suitable unit: `312 B`, `9.4 kB`, `209.1 MB`."""
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} B"


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.engine.export.export import export, open_for_export

    source = arguments.named or arguments.model or FEMTO
    _check(arguments, source)
    model = open_for_export(source, arguments.task, arguments.out_features)
    say_license(source, model.license)
    if arguments.precision == "int8" and arguments.calibration is None:
        say("int8 is calibrated on crops of one photo; use --calibration DIR for images of your own")
    with ProgressDisplay() as display:
        report = export(
            model,
            arguments.output,
            format=arguments.format,
            layout=arguments.layout,
            precision=arguments.precision,
            size=arguments.size,
            batch=arguments.batch_size,
            calibration=arguments.calibration,
            evaluate=arguments.evaluate,
            max_pixels=arguments.max_pixels,
            overwrite=arguments.overwrite,
            progress=display.step,
        )
    files = sorted(path for path in Path(arguments.output).rglob("*") if path.is_file())
    if arguments.json:
        print(json.dumps({"output": arguments.output, "files": [str(path) for path in files], **report.to_dict()}))
    else:
        _show(report, files, arguments)
    return 0


def _check(arguments: argparse.Namespace, source: str) -> None:
    """Raises `UserError` for options that contradict each other, before the model is loaded."""
    from hierax.engine.backends.exported import is_export
    from hierax.engine.export.export import check_export

    if arguments.model and arguments.named:
        raise UserError(f"MODEL is given twice: {arguments.model} and --model {arguments.named}")
    if is_export(source):
        raise UserError(f"{source} is already an export; expected the model that it was made from")
    if arguments.calibration is not None and arguments.precision != "int8":
        raise UserError("--calibration is for --precision int8; add --precision int8, or leave --calibration out")
    if arguments.format is None and arguments.layout is None:
        raise UserError("no format is given; add --format pt2, onnx or openvino, or a --layout")
    arguments.format = check_export(
        arguments.format,
        arguments.precision,
        arguments.output,
        layout=arguments.layout,
        overwrite=arguments.overwrite,
    )


def _show(report: ParityReport, files: Sequence[Path], arguments: argparse.Namespace) -> None:
    for line in str(report).splitlines():
        tell(f"  {line}")
    total = size_text(sum(path.stat().st_size for path in files))
    layout = f", for {arguments.layout}" if arguments.layout else ""
    tell(f"wrote {arguments.output} ({arguments.format}, {arguments.precision}{layout}): {total}")
    for path in files:
        tell(f"  {path}  {size_text(path.stat().st_size)}")
