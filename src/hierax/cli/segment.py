"""`hierax segment`: the class of every pixel of images, as masks, overlays and areas."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hierax.cli.inputs import add_images, tally_of
from hierax.cli.loading import (
    add_batch_size,
    add_device,
    add_max_pixels,
    add_precision,
    engine_options,
    positive,
    say_model,
)
from hierax.cli.outputs import add_json, add_output_folder, add_overwrite
from hierax.cli.resuming import Line, may_replace, unfinished, write_files
from hierax.console import FEW, ProgressDisplay, percent
from hierax.processing.inputs import expand

if TYPE_CHECKING:
    from hierax.predict.segment import Segmentation
    from hierax.predict.segmentation_files import SegmentationFiles

SUMMARY = "write the class of every pixel of images: masks, overlays, areas"
EPILOG = """--model is a segmentation model, such as the run of `hierax finetune DATA --task segment`.
For each IMAGE, DIR contains:
  NAME.png          the mask: a palette image of the size of IMAGE, whose values are the indices of the classes
                    (16-bit gray for more than 256 classes)
  NAME-overlay.jpg  the colors of the classes over IMAGE, with a legend (at most 8192 pixels wide or high)
  NAME.json         the area of each class that occurs, in pixels and as a share of IMAGE, largest first
A mask is that of the upright image: the EXIF orientation of a photo is applied, as programs do that show photos.
If images have the same name, their folders are added to the names of the files (a-cat, b-cat).

The whole image is used. Its shorter side is resized as in training, or to --size; --full-size does not resize.
A model input that is longer than --window is cut into windows, which overlap. Each window counts less
towards its border, so that no seams are seen. The default is twice the native size of the model.
In Python: hierax.segment.
After an interruption, run the same command again to resume.
--json prints one object per file (JSON Lines):
  {"path": "street.jpg", "width": 2048, "height": 1536, "areas": [{"label": "road", "index": 1, "pixels": 1302528,
   "share": 0.414, "color": [128, 0, 0]}, ...], "mask": "out/street.png", "overlay": "out/street-overlay.jpg"}"""
_SHOWN = 5  # classes in a line


def _overlap(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to below 1")
    return share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add_images(parser)
    add_output_folder(parser)
    add_overwrite(parser)
    parser.add_argument("--model", required=True, metavar="M", help="Hub id, folder, file or export")
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument(
        "--size", type=positive, metavar="PIXELS", help="shorter side of the model's input (default: as in training)"
    )
    scale.add_argument("--full-size", action="store_true", help="do not resize images")
    parser.add_argument(
        "--window", type=positive, metavar="PIXELS", help="side of the windows (default: twice the model's size)"
    )
    parser.add_argument(
        "--overlap", type=_overlap, default=0.25, metavar="R", help="share of a window in the next one (default: 0.25)"
    )
    add_device(parser)
    add_precision(parser)
    add_max_pixels(parser)
    add_batch_size(parser, shown="1 on a CPU, else 32")
    add_json(parser, lines=True)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.predict.predictor import FoundModel
    from hierax.predict.segment import open_segmenter, segmentations
    from hierax.predict.segmentation_files import segmentation_files, without_results

    model = FoundModel(arguments.model)
    found, problems = expand(arguments.images)
    paths = without_results(found, arguments.images)
    tally = tally_of(problems, as_json=arguments.json)
    if not paths:
        return tally.end()
    kept_in = Path(arguments.output, "segment")
    # errors about files are reported before a model is downloaded
    files = segmentation_files(paths, arguments.output, overwrite=may_replace(kept_in, arguments, paths))
    opened = model.open()
    predictor = open_segmenter(opened, full_size=arguments.full_size, **engine_options(arguments), inputs=len(paths))
    say_model(arguments.model, predictor)
    few = len(paths) <= FEW  # then no progress of images is shown
    with _window_progress(quiet=not few) as on_window:

        def work(paths: Sequence[Path], files: Sequence[SegmentationFiles]) -> Iterator[Line]:
            found = segmentations(
                predictor, paths, window=arguments.window, overlap=arguments.overlap, on_window=on_window
            )
            for (result, image), places in zip(found, files, strict=True):
                if result.error is None:
                    result.write(places, image)
                text = f"{result.path}: {places.mask}   {_largest(result)}"
                yield Line(result.error, as_json(result, places), text)

        results = unfinished(kept_in, arguments, predictor, opened, paths, "window", "overlap")
        write_files(results, paths, files, work, tally, as_json=arguments.json, what="segmenting")
    return tally.end()


@contextmanager
def _window_progress(*, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Yields a function that shows how many windows of an image are done, of images with many."""
    with ExitStack() as stack:
        shown: list[ProgressDisplay] = []

        def update(done: int, total: int) -> None:
            if quiet or total <= FEW:
                return
            if not shown:
                shown.append(stack.enter_context(ProgressDisplay("window")))
            shown[0].update(done, total)

        yield update


def as_json(result: Segmentation, files: SegmentationFiles) -> dict[str, Any]:
    """The object that `--json` writes for a file."""
    written = {} if result.error is not None else {"mask": str(files.mask), "overlay": str(files.overlay)}
    return {**result.to_dict(), **written}


def _largest(result: Segmentation) -> str:
    """The classes with the largest areas."""
    shown = [f"{area.label} {percent(area.share)}" for area in result.areas[:_SHOWN]]
    return "   ".join([*shown, *(["…"] if len(result.areas) > _SHOWN else [])])
