"""Commands that can be interrupted: their results are kept, and the same command resumes."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hierax.cli.terminal import Tally
from hierax.console import progress, quantity, say, tell
from hierax.predict.unfinished import UnfinishedResults, written_by

if TYPE_CHECKING:
    from hierax.checkpoint.opened import Checkpoint
    from hierax.predict.inputs import Overwrite
    from hierax.predict.predictor import Predictor

_Files = TypeVar("_Files", bound=Iterable[Path])


@dataclass(frozen=True)
class Line:
    """The result for a file: its error, or the object that `--json` prints and the text that is printed otherwise."""

    error: Exception | None
    values: dict[str, Any]
    text: str = ""


def may_replace(output: Path, arguments: argparse.Namespace, inputs: Sequence[Path]) -> Overwrite:
    """Which existing files may be replaced: all with `--overwrite`, and those that an interrupted command wrote."""
    return True if arguments.overwrite else written_by(output, inputs)


def unfinished(
    output: Path,
    arguments: argparse.Namespace,
    predictor: Predictor,
    model: Checkpoint | str | os.PathLike[str],
    inputs: Sequence[Path],
    *options: str,
) -> UnfinishedResults:
    """The results of this command so far.

    Args:
        output: the file that the command writes, or its own name in its output folder.
        model: what the predictor was opened from.
        inputs: the images or videos.
        options: the names of the arguments that results depend on, besides those that the predictor knows.

    Raises:
        ValueError, OSError: see `UnfinishedResults`.
    """
    from hierax.checkpoint.opened import Checkpoint
    from hierax.digests import tensors_digest

    exported = None if predictor.engine is None else predictor.engine.exported
    weights = tensors_digest(model.tensors) if isinstance(model, Checkpoint) else exported and exported.digest
    settings = {
        "model": [weights, predictor.config.to_json()],
        "preprocessing": predictor.preprocessing.to_dict(),
        "precision": predictor.how.partition(",")[0],
        **{name: getattr(arguments, name) for name in options},
    }
    return UnfinishedResults(output, settings, inputs, overwrite=arguments.overwrite)


@contextmanager
def kept(results: UnfinishedResults | None) -> Iterator[None]:
    """Deletes the file of the results at the end. After an interruption or an error, it says where they are."""
    try:
        yield
    except BaseException:
        if results is not None:
            results.close()
            if results.count:
                say(f"{results.path} keeps {quantity(results.count, 'result')}; run the same command again to resume")
        raise
    if results is not None:
        results.close(delete=True)


def say_resumed(count: int, total: int) -> None:
    """Says how many results there are already, if there are any."""
    if count:
        say(f"{count:,} of {total:,} results are already there")


def write_files(
    results: UnfinishedResults,
    paths: Sequence[Path],
    files: Sequence[_Files],
    work: Callable[[Sequence[Path], Sequence[_Files]], Iterable[Line]],
    tally: Tally,
    *,
    as_json: bool,
    what: str,
) -> None:
    """Writes the files of each input, and prints a line for each. An input whose files are there already is left out.

    Args:
        files: those of each input.
        work: writes the files of inputs, and yields a line for each.
        what: a verb for the progress, such as "segmenting".
    """

    def show(line: Line) -> None:
        tally.add(line.error)
        if as_json:
            print(json.dumps(line.values), flush=True)
        elif line.error is None:
            tell(line.text)

    with kept(results):
        left = list[tuple[Path, _Files]]()
        for path, places in zip(paths, files, strict=True):
            found = results.get(path)
            if found and found["files"] == list(map(str, places)) and all(place.is_file() for place in places):
                show(Line(None, found["values"], found["text"]))
            else:
                left.append((path, places))
        say_resumed(len(paths) - len(left), len(paths))
        lines = work([path for path, _ in left], [places for _, places in left])
        with progress(zip(lines, left, strict=True), total=len(left), what=what) as followed:
            for line, (path, places) in followed:
                show(line)
                if line.error is None:
                    values = {"files": list(map(str, places)), "values": line.values, "text": line.text}
                    results.add(path, values)
