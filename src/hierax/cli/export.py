"""`hierax export`: a model for another runtime, with a report of how close it is."""

from __future__ import annotations

import argparse
from pathlib import Path

from hierax.cli.loading import positive, say_licence
from hierax.cli.terminal import UserError, say, tell

SUMMARY = "write a model for another runtime, and compare it with the original"
EPILOG = """MODEL is a Hub id, a folder or a file. DIR then holds the file, its preprocessing and export.json.
The export is compared with the model in float32, on crops of a photo or on the images of --evaluate.
It is written only if it is close enough. fp32: all maps within a relative error of 1e-4. bf16 and fp16: a
cosine of 0.9995 for the output of every image. int8: a cosine of 0.995. hierax.Engine("DIR") runs the
export, and so do classify, features and reconstruct with --model DIR. In Python: hierax.export.

  hierax export facebook/hiera-tiny-224-in1k-hf -o tiny --format openvino --precision int8 --calibration photos/"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="Hub id, folder or file; hierax/femto is part of the package")
    add("-o", "--output", required=True, metavar="DIR", help="folder to write to, made if missing")
    add("--format", choices=("pt2", "onnx", "openvino"), required=True, help="torch.export, ONNX or OpenVINO")
    add("--precision", choices=("fp32", "bf16", "fp16", "int8"), default="fp32", help="default: fp32")
    add("--size", type=_size, metavar="PIXELS", help="448 or 320x448, rows x columns (default: the model's own)")
    batches = parser.add_mutually_exclusive_group()
    batches.add_argument("--batch", type=positive, metavar="N", help="fixed number of images per call")
    batches.add_argument("--dynamic-batch", action="store_true", help="any number of images per call (default)")
    add("--task", metavar="T", help="features, backbone, classification, video-classification or mae (default: the file's)")  # noqa: E501  # fmt: skip
    add("--calibration", metavar="DIR", help="images for the calibration of int8 (default: crops of one photo)")
    add("--evaluate", metavar="DIR", help="images to compare on, up to 1000 (default: 200 crops of one photo)")
    add("--overwrite", action="store_true", help="replace the export in DIR")


def _size(text: str) -> int | tuple[int, ...]:
    """`448` or `320x448`, for argparse."""
    sizes = tuple(positive(part) for part in text.lower().split("x"))
    return sizes[0] if len(sizes) == 1 else sizes


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.checkpoint.load import load
    from hierax.engine.export import check_export, export

    try:
        check_export(arguments.format, arguments.precision, arguments.output, overwrite=arguments.overwrite)
    except ImportError as error:
        raise UserError(str(error)) from error
    model = load(arguments.model, task=arguments.task)
    say_licence(arguments.model, model.license)
    if arguments.precision == "int8" and arguments.calibration is None:
        say("int8 is calibrated on crops of one photo; --calibration takes pictures of yours")
    report = export(
        model,
        arguments.output,
        format=arguments.format,
        precision=arguments.precision,
        size=arguments.size,
        batch=arguments.batch,
        calibration=arguments.calibration,
        evaluate=arguments.evaluate,
        overwrite=arguments.overwrite,
    )
    for line in str(report).splitlines():
        tell(f"  {line}")
    files = sorted(path for path in Path(arguments.output).iterdir() if path.is_file())
    total = sum(path.stat().st_size for path in files) / 1e6
    tell(f"wrote {arguments.output} ({arguments.format}, {arguments.precision}): {total:,.1f} MB")
    for path in files:
        tell(f"  {path}  {path.stat().st_size / 1e6:,.1f} MB")
    return 0
