"""`hierax demo`: draws the results of Hiera models on photos into one image, offline."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hierax.atomic import atomic_write
from hierax.checkpoint.bundled import FEMTO, FEMTO_MAE
from hierax.cli.loading import add_max_pixels
from hierax.cli.outputs import add_overwrite, check_output, output_folder
from hierax.cli.terminal import Tally, UserError
from hierax.console import tell
from hierax.demo.demo import demo
from hierax.processing.inputs import expand

if TYPE_CHECKING:
    from hierax.demo.images import Photo

SUMMARY = "draw labels, feature maps and reconstructions of photos, offline"
EPILOG = f"""Without IMAGE the command uses photos of the package. The two models are part of the package too:
{FEMTO} classifies the photos. Its features give the maps and the nearest neighbors.
{FEMTO_MAE} fills in the masked parts.
No model was trained on the bundled photos.

  hierax demo holiday/*.jpg -o holiday-sheet"""
_MAX_ROWS = 100  # of a sheet
_LONGEST = 2048  # pixels of a side: all photos are in memory, and the models need much smaller ones
_NEXT = (
    ("classify PHOTO.jpg", "timm/hiera_small_abswin_256.sbb2_e200_in12k_ft_in1k"),
    ("features PHOTO.jpg -o features/ --attention", "timm/hiera_small_abswin_256.sbb2_e200_in12k_ft_in1k"),
    ("reconstruct PHOTO.jpg -o reconstruction.png", "facebook/hiera-tiny-224-mae-hf"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="file, folder (with its subfolders) or pattern (default: bundled photos)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=output_folder,
        metavar="DIR",
        help="output folder for sheet.png (default: demo; its sheet is replaced)",
    )
    add_overwrite(parser)
    add_max_pixels(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    begin = time.perf_counter()
    target, tally = Path(arguments.output or "demo", "sheet.png"), Tally()
    check_output(target, overwrite=arguments.overwrite or not arguments.output)
    photos = _open_photos(arguments.images, tally, arguments.max_pixels) if arguments.images else None
    if arguments.images and not photos:
        return tally.end()
    sheet = demo(photos, tell=tell)
    with atomic_write(target) as part:
        sheet.save(part, compress_level=3)  # half of the time, and 8 % more bytes
    line = f"wrote {target}: labels, feature maps, reconstruction, nearest neighbors"
    print(f"{line}      {time.perf_counter() - begin:.1f} s")
    print("\nnext:")
    for line in next_steps():
        print(f"  {line}")
    return tally.end()


def _open_photos(inputs: Sequence[str], tally: Tally, max_pixels: int) -> list[Photo]:
    """The images that can be read; errors of the others are added to the tally."""
    from hierax.demo.images import Photo
    from hierax.processing import ImageError, load_image
    from hierax.processing.frames import FIRST_ONLY

    paths, problems = expand(inputs)
    for problem in problems:
        tally.add(problem)
    if len(paths) > _MAX_ROWS:
        raise UserError(f"{len(paths):,} images; a sheet has at most {_MAX_ROWS} (hierax features takes any number)")
    found = []
    with FIRST_ONLY.report_at_end():
        for path in paths:
            try:
                picture = load_image(path, max_pixels=max_pixels)
                picture.thumbnail((_LONGEST, _LONGEST), reducing_gap=2.0)
                found.append(Photo(path.name, picture))
            except ImageError as error:  # noqa: PERF203  (the other images are still read)
                tally.add(error)
            else:
                tally.add(None)
    return found


def next_steps() -> list[str]:
    """Commands to try next. The line above a command states the license of its weights."""
    from hierax.checkpoint import find_record

    lines = [f"# labels of your images, offline, with {FEMTO}", "hierax classify PHOTO.jpg"]
    for command, checkpoint in _NEXT:
        record = find_record(checkpoint)
        assert record is not None
        use = "not for commercial use" if "-NC" in record.license else "also for commercial use"
        heading = f"# larger weights, from the Hugging Face Hub, under {record.license}, {use}"
        if heading not in lines:
            lines.append(heading)
        lines.append(f"hierax {command} --model {checkpoint}")
    return [*lines, "# all checkpoints and their licenses", "hierax models"]
