"""`hierax reconstruct`: a masked autoencoder fills in masked parts of an image or video."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from hierax.atomic import atomic_write
from hierax.checkpoint.bundled import FEMTO_MAE
from hierax.cli.inputs import add_images
from hierax.cli.loading import add_model, engine_options, say_model, seed
from hierax.cli.outputs import add_overwrite, check_output, output_file
from hierax.cli.terminal import Tally, UserError
from hierax.console import progress, tell
from hierax.processing.inputs import expand

if TYPE_CHECKING:
    from pathlib import Path

    from hierax.viz.animation import Animation
    from hierax.viz.sheets import Tile

SUMMARY = "mask parts of images or videos and let an MAE model fill them in"
EPILOG = """Most MAE models predict each patch without its brightness and contrast.
--statistics visible (the default) estimates them from the visible patches around the masked patch.
--statistics true reads them from the masked patch itself, as in many published figures.
This looks better, because it uses a part of the answer.
Without --model the command uses hierax/femto.mae, a small model that is part of the package.
`hierax models --task mae` lists larger models, which are downloaded.
An MAE model for videos reconstructs videos (needs PyAV: pip install 'av>=17.1'). OUT is then an animation
(.gif, .png, .webp), and OUT-strip.png shows all frames:
  hierax reconstruct clip.mp4 -o clip.gif --model facebook/hiera_base_16x224.mae_k400
In Python: hierax.reconstruct."""
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_MOVING = (".gif", ".png", ".webp")
_MOST_ROWS = {".webp": 25, ".jpg": 100, ".jpeg": 100, ".gif": 100, ".png": 1000}
"""The number of rows that fit into one image: WebP has at most 16,383 rows of pixels, JPEG and GIF 65,535."""


def _ratio(text: str) -> float:
    try:
        ratio = float(text)
    except ValueError:
        ratio = 0.0
    if not 0 < ratio < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return ratio


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add_images(parser, clips=True)
    kinds = tuple(dict.fromkeys((*_SUFFIXES, *_MOVING)))
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=output_file(kinds, "an image"),
        metavar="OUT",
        help="output image, one row per file",
    )
    add_overwrite(parser)
    add_model(parser, default=FEMTO_MAE)
    parser.add_argument(
        "--mask-ratio", type=_ratio, metavar="R", help="share of the image to mask (default: the model's share)"
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of the random mask (default: 0)")
    parser.add_argument(
        "--statistics",
        choices=("visible", "true"),
        default="visible",
        help="brightness and contrast of masked patches (default: visible; see below)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.predict.inputs import check_inputs, check_no_input
    from hierax.predict.predictor import FoundModel
    from hierax.predict.reconstruct import open_mae, reconstructions

    model = FoundModel(arguments.model)
    video = model.takes_clips
    paths, problems = expand(arguments.images, clips=video)
    _check_output(arguments, len(paths), video=video)
    check_no_input(_outputs(arguments.output, video=video), paths)
    tally = Tally()
    for problem in problems:
        tally.add(problem)
    if not paths:
        return tally.end()
    opened = open_mae(model.open(), **engine_options(arguments), inputs=len(paths))
    say_model(arguments.model, opened)
    check_inputs(opened.config, paths)
    results = reconstructions(
        opened, paths, mask_ratio=arguments.mask_ratio, seed=arguments.seed, statistics=arguments.statistics
    )
    rows: list[tuple[Tile, ...]] = []
    clips: list[Animation] = []
    with progress(results, total=len(paths), what="reconstructing") as followed:
        for result in followed:
            tally.add(result.error)
            if result.animation is not None:
                clips.append(result.animation)
            elif result.error is None:
                rows.append(result.tiles)
    _write(rows, clips, arguments)
    return tally.end()


def _outputs(output: Path, *, video: bool) -> list[Path]:
    """The files that are written: for videos also a strip of all frames."""
    return [output, output.with_name(f"{output.stem}-strip.png")] if video else [output]


def _check_output(arguments: argparse.Namespace, count: int, *, video: bool) -> None:
    """Checks the files that are written for `count` images or videos, before the work starts."""
    output, what = arguments.output, "videos" if video else "images"
    kind, allowed = output.suffix.lower(), _MOVING if video else _SUFFIXES
    if kind not in allowed:
        raise UserError(f"--output {output}: for {what}, expected one of {', '.join(allowed)}")
    if count > (most := _MOST_ROWS[kind]):
        larger = "" if kind == ".png" else f"; .png has up to {_MOST_ROWS['.png']:,}"
        raise UserError(f"--output {output}: {count:,} {what}; a {kind} file has at most {most:,} rows{larger}")
    for path in _outputs(output, video=video):
        check_output(path, overwrite=arguments.overwrite)


def _write(rows: list[tuple[Tile, ...]], clips: list[Animation], arguments: argparse.Namespace) -> None:
    from hierax.viz.animation import write_animation, write_strip
    from hierax.viz.fonts import drawable_names
    from hierax.viz.sheets import sheet

    (model,) = drawable_names([str(arguments.model)], kind="model")
    heading, note = "Masked reconstruction", f"{model}, seed {arguments.seed}"
    if clips:
        _, strip = _outputs(arguments.output, video=True)
        write_animation(clips, arguments.output, heading=heading, note=note)
        write_strip(clips, strip, heading=heading, note=note)
        tell(f"wrote {arguments.output} and {strip}: {len(clips)} {'video' if len(clips) == 1 else 'videos'}")
    elif rows:
        with atomic_write(arguments.output) as part:
            sheet(rows, heading=heading, note=note).save(part)
        tell(f"wrote {arguments.output}: {len(rows)} {'image' if len(rows) == 1 else 'images'}")
