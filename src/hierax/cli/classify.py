"""`hierax classify`: the classes of images or videos."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hierax.cli.clips import add_views
from hierax.cli.inputs import add_images
from hierax.cli.loading import add_model, engine_options, positive, say_model
from hierax.cli.outputs import add_json, add_overwrite, output_file
from hierax.cli.resuming import kept, say_resumed, unfinished
from hierax.cli.terminal import Tally, UserError
from hierax.console import percent, progress, quantity, say, tell
from hierax.processing.inputs import expand

if TYPE_CHECKING:
    from hierax.predict.classify import Classification, Prediction
    from hierax.predict.predictor import Predictor
    from hierax.predict.unfinished import UnfinishedResults

SUMMARY = "classify images or videos"
EPILOG = """Without --model the command uses hierax/femto, a small model that is part of the package. It classifies
images into 30 categories. `hierax models` lists classifiers of the 1000 classes of ImageNet. They are
downloaded once:
  hierax classify holiday/ --model timm/hiera_small_abswin_256.sbb2_e200_in12k_ft_in1k

A video model classifies actions in videos (needs PyAV: pip install 'av>=17.1'). It uses one clip of about two
seconds from the middle of the video. --views 5x3 uses five clips and three crops of each clip, and averages:
  hierax classify clip.mp4 --model facebook/hiera_base_16x224.mae_k400_ft_k400 --views 5x3

-o labels.csv writes a table with the columns path, label, probability, label2, probability2, ..., error.
The suffix selects the format: .csv, .tsv, .jsonl (JSON Lines) or .parquet. The file is written at the end. Until
then, labels.csv.unfinished keeps the results; after an interruption, run the same command again to resume.
The result for an image does not depend on the content of the other images. On hardware with bf16, the default
is bf16. It changes probabilities by a few thousandths. --precision fp32 is exact. Few images run on PyTorch,
many on a faster backend if one is installed; --backend selects one. In Python: hierax.classify.

--json prints one object for each file (JSON Lines):
  {"path": "cat.jpg", "predictions": [{"label": "tabby, tabby cat", "index": 281, "probability": 0.61}, ...]}
  {"path": "notes.txt", "error": "not an image (PNG, JPEG, WebP, ... are read)"}"""
_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add_images(parser, clips=True)
    parser.add_argument(
        "-o",
        "--output",
        type=output_file(_TABLES, "a table"),
        metavar="FILE",
        help="output table: .csv, .tsv, .jsonl or .parquet",
    )
    add_overwrite(parser)
    add_model(parser)
    parser.add_argument("--top-k", type=positive, default=5, metavar="K", help="number of classes to show (default: 5)")
    add_views(parser)
    parser.add_argument("--per-view", action="store_true", help="for videos: also print the result of each view")
    add_json(parser, lines=True)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.predict.classify import Classification
    from hierax.predict.inputs import check_inputs
    from hierax.predict.predictor import FoundModel, open_predictor
    from hierax.predict.tables import check_table

    if arguments.output is not None:
        check_table(arguments.output, overwrite=arguments.overwrite)
    model = FoundModel(arguments.model)
    paths, problems = expand(arguments.images, clips=model.takes_clips)
    wrong = [Classification(Path(problem.source), error=problem) for problem in problems]
    tally = Tally("" if arguments.json or arguments.output is not None else "--json lists all")
    width = min(max((len(str(path)) for path in paths), default=0), 40)
    write = partial(_write, tally=tally, arguments=arguments, width=width)
    for result in wrong:
        write(result)
    if not paths:
        if arguments.output is not None:
            _write_table(wrong, arguments)
        return tally.end()
    opened = model.open()
    inputs = len(paths) * math.prod(arguments.views)
    predictor = open_predictor(opened, **engine_options(arguments), inputs=inputs)
    say_model(arguments.model, predictor)
    check_inputs(predictor.config, paths)
    if not predictor.config.is_video and (arguments.views != (1, 1) or arguments.per_view):
        raise UserError("--views and --per-view are for videos, and this model takes images")
    table = (
        None
        if arguments.output is None
        else unfinished(arguments.output, arguments, predictor, opened, paths, "top_k", "views")
    )
    with kept(table):
        results = _classify(predictor, paths, table, arguments, write)
        if arguments.output is not None:
            _write_table([*wrong, *results], arguments)
    return tally.end()


def _classify(
    predictor: Predictor,
    paths: Sequence[Path],
    table: UnfinishedResults | None,
    arguments: argparse.Namespace,
    write: Callable[[Classification], None],
) -> list[Classification]:
    """Writes the result for each file; with a table, also returns them, in the order of the files."""
    from hierax.predict.classify import classification_from, predictions

    done: dict[Path, Classification] = {}
    if table is not None:
        found = {path: values for path in paths if (values := table.get(path)) is not None}
        done = {path: classification_from(path, values) for path, values in found.items()}
    say_resumed(len(done), len(paths))
    for result in done.values():
        write(result)
    left = [path for path in paths if path not in done]
    stream = predictions(predictor, left, top_k=arguments.top_k, views=arguments.views)
    with progress(stream, total=len(left), what="classifying") as followed:
        for result in followed:
            write(result)
            if table is not None:
                done[result.path] = result
                if result.error is None:
                    table.add(result.path, result.to_dict(per_view=True))
    return [done[path] for path in paths if path in done]


def _write_table(results: Sequence[Classification], arguments: argparse.Namespace) -> None:
    from hierax.predict.tables import write_table

    write_table(results, arguments.output, overwrite=arguments.overwrite)
    say(f"wrote {arguments.output}: {quantity(len(results), 'row')}")


def _write(result: Classification, tally: Tally, arguments: argparse.Namespace, *, width: int) -> None:
    tally.add(result.error)
    if arguments.json:
        print(json.dumps(result.to_dict(per_view=arguments.per_view)), flush=True)
    elif result.error is None and arguments.output is None:
        tell(f"{result.path!s:<{width}}   {_format_predictions(result.predictions)}")
        for view in result.views if arguments.per_view else ():
            place = f"{view.start or 0:.1f} to {view.end or 0:.1f} s"
            crop = f", crop {view.crop + 1}" if arguments.views[1] > 1 else ""
            tell(f"  {place + crop:<24} {_format_predictions(view.predictions)}")


def _format_predictions(predictions: Iterable[Prediction]) -> str:
    return "   ".join(f"{_first_name(p.label)} {percent(p.probability)}" for p in predictions)


def _first_name(label: str) -> str:
    """The first of several names for a class ("tabby, tabby cat")."""
    return label.partition(",")[0]
