"""`hierax explain`: which regions of images or videos speak for a label."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hierax.checkpoint.bundled import FEMTO
from hierax.cli.inputs import add_images, tally_of
from hierax.cli.loading import add_batch_size, add_device, add_max_pixels, add_size, positive, say_model
from hierax.cli.outputs import add_json, add_output_folder, add_overwrite
from hierax.cli.resuming import Line, may_replace, unfinished, write_files
from hierax.cli.terminal import UserError
from hierax.console import percent
from hierax.processing.inputs import expand

if TYPE_CHECKING:
    from hierax.predict.explanation_files import ExplanationFiles

SUMMARY = "show which regions of images or videos speak for a label"
EPILOG = """For each FILE, NAME.png shows the image, and the heat of each label over it: bright cells speak for it.
NAME.npz contains values (float32, labels x rows x columns, from 0 to 1), and labels, indices, probabilities, stride.
If images have the same name, their folders are added to the names of the files (a-cat, b-cat).
--label is a name, or an index; it can be repeated. Without it, the most probable label is explained:
  hierax explain cat.jpg --label mammals --label people -o heat

--method gradcam (the default) is gradient-weighted class activation. It needs a classifier.
--method rollout follows the attention from the last stage to the cells of the first. It explains no label, and
needs no classifier.
The model runs in PyTorch and fp32, because gradients are needed. A video classifier explains the clip in the
middle of a video (needs PyAV: pip install 'av>=17.1'), as an animation NAME.gif. In Python: hierax.explain.
After an interruption, run the same command again to resume.
--json prints one object per file (JSON Lines):
  {"path": "cat.jpg", "labels": [{"label": "mammals", "index": 14, "probability": 0.31}], "arrays": "heat/cat.npz",
   "image": "heat/cat.png"}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add_images(parser, clips=True)
    add_output_folder(parser)
    add_overwrite(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--label", action="append", metavar="NAME", help="label to explain, or its index (default: the most probable)"
    )
    which.add_argument("--top-k", type=positive, default=1, metavar="K", help="explain the K most probable labels")
    parser.add_argument(
        "--method", choices=("gradcam", "rollout"), default="gradcam", help="gradcam (default) or rollout"
    )
    parser.add_argument(
        "--model",
        default=FEMTO,
        metavar="M",
        help=f"Hub id, folder or file of a checkpoint (default: {FEMTO}, part of the package)",
    )
    add_size(parser)
    parser.add_argument("--whole", action="store_true", help="use the whole image, not the square in its center")
    add_device(parser)
    add_max_pixels(parser)
    add_batch_size(parser, shown="1 on a CPU, else 8")
    add_json(parser, lines=True)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.predict.explain import open_explainer
    from hierax.predict.explanation_files import write_explanations
    from hierax.predict.features import feature_files
    from hierax.predict.predictor import FoundModel

    if arguments.method == "rollout" and (arguments.label or arguments.top_k > 1):
        raise UserError("--label and --top-k are for --method gradcam; rollout explains no label")
    model = FoundModel(arguments.model)
    video = model.takes_clips
    paths, problems = expand(arguments.images, clips=video)
    if video and arguments.whole:
        raise UserError("--whole is for images, and this model takes clips")
    tally = tally_of(problems, as_json=arguments.json)
    if not paths:
        return tally.end()
    kept_in = Path(arguments.output, "explain")
    # errors about files are reported before a model is downloaded
    files = feature_files(paths, arguments.output, overwrite=may_replace(kept_in, arguments, paths), clips=video)
    options = {name: getattr(arguments, name) for name in ("method", "size", "whole", "device")}
    limits = {name: getattr(arguments, name) for name in ("batch_size", "max_pixels")}
    opened = model.open()
    predictor = open_explainer(opened, **options, **limits)
    say_model(arguments.model, predictor)
    asked = {"labels": arguments.label, "top_k": arguments.top_k, "method": arguments.method}

    def work(paths: Sequence[Path], files: Sequence[tuple[Path, Path]]) -> Iterator[Line]:
        for result in write_explanations(predictor, paths, files, **asked):
            text = f"{result.path}: {result.arrays}, {result.image}{_labels(result)}"
            yield Line(result.error, result.to_dict(), text)

    results = unfinished(kept_in, arguments, predictor, opened, paths, "label", "top_k", "method")
    write_files(results, paths, files, work, tally, as_json=arguments.json, what="explaining")
    return tally.end()


def _labels(result: ExplanationFiles) -> str:
    """The labels that were explained, and their probabilities."""
    shown = (f"{one.label} {percent(one.probability)}" for one in result.explanations if one.probability is not None)
    return "".join(f"   {text}" for text in shown)
