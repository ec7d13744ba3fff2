"""`hierax classify`: what is in pictures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hierax.checkpoint.bundled import FEMTO
from hierax.cli.clips import CLASSIFIER, check_inputs, in_parts, takes_clips, view_counts
from hierax.cli.inputs import add_images, expand
from hierax.cli.loading import add_model, loaded, open_model, positive, read_pixels, record_of
from hierax.cli.terminal import Tally, UserError, percent, progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from hierax.config import HieraConfig
    from hierax.pretrained import Pretrained
    from hierax.processing import Clip, ImageError

SUMMARY = "name what is in pictures, or what is done in videos"
EPILOG = f"""Without --model it is hierax/femto, small, with categories of its own. `hierax models` lists
classifiers of ImageNet's 1000 classes; the first use of one downloads it:
  hierax classify holiday/ --model timm/hiera_small_abswin_256.sbb2_e200_in12k_ft_in1k

A model of clips takes videos (extra `video`), and knows actions. It sees one window of about two seconds, from
the middle; --views 5x3 sees five windows and three parts of each, and averages their probabilities:
  hierax classify clip.mp4 --model {CLASSIFIER} --views 5x3

--json writes one object per file and line (JSON lines):
  {{"path": "cat.jpg", "predictions": [{{"label": "tabby, tabby cat", "index": 281, "probability": 0.61}}, …]}}
  {{"path": "notes.txt", "error": "not an image (PNG, JPEG, WebP, … are read)"}}"""


@dataclass(frozen=True)
class Prediction:
    """A class, its number, and how probable the model finds it, from 0 to 1."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class View:
    """What one view of a video was found to be: of its window, from `start` to `end` in seconds, the crop `crop`."""

    start: float | None
    end: float | None
    crop: int
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True)
class Classified:
    """The likeliest classes of a picture or video, likeliest first, of a video also by view; or the error that kept it
    from being read.
    """

    path: Path
    predictions: tuple[Prediction, ...] = ()
    views: tuple[View, ...] = ()
    error: ImageError | None = None


def classify(
    images: Iterable[str | Path],
    *,
    model: str | Path | Pretrained,
    top_k: int = 5,
    size: int | None = None,
    views: tuple[int, int] = (1, 1),
) -> Iterator[Classified]:
    """The `top_k` likeliest classes of each picture or video, one by one as they are done.

    Args:
        images: paths of pictures; of videos for a classifier of clips.
        model: a classifier, or a Hub id, folder or file to load one from.
        top_k: how many classes; all where the model has fewer.
        size: side in pixels of the square that the model sees, instead of the checkpoint's.
        views: of videos, how many windows in time and how many crops of each; their probabilities are averaged.

    Raises:
        UserError: the model is no classifier, or takes neither pictures nor clips.
        ValueError, OSError: those of `hierax.load`.
    """
    import torch

    from hierax.models import HieraForImageClassification, HieraForVideoClassification
    from hierax.processing import ImageError

    classifier = loaded(model)
    check_inputs(classifier, ())
    if not isinstance(classifier, (HieraForImageClassification, HieraForVideoClassification)):
        such = CLASSIFIER if classifier.config.is_video else FEMTO
        raise UserError(f"this model is a {type(classifier).__name__}; classify needs a classifier, such as {such}")
    config, read = classifier.config, _reader(classifier, size=size, views=views)
    for path in map(Path, images):
        try:
            batches, clips = read(path)
        except ImageError as error:
            yield Classified(path, error=error)
            continue
        with torch.inference_mode():
            logits = torch.cat([classifier(pixels).logits for pixels in batches])
        found = probabilities(logits, config)
        seen = [
            View(clip.start, clip.end, clip.view[1], _likeliest(one, config, top_k))
            for clip, one in zip(clips, found, strict=False)
        ]
        yield Classified(path, _likeliest(found.mean(0), config, top_k), tuple(seen))


