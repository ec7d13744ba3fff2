"""Opens a model once, checks its inputs, and reads them in threads while the model works."""

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
_CLIPS_AT_ONCE = 4  # pixels per call of a model: limits the memory of many views
_ON_A_GPU = 32
_READERS = 4
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Predictor:
    """An open model, ready to use.

    Attributes:
        task: "classification", "features", "backbone" or "mae".
        preprocessing: how files become pixels, at the requested size.
        how: precision, backend and device as text.
        batch_size: images per call. Each call has exactly this number, so the result for an image does not depend on
            the other images.
        call: the model or engine, from pixels `[B, C, *size]` to its typed output.
        model: the model itself where no engine runs it.
        max_pixels: largest number of pixels of an image; None is any number.
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
        """The reader for the files that this model takes."""
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
    """Opens a model or engine as it is; opens a Hub id, folder, file or export on a new engine.

    Args:
        model: if it is a model or an engine, the arguments from `task` to `backend` are ignored.
        task, out_features, device, precision, backend: see `hierax.Engine`.
        size: pixels of the square that the model sees, or rows and columns, instead of the checkpoint's.
        whole: the whole image, `size` being its shorter side.
        batch_size: images per call; None is 1 on a CPU and 32 elsewhere.
        max_pixels: images of more pixels are refused; None is any number.

    Raises:
        ValueError, OSError, ImportError: see `hierax.Engine`; ValueError also for a size that the model cannot have.
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
    if not whole and size is not None and not engine.signature.masked:  # else the first images run on another backend
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
    """The caller's paths, one or several, as a list.

    Raises:
        TypeError: an item is not a path, for example a decoded image.
        ValueError: an empty path, which would be the current folder.
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
    """Raises `ValueError` if an output file is one of the inputs, even with `overwrite`."""
    read = {os.path.realpath(path) for path in inputs}
    for output in outputs:
        if os.path.realpath(output) in read:
            raise ValueError(
                f"{output} is one of the inputs and would be replaced; choose another place for the output"
            )


def _check_count(name: str, value: object, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or not 1 <= int(value) <= most:
        raise ValueError(f"{name} is {value!r}; expected a whole number from 1 to {most:,}")


def _pixels(record: Preprocessing, config: HieraConfig) -> tuple[int, ...]:
    return (config.image_size[0], *record.fixed_size) if config.is_video else record.fixed_size


def record_at(record: Preprocessing, *, size: Size | None = None, whole: bool = False) -> Preprocessing:
    """A preprocessing record for another `size`, one number or rows and columns, or for the `whole` image.

    The visible part of the image stays the same: both the resize and the crop grow. A whole image keeps its shape;
    its shorter side is `size`.

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
    """Raises `ValueError` if `size` is not a size, or has more pixels than any image that is decoded."""
    sides: tuple[Any, ...] = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    if len(sides) != 2 or any(isinstance(side, bool) or not isinstance(side, Integral) or side < 1 for side in sides):
        shown = "x".join(map(str, sides)) if isinstance(size, (list, tuple)) else repr(size)
        raise ValueError(f"size is {shown}; expected one number, or rows and columns")
    if math.prod(sides) > DEFAULT_MAX_PIXELS:
        raise ValueError(
            f"size is {sides[0]} x {sides[1]} pixels; expected at most {DEFAULT_MAX_PIXELS:,} pixels altogether"
        )


class FoundModel:
    """A checkpoint or export that was looked up: what it takes is known before its weights are fetched.

    Attributes:
        takes_clips: whether its inputs are clips, by its preprocessing record.

    Raises:
        ValueError, OSError: see `hierax.load`.
    """

    def __init__(self, model: str | os.PathLike[str]) -> None:
        self._found: str | os.PathLike[str] | Source | Checkpoint = model
        self.takes_clips = False
        if is_export(model):  # one without a record is an error that opening it raises
            record = (Path(model) if Path(model).is_dir() else Path(model).parent) / FILE_NAME
            self.takes_clips = record.is_file() and Preprocessing.read(record).num_frames is not None
            return
        with suppress(ValueError):  # opening it raises the error; no record: a model of signals, for example
            found = locate(model, HubOptions(), weights=False)
            self._found = found if found.weights is None else read_checkpoint(found, found.hub)
            record = located_preprocessing(found) if isinstance(self._found, Source) else self._found.preprocessing
            self.takes_clips = record is not None and record.num_frames is not None

    def open(self) -> str | os.PathLike[str] | Checkpoint:
        """The open checkpoint, or the path of an export."""
        found = self._found
        return read_checkpoint(found, found.hub) if isinstance(found, Source) else found


def check_inputs(config: HieraConfig, paths: Sequence[Path] = ()) -> None:
    """Checks that a model takes images or clips, and that the files are of the right kind, by their names.

    Raises:
        ValueError: the model takes signals or volumes; or it gets videos for images, or images for clips.
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
    """A model's result for a file, with the pixels `[1, C, *size]`; or the error."""

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
    """Yields the results in the order of the paths. The next files are read while the model works.

    Args:
        read: from a path to pixels `[1, C, *size]`; after an ImageError or OSError only this file has an error.
        ask: from pixels `[batch_size, C, *size]` to a list of results.
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
    """The answers with their results, from one call of the model."""
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
    """Yields the content of each path, in order; up to `ahead` files are read in advance."""

    def outcome(path: Path) -> Tensor | ImageError:
        try:
            return read(path)
        except ImageError as error:
            return error
        except OSError as error:
            return ImageError(str(path), error.strerror or str(error))

    count = max(min(_READERS, (os.cpu_count() or 1) - 1), 1)  # more would take the model's cores
    readers = ThreadPoolExecutor(count, thread_name_prefix="hierax-read")
    coming, left = deque[tuple[Path, "Future[Tensor | ImageError]"]](), iter(paths)
    try:
        while True:
            coming.extend((path, readers.submit(outcome, path)) for path in islice(left, ahead - len(coming)))
            if not coming:
                return
            path, future = coming.popleft()
            yield path, future.result()
    finally:
        readers.shutdown(wait=False, cancel_futures=True)


def not_finite(path: Path, values: Iterable[Tensor]) -> ImageError | None:
    """The error for a file if the model's output is not finite; None if it is."""
    if all(bool(torch.isfinite(one).all()) for one in values):
        return None
    return ImageError(str(path), "what the model gives is not finite (is the model damaged?)")


def clip_batches(clips: Sequence[Clip]) -> list[Tensor]:
    """Clips as batches `[B, C, T, H, W]`."""
    import numpy as np

    return [
        torch.from_numpy(np.stack([clip.pixels for clip in clips[i : i + _CLIPS_AT_ONCE]]))
        for i in range(0, len(clips), _CLIPS_AT_ONCE)
    ]
