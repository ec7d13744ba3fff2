"""Opens a model once, checks its inputs, and reads them in threads while the model is running."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from numbers import Integral
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from hierax.checkpoint.files import Source, locate
from hierax.checkpoint.hub import HubOptions
from hierax.checkpoint.opened import Checkpoint, read_checkpoint
from hierax.checkpoint.preprocessing import located_preprocessing
from hierax.engine import Engine
from hierax.engine.backends.exported import is_export
from hierax.engine.signature import Signature
from hierax.model.config import HieraConfig
from hierax.model.encoder import Hiera
from hierax.model.pretrained import Pretrained
from hierax.processing import (
    Clip,
    HieraImageProcessor,
    HieraVideoProcessor,
    ImageError,
    Preprocessing,
)
from hierax.processing.decode import DEFAULT_MAX_PIXELS
from hierax.processing.frames import FIRST_ONLY
from hierax.processing.paths import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from hierax.processing.record import FILE_NAME, preprocessing_for

CLASSIFIER = "facebook/hiera_base_16x224.mae_k400_ft_k400"
MAE = "facebook/hiera_base_16x224.mae_k400"
Size = int | Sequence[int]
Model = str | os.PathLike[str] | Checkpoint | Pretrained | Engine
_EXPECTED_PATHS = "expected paths of images (hierax.Engine takes images, arrays and tensors)"
_LARGEST_BATCH = 65_536
_CLIPS_AT_ONCE = 4  # clips per call of a model, which limits the memory for many views
_ON_A_GPU = 32
_READERS = 4
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Predictor:
    """An open model, ready to use.

    Attributes:
        task: "classification", "features", "backbone" or "mae".
        preprocessing: how files become pixels, at the requested size.
        how: precision, backend and device, as text.
        batch_size: images per call. Each call has exactly this number, so the result for an image does not depend on
            the other images.
        call: the model or engine: takes pixels `[B, C, *size]`, returns a typed output.
        model: the model itself, if no engine runs it.
        max_pixels: maximum number of pixels of an image; None: no limit.
    """

    task: str
    config: HieraConfig
    preprocessing: Preprocessing
    license: str | None
    how: str
    batch_size: int
    call: Callable[..., Any]
    model: Pretrained | None = None
    max_pixels: int | None = DEFAULT_MAX_PIXELS

    def processor(self) -> HieraImageProcessor | HieraVideoProcessor:
        """The processor that reads the files which this model takes."""
        if self.config.is_video:
            return HieraVideoProcessor(self.preprocessing)
        return HieraImageProcessor(self.preprocessing, max_pixels=self.max_pixels)


def open_predictor(
    model: Model,
    *,
    task: str | None = None,
    out_features: Sequence[str] | None = None,
    size: Size | None = None,
    whole: bool = False,
    device: str = "auto",
    precision: str = "auto",
    backend: str = "auto",
    batch_size: int | None = None,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> Predictor:
    """Prepares a model for use. A model or engine is used as it is; any other source is opened on a new engine.

    Args:
        model: if it is a model or an engine, the arguments from `task` to `backend` are ignored.
        task, out_features, device, precision, backend: see `hierax.Engine`.
        size: side of the square input in pixels, or rows and columns; default: the size of the checkpoint.
        whole: use the whole image; `size` is then its shorter side.
        batch_size: images per call; None: 1 on a CPU, otherwise 32.
        max_pixels: larger images are an error; None: no limit.

    Raises:
        ValueError, OSError, ImportError: see `hierax.Engine`. Also ValueError: the model cannot have this size.
    """
    if batch_size is not None:
        _check_count("batch_size", batch_size, _LARGEST_BATCH)
    if isinstance(model, Pretrained):
        model.eval()
        record = record_at(preprocessing_for(model.config, model.preprocessing), size=size, whole=whole)
        kind = "backbone" if isinstance(model, Hiera) else Signature.of(model).task
        place = model.device
        how = f"{str(model.dtype).removeprefix('torch.').replace('float', 'fp')}, PyTorch on {place.type}"
        batch = batch_size or (1 if place.type == "cpu" else _ON_A_GPU)
        call = lambda x, **o: model(x.to(place), **o)  # noqa: E731
        return Predictor(kind, model.config, record, model.license, how, batch, call, model, max_pixels)
    engine = (
        model
        if isinstance(model, Engine)
        else Engine(model, task=task, out_features=out_features, device=device, precision=precision, backend=backend)
    )
    record = record_at(preprocessing_for(engine.config, engine.processor.record), size=size, whole=whole)
    batch = batch_size or (1 if engine.device.type == "cpu" else _ON_A_GPU)
    if (
        not whole and size is not None and not engine.signature.masked
    ):  # otherwise, the first images run on another backend
        engine.warm_up(size=_pixels(record, engine.config), batches=(batch,))
    how = f"{engine.precision}, {engine.backend} on {engine.device.type}"
    return Predictor(
        engine.signature.task,
        engine.config,
        record,
        engine.license,
        how,
        batch,
        lambda x, **o: engine(x, **o),
        max_pixels=max_pixels,
    )


def image_paths(images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The paths of the caller, one or several, as a list.

    Raises:
        TypeError: an item is not a path; it may be a decoded image, for example.
        ValueError: a path is empty; it would mean the current folder.
    """
    one = isinstance(images, (str, os.PathLike))
    if not one and (not isinstance(images, Iterable) or isinstance(images, (bytes, bytearray))):
        raise TypeError(f"images is a {type(images).__name__}; {_EXPECTED_PATHS}")
    paths: list[Path] = []
    for index, path in enumerate([images] if one else images):
        name = "images" if one else f"images[{index}]"
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"{name} is a {type(path).__name__}; {_EXPECTED_PATHS}")
        if not os.fspath(path):
            raise ValueError(f"{name} is an empty path; {_EXPECTED_PATHS}")
        paths.append(Path(path))
    return paths


