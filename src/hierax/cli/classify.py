"""`hierax classify`: what is in pictures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hierax.checkpoint.bundled import FEMTO
from hierax.cli.inputs import add_images, expand
from hierax.cli.loading import add_model, check_pictures, loaded, open_model, positive, read_pixels, record_of
from hierax.cli.terminal import Tally, UserError, percent, progress

if TYPE_CHECKING:
    from torch import Tensor

    from hierax.config import HieraConfig
    from hierax.pretrained import Pretrained
    from hierax.processing import ImageError

SUMMARY = "name what is in pictures"
EPILOG = """Without --model it is hierax/femto, small, with categories of its own. `hierax models` lists
classifiers of ImageNet's 1000 classes; the first use of one downloads it:
  hierax classify holiday/ --model timm/hiera_small_abswin_256.sbb2_e200_in12k_ft_in1k

--json writes one object per picture and line (JSON lines):
  {"path": "cat.jpg", "predictions": [{"label": "tabby, tabby cat", "index": 281, "probability": 0.61}, …]}
  {"path": "notes.txt", "error": "not an image (PNG, JPEG, WebP, … are read)"}"""


@dataclass(frozen=True)
class Prediction:
    """A class, its number, and how probable the model finds it, from 0 to 1."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Classified:
    """The likeliest classes of a picture, likeliest first; or the error that kept it from being read."""

    path: Path
    predictions: tuple[Prediction, ...] = ()
    error: ImageError | None = None


def classify(
    images: Iterable[str | Path], *, model: str | Path | Pretrained, top_k: int = 5, size: int | None = None
) -> Iterator[Classified]:
    """The `top_k` likeliest classes of each picture, one by one as they are done.

    Args:
        images: paths of pictures.
        model: an image classifier, or a Hub id, folder or file to load one from.
        top_k: how many classes; all where the model has fewer.
        size: side in pixels of the square that the model sees, instead of the checkpoint's.

    Raises:
        UserError: the model is no image classifier.
        ValueError, OSError: those of `hierax.load`.
    """
    import torch

    from hierax.models import HieraForImageClassification
    from hierax.processing import HieraImageProcessor, ImageError

    classifier = loaded(model)
    check_pictures(classifier)
    if not isinstance(classifier, HieraForImageClassification):
        raise UserError(f"this model is a {type(classifier).__name__}; classify needs a classifier, such as {FEMTO}")
    processor = HieraImageProcessor(record_of(classifier, size=size))
    for path in map(Path, images):
        try:
            pixels = read_pixels(processor, path, classifier)
        except ImageError as error:
            yield Classified(path, error=error)
            continue
        with torch.inference_mode():
            logits = classifier(pixels).logits[0]
        yield Classified(path, _likeliest(logits, classifier.config, top_k))


def _likeliest(logits: Tensor, config: HieraConfig, top_k: int) -> tuple[Prediction, ...]:
    several = config.problem_type == "multi_label_classification"
    probabilities = logits.float().sigmoid() if several else logits.float().softmax(-1)
    values, indices = probabilities.topk(min(top_k, len(probabilities)))
    pairs = zip(values.tolist(), indices.tolist(), strict=True)
    return tuple(Prediction(config.id2label[index], index, value) for value, index in pairs)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add_images(parser)
    add_model(parser)
    parser.add_argument("--top-k", type=positive, default=5, metavar="K", help="how many classes (default: 5)")
    parser.add_argument("--json", action="store_true", help="write JSON lines")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    paths, problems = expand(arguments.images)
    tally, width = Tally(), min(max((len(str(path)) for path in paths), default=0), 40)
    for problem in problems:
        _write(Classified(Path(problem.source), error=problem), tally, json_lines=arguments.json, width=width)
    if not paths:
        return tally.exit_code
    model = open_model(arguments.model, device=arguments.device)
    results = classify(paths, model=model, top_k=arguments.top_k, size=arguments.size)
    with progress(results, total=len(paths), what="classifying") as followed:
        for result in followed:
            _write(result, tally, json_lines=arguments.json, width=width)
    return tally.exit_code


def _write(result: Classified, tally: Tally, *, json_lines: bool, width: int) -> None:
    tally.add(result.error)
    if json_lines:
        print(json.dumps(as_json(result)), flush=True)
    elif result.error is None:
        classes = "   ".join(f"{_short(p.label)} {percent(p.probability)}" for p in result.predictions)
        print(f"{result.path!s:<{width}}   {classes}", flush=True)


def as_json(result: Classified) -> dict[str, Any]:
    """The object that `--json` writes for a picture."""
    if result.error is not None:
        return {"path": str(result.path), "error": result.error.problem}
    predictions = [{"label": p.label, "index": p.index, "probability": p.probability} for p in result.predictions]
    return {"path": str(result.path), "predictions": predictions}


def _short(label: str) -> str:
    """The first of several names for a class ("tabby, tabby cat")."""
    return label.partition(",")[0]