def _reader(
    model: Pretrained, *, size: int | None, views: tuple[int, int]
) -> Callable[[Path], tuple[list[Tensor], list[Clip]]]:
    """From a path to batches of pixels, and, of a video, to its clips."""
    from hierax.processing import HieraImageProcessor, HieraVideoProcessor

    record = record_of(model, size=size)
    if not model.config.is_video:
        pictures = HieraImageProcessor(record)
        return lambda path: ([read_pixels(pictures, path, model)], [])
    videos = HieraVideoProcessor(record)

    def read(path: Path) -> tuple[list[Tensor], list[Clip]]:
        clips = videos.clips(path, views=views)
        return in_parts(clips, model), clips

    return read


def probabilities(logits: Tensor, config: HieraConfig) -> Tensor:
    """Of logits `[..., classes]`, in float32: each class alone where several may be true."""
    several = config.problem_type == "multi_label_classification"
    return logits.float().sigmoid() if several else logits.float().softmax(-1)


def _likeliest(probabilities: Tensor, config: HieraConfig, top_k: int) -> tuple[Prediction, ...]:
    values, indices = probabilities.topk(min(top_k, len(probabilities)))
    pairs = zip(values.tolist(), indices.tolist(), strict=True)
    return tuple(Prediction(config.id2label[index], index, value) for value, index in pairs)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add_images(parser, clips=True)
    add_model(parser)
    parser.add_argument("--top-k", type=positive, default=5, metavar="K", help="how many classes (default: 5)")
    parser.add_argument(
        "--views", type=view_counts, default=(1, 1), metavar="TxS",
        help="of videos: windows in time x crops of each, such as 5x3 (default: 1x1)",
    )  # fmt: skip
    parser.add_argument("--per-view", action="store_true", help="of videos: also what each view was found to be")
    parser.add_argument("--json", action="store_true", help="write JSON lines")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    paths, problems = expand(arguments.images, clips=takes_clips(arguments.model))
    tally, width = Tally(), min(max((len(str(path)) for path in paths), default=0), 40)
    for problem in problems:
        _write(Classified(Path(problem.source), error=problem), tally, arguments, width=width)
    if not paths:
        return tally.exit_code
    model = open_model(arguments.model, device=arguments.device)
    check_inputs(model, paths)
    if not model.config.is_video and (arguments.views != (1, 1) or arguments.per_view):
        raise UserError("--views and --per-view are for videos, and this model takes pictures")
    results = classify(paths, model=model, top_k=arguments.top_k, size=arguments.size, views=arguments.views)
    with progress(results, total=len(paths), what="classifying") as followed:
        for result in followed:
            _write(result, tally, arguments, width=width)
    return tally.exit_code


def _write(result: Classified, tally: Tally, arguments: argparse.Namespace, *, width: int) -> None:
    tally.add(result.error)
    if arguments.json:
        print(json.dumps(as_json(result, per_view=arguments.per_view)), flush=True)
    elif result.error is None:
        print(f"{result.path!s:<{width}}   {_listed(result.predictions)}", flush=True)
        for view in result.views if arguments.per_view else ():
            place = f"{view.start or 0:.1f} to {view.end or 0:.1f} s"
            crop = f", crop {view.crop + 1}" if arguments.views[1] > 1 else ""
            print(f"  {place + crop:<24} {_listed(view.predictions)}", flush=True)


def _listed(predictions: Iterable[Prediction]) -> str:
    return "   ".join(f"{_short(p.label)} {percent(p.probability)}" for p in predictions)


def as_json(result: Classified, *, per_view: bool = False) -> dict[str, Any]:
    """The object that `--json` writes for a picture or video."""
    if result.error is not None:
        return {"path": str(result.path), "error": result.error.problem}
    found: dict[str, Any] = {"path": str(result.path), "predictions": _as_dicts(result.predictions)}
    if per_view and result.views:
        found["views"] = [
            {"start": view.start, "end": view.end, "crop": view.crop, "predictions": _as_dicts(view.predictions)}
            for view in result.views
        ]
    return found


def _as_dicts(predictions: Iterable[Prediction]) -> list[dict[str, Any]]:
    return [{"label": p.label, "index": p.index, "probability": p.probability} for p in predictions]


def _short(label: str) -> str:
    """The first of several names for a class ("tabby, tabby cat")."""
    return label.partition(",")[0]