def check_no_input(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raises `ValueError` if an output file is one of the inputs. `overwrite` does not allow this."""
    sources = {os.path.realpath(path) for path in inputs}
    for output in outputs:
        if os.path.realpath(output) in sources:
            raise ValueError(
                f"{output} is one of the inputs and would be replaced; choose another place for the output"
            )


def _check_count(name: str, value: object, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or not 1 <= int(value) <= most:
        raise ValueError(f"{name} is {value!r}; expected a whole number from 1 to {most:,}")


def _pixels(record: Preprocessing, config: HieraConfig) -> tuple[int, ...]:
    return (config.image_size[0], *record.fixed_size) if config.is_video else record.fixed_size


def record_at(record: Preprocessing, *, size: Size | None = None, whole: bool = False) -> Preprocessing:
    """A preprocessing record for another `size` (one number, or rows and columns), or for the `whole` image.

    The model sees the same part of the image, because both the resized and the cropped size change. A whole image keeps
    its aspect ratio; its shorter side is `size`.

    Raises:
        ValueError: the model cannot have this size.
    """
    if size is not None:
        _check_size(size)
    if not whole:
        return record if size is None else record.at(size)
    if size is not None and not isinstance(size, int):
        raise ValueError(f"size is {'x'.join(map(str, size))}; expected one number, the shorter side, for whole images")
    return record.whole(size)


def _check_size(size: Size) -> None:
    """Raises `ValueError` if `size` is not a valid size, or has more pixels than an image may have."""
    sides: tuple[Any, ...] = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    if len(sides) != 2 or any(isinstance(side, bool) or not isinstance(side, Integral) or side < 1 for side in sides):
        shown = "x".join(map(str, sides)) if isinstance(size, (list, tuple)) else repr(size)
        raise ValueError(f"size is {shown}; expected one number, or rows and columns")
    if math.prod(sides) > DEFAULT_MAX_PIXELS:
        raise ValueError(
            f"size is {sides[0]} x {sides[1]} pixels; expected at most {DEFAULT_MAX_PIXELS:,} pixels altogether"
        )


class FoundModel:
    """A checkpoint or export. The kind of its inputs is known before its weights are downloaded.

    Attributes:
        takes_clips: whether its inputs are clips, according to its preprocessing record.

    Raises:
        ValueError, OSError: see `hierax.load`.
    """

    def __init__(self, model: str | os.PathLike[str]) -> None:
        self._found: str | os.PathLike[str] | Source | Checkpoint = model
        self.takes_clips = False
        if is_export(model):  # if it has no record, opening it raises the error
            record = (Path(model) if Path(model).is_dir() else Path(model).parent) / FILE_NAME
            self.takes_clips = record.is_file() and Preprocessing.read(record).num_frames is not None
            return
        with suppress(ValueError):  # opening it raises the error; a model of signals has no record
            found = locate(model, HubOptions(), weights=False)
            self._found = found if found.weights is None else read_checkpoint(found, found.hub)
            record = located_preprocessing(found) if isinstance(self._found, Source) else self._found.preprocessing
            self.takes_clips = record is not None and record.num_frames is not None

    def open(self) -> str | os.PathLike[str] | Checkpoint:
        """The open checkpoint, or the path of an export."""
        found = self._found
        return read_checkpoint(found, found.hub) if isinstance(found, Source) else found


def check_inputs(config: HieraConfig, paths: Sequence[Path] = ()) -> None:
    """Checks that a model takes images or clips, and that the names of the files have suffixes of this kind.

    Raises:
        ValueError: the model takes signals or volumes; or a file is a video and the model takes images, or the reverse.
    """
    if config.axes != 2 and not config.is_video:
        raise ValueError(f"this model takes {config.axes}-D inputs; expected a model of images or of videos")
    images = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
    if images and config.is_video:
        raise ValueError(f"{images[0]} is an image and this model takes clips; expected videos")
    videos = [path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES]
    if videos and not config.is_video:
        raise ValueError(
            f"{videos[0]} is a video and this model takes images; --model {CLASSIFIER}, for example, takes clips"
        )


@dataclass(frozen=True)
class Answer(Generic[_Result]):
    """The result of a model for a file, and the pixels `[1, C, *size]`; or the error."""

    path: Path
    pixels: Tensor | None = None
    result: _Result | None = None
    error: ImageError | None = None


def stream(
    paths: Sequence[Path],
    read: Callable[[Path], Tensor],
    ask: Callable[[Tensor], Sequence[_Result]],
    *,
    batch_size: int,
) -> Iterator[Answer[_Result]]:
    """Yields the results in the order of the paths. The next files are read while the model is running.

    Args:
        read: takes a path, returns pixels `[1, C, *size]`. If it raises ImageError or OSError, the answer for this file
            has the error, and the other files are still read.
        ask: takes pixels `[batch_size, C, *size]`, returns a list of results.
        batch_size: the number of images of each call of `ask`.
    """
    with FIRST_ONLY.report_at_end():
        waiting: list[Answer[_Result]] = []
        for path, outcome in _read_ahead(paths, read, ahead=2 * batch_size + _READERS):
            pixels = outcome if isinstance(outcome, Tensor) else None
            full = [answer.pixels for answer in waiting if answer.pixels is not None]
            if pixels is not None and full and full[0].shape != pixels.shape:
                yield from _answer(waiting, ask, batch_size)
                waiting, full = [], []
            waiting.append(Answer(path, pixels, error=None if isinstance(outcome, Tensor) else outcome))
            if pixels is not None and len(full) + 1 == batch_size:
                yield from _answer(waiting, ask, batch_size)
                waiting = []
        yield from _answer(waiting, ask, batch_size)


def _answer(
    waiting: Sequence[Answer[_Result]], ask: Callable[[Tensor], Sequence[_Result]], batch_size: int
) -> Iterator[Answer[_Result]]:
    """Yields the waiting answers with their results, which one call of the model gives."""
    pixels = [answer.pixels for answer in waiting if answer.pixels is not None]
    if not pixels:
        yield from waiting
        return
    batch = torch.cat([*pixels, *pixels[-1:] * (batch_size - len(pixels))])
    with torch.inference_mode():
        results = iter(ask(batch))
    for answer in waiting:
        yield answer if answer.pixels is None else Answer(answer.path, answer.pixels, next(results))


def _read_ahead(
    paths: Sequence[Path], read: Callable[[Path], Tensor], *, ahead: int
) -> Iterator[tuple[Path, Tensor | ImageError]]:
    """Yields each path with its pixels or its error, in order. Up to `ahead` files are read in advance."""

    def outcome(path: Path) -> Tensor | ImageError:
        try:
            return read(path)
        except ImageError as error:
            return error
        except OSError as error:
            return ImageError(str(path), error.strerror or str(error))

    count = max(min(_READERS, (os.cpu_count() or 1) - 1), 1)  # more threads would use the cores of the model
    readers = ThreadPoolExecutor(count, thread_name_prefix="hierax-read")
    pending, rest = deque[tuple[Path, "Future[Tensor | ImageError]"]](), iter(paths)
    try:
        while True:
            pending.extend((path, readers.submit(outcome, path)) for path in islice(rest, ahead - len(pending)))
            if not pending:
                return
            path, future = pending.popleft()
            yield path, future.result()
    finally:
        readers.shutdown(wait=False, cancel_futures=True)


def not_finite(path: Path, values: Iterable[Tensor]) -> ImageError | None:
    """The error for a file if the output of the model is not finite; None if it is finite."""
    if all(bool(torch.isfinite(one).all()) for one in values):
        return None
    return ImageError(str(path), "the output of the model is not finite (is the model damaged?)")


def clip_batches(clips: Sequence[Clip]) -> list[Tensor]:
    """Groups clips into batches `[B, C, T, H, W]`, B at most 4."""
    import numpy as np

    return [
        torch.from_numpy(np.stack([clip.pixels for clip in clips[i : i + _CLIPS_AT_ONCE]]))
        for i in range(0, len(clips), _CLIPS_AT_ONCE)
    ]
