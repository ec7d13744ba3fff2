"""`hierax features`: writes the feature maps of every stage, as arrays and as an image."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hierax.cli.inputs import add_images, tally_of
from hierax.cli.loading import add_model, engine_options, say_model
from hierax.cli.outputs import add_json, add_output_folder, add_overwrite
from hierax.cli.resuming import Line, may_replace, unfinished, write_files
from hierax.cli.terminal import UserError
from hierax.processing.inputs import expand

if TYPE_CHECKING:
    from hierax.predict.features import FeatureFiles

SUMMARY = "write feature maps of images or videos, as arrays and as an image"
EPILOG = """For each FILE, NAME.npz contains the maps stage1, stage2, ... (float32, channels x height x width),
and p1, p2, ... if the model has a neck.
NAME.png shows them: the first three principal components as red, green and blue.
Similar colors mean similar features, but only within one map.
If images have the same name, their folders are added to the names of the files (a-cat, b-cat).
A video model writes the maps of the clip in the middle of a video (needs PyAV: pip install 'av>=17.1').
The maps then have a time axis before height, and NAME.gif is an animation of them.
Without --model the command uses hierax/femto, a small model that is part of the package.
`hierax models` lists larger models, which are downloaded. In Python: hierax.features.
After an interruption, run the same command again to resume.
--json prints one object per file (JSON Lines):
  {"path": "cat.jpg", "arrays": "maps/cat.npz", "image": "maps/cat.png"}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add_images(parser, clips=True)
    add_output_folder(parser)
    add_overwrite(parser)
    add_model(parser)
    parser.add_argument("--whole", action="store_true", help="use the whole image, not the square in its center")
    parser.add_argument("--attention", action="store_true", help="also draw mask units and attention (PyTorch, fp32)")
    add_json(parser, lines=True)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.predict.features import feature_files, open_features, write_features
    from hierax.predict.inputs import check_inputs
    from hierax.predict.predictor import FoundModel

    model = FoundModel(arguments.model)
    video = model.takes_clips
    paths, problems = expand(arguments.images, clips=video)
    if video and (arguments.attention or arguments.whole):
        raise UserError("--attention and --whole are for images, and this model takes clips")
    tally = tally_of(problems, as_json=arguments.json)
    if not paths:
        return tally.end()
    kept_in = Path(arguments.output, "features")
    # errors about files are reported before a model is downloaded
    files = feature_files(paths, arguments.output, overwrite=may_replace(kept_in, arguments, paths), clips=video)
    opened = model.open()
    predictor = open_features(
        opened,
        attention=arguments.attention,
        whole=arguments.whole,
        **engine_options(arguments),
        inputs=len(paths),
    )
    say_model(arguments.model, predictor)
    check_inputs(predictor.config, paths)

    def work(paths: Sequence[Path], files: Sequence[tuple[Path, Path]]) -> Iterator[Line]:
        for result in write_features(predictor, paths, files, attention=arguments.attention):
            yield Line(result.error, as_json(result), f"{result.path}: {result.arrays}, {result.image}")

    results = unfinished(kept_in, arguments, predictor, opened, paths, "attention")
    write_files(results, paths, files, work, tally, as_json=arguments.json, what="writing features")
    return tally.end()


def as_json(result: FeatureFiles) -> dict[str, Any]:
    """The object that `--json` writes for a file."""
    if result.error is not None:
        return {"path": str(result.path), "error": result.error.problem}
    return {"path": str(result.path), "arrays": str(result.arrays), "image": str(result.image)}
