"""`hierax detect`: finds objects in images with a model that `hierax finetune --task detect` trained."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hierax.cli.inputs import add_images, tally_of
from hierax.cli.loading import add_batch_size, add_device, add_max_pixels
from hierax.cli.outputs import add_json, add_output_folder, add_overwrite
from hierax.cli.resuming import kept, may_replace, say_resumed
from hierax.cli.terminal import Tally, UserError
from hierax.console import progress, say, tell
from hierax.processing.inputs import expand

if TYPE_CHECKING:
    from hierax.detection.build import Detector
    from hierax.detection.predict import Detection, DetectionFiles
    from hierax.predict.unfinished import UnfinishedResults

SUMMARY = "find objects in images: boxes, or boxes and masks"
EPILOG = """The model is a run of `hierax finetune --task detect` or `--task instances`, or a folder of transformers
with RT-DETR, D-FINE or Mask2Former. For each IMAGE, DIR/NAME.png shows the objects. DIR/detections.json contains
them in the form of a COCO file, with the category numbers of the training data and a score for each object.
If images have the same name, their folders are added to the names of the files (a-cat, b-cat).
The command needs the extra dense. In Python: hierax.detection.detect.
After an interruption, run the same command again to resume.
--json prints one object for each file (JSON Lines):
  {"path": "street.jpg", "width": 640, "height": 480,
   "objects": [{"label": "car", "score": 0.91, "bbox": [12.0, 40.5, 200.0, 90.0]}, ...], "overlay": "out/street.png"}"""


def score(text: str) -> float:
    """Parses a score from 0 to 1, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a score; expected a number from 0 to 1")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add_images(parser)
    add_output_folder(parser)
    parser.add_argument("--model", required=True, metavar="RUN", help="a run, or the folder of a model of detection")
    parser.add_argument(
        "--threshold", type=score, default=0.5, metavar="S", help="minimum score of an object (default: 0.5)"
    )
    add_overwrite(parser)
    add_device(parser)
    add_batch_size(parser, shown="1", default=1)
    add_max_pixels(parser)
    add_json(parser, lines=True)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.detection.build import open_detector
    from hierax.detection.predict import RESULTS, detection_files, without_overlays
    from hierax.devices import find_device
    from hierax.digests import weights_digest
    from hierax.predict.unfinished import UnfinishedResults

    found, problems = expand(arguments.images)
    paths = without_overlays(found, arguments.images)
    tally = tally_of(problems, as_json=arguments.json)
    if not paths:
        return tally.end()
    kept_in = Path(arguments.output, RESULTS)
    files = detection_files(paths, arguments.output, overwrite=may_replace(kept_in, arguments, paths))
    if files.results.exists() and not arguments.overwrite:
        raise UserError(f"{files.results} would be replaced; choose another folder, or pass --overwrite")
    detector = open_detector(arguments.model)
    settings = {"model": [weights_digest(detector.model), *detector.classes], "threshold": arguments.threshold}
    results = UnfinishedResults(kept_in, settings, paths, overwrite=arguments.overwrite)
    detector.model.to(find_device(arguments.device))
    with kept(results):
        _detect(detector, paths, files, results, tally, arguments)
    if tally.done:
        say(f"wrote {files.results} and {tally.done} overlays")
    return tally.end()


def _detect(
    detector: Detector,
    paths: Sequence[Path],
    files: DetectionFiles,
    results: UnfinishedResults,
    tally: Tally,
    arguments: argparse.Namespace,
) -> None:
    """Writes all files, and a line for each image. Images whose results are kept are left out."""
    from hierax.detection.predict import detection_from, detections, stored, write_overlays, write_results

    done: dict[Path, Detection] = {}
    left: list[tuple[Path, Path]] = []
    for path, overlay in zip(paths, files.overlays, strict=True):
        found = results.get(path) if overlay.is_file() else None
        if found is None:
            left.append((path, overlay))
        else:
            done[path] = detection_from(path, found, detector.classes, overlay)
            _show(done[path], tally, arguments)
    say_resumed(len(done), len(paths))
    stream = detections(
        detector,
        [path for path, _ in left],
        threshold=arguments.threshold,
        batch_size=arguments.batch_size,
        max_pixels=arguments.max_pixels,
    )
    written = write_overlays(stream, [overlay for _, overlay in left], detector.classes)
    with progress(written, total=len(left), what="detecting") as followed:
        for result in followed:
            _show(result, tally, arguments)
            done[result.path] = result
            if result.error is None:
                results.add(result.path, {**stored(result), "files": [str(result.overlay)]})
    write_results(detector, [done[path] for path in paths], files.results)


def _show(result: Detection, tally: Tally, arguments: argparse.Namespace) -> None:
    tally.add(result.error)
    if arguments.json:
        print(json.dumps(result.to_dict()), flush=True)
    elif result.error is None:
        names = [f"{result.classes[one.label]} {one.score:.2f}" for one in result.objects]
        tell(f"{result.path}: {', '.join(names) or 'no objects'}")
