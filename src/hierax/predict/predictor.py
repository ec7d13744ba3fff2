"""Opens a model once, ready to be asked."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import TYPE_CHECKING, Any

from hierax.arguments import check_count
from hierax.checkpoint.files import Source, locate
from hierax.checkpoint.hub import HubOptions
from hierax.checkpoint.opened import Checkpoint, open_checkpoint, read_checkpoint
from hierax.checkpoint.preprocessing import located_preprocessing
from hierax.engine import Engine
from hierax.engine.backends.exported import export_preprocessing, is_export
from hierax.engine.hardware import backend_for, threads_beside
from hierax.engine.signature import Signature
from hierax.model.config import HieraConfig
from hierax.model.encoder import Hiera
from hierax.model.pretrained import Pretrained
from hierax.model.segmentation import HieraForSemanticSegmentation
from hierax.predict.class_activation import evaluating
from hierax.predict.inputs import reading_threads
from hierax.processing import HieraImageProcessor, HieraVideoProcessor, Preprocessing
from hierax.processing.decode import DEFAULT_MAX_PIXELS
from hierax.processing.defaults import preprocessing_for

if TYPE_CHECKING:
    from torch import Tensor

Size = int | Sequence[int]
Model = str | os.PathLike[str] | Checkpoint | Pretrained | Engine
_LARGEST_BATCH = 65_536
_ON_A_GPU = 32  # images per call, where no number is given


@dataclass(frozen=True)
class Predictor:
    """An open model, ready to use.

    Attributes:
        task: "classification", "segmentation", "features", "backbone" or "mae".
        preprocessing: how files become pixels, at the requested size.
        how: precision, backend and device, as text.
        batch_size: images per call. Each call has exactly this number, so the result for an image does not depend on
            the other images.
        call: the model or engine: takes pixels `[B, C, *size]`, returns a typed output.
        model: the model itself, if no engine runs it.
        max_pixels: maximum number of pixels of an image; None: no limit.
        engine: the engine, if one runs the model.
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
    engine: Engine | None = None

    def processor(self) -> HieraImageProcessor | HieraVideoProcessor:
        """The processor that reads the files which this model takes."""
        if self.config.is_video:
            return HieraVideoProcessor(self.preprocessing)
        return HieraImageProcessor(self.preprocessing, max_pixels=self.max_pixels)

    def coarse_logits(self, pixels: Tensor) -> Tensor:
        """Of a segmentation model: logits `[B, num_labels, ceil(H / 4), ceil(W / 4)]` of pixels `[B, C, H, W]`."""
        if self.engine is not None:
            return self.engine.coarse_logits(pixel_values=pixels)
        assert isinstance(self.model, HieraForSemanticSegmentation)
        with evaluating(self.model):
            return self.model.coarse_logits(pixels.to(self.model.device))


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
    inputs: int | None = None,
) -> Predictor:
    """Prepares a model for use. A model or engine is used as it is; any other source is opened on a new engine.

    Args:
        model: if it is a model or an engine, the arguments from `task` to `backend` are ignored.
        task, out_features, device, precision, backend: see `hierax.Engine`.
        size: side of the square input in pixels, or rows and columns; default: the size of the checkpoint.
        whole: use the whole image; `size` is then its shorter side.
        batch_size: images per call; None: 1 on a CPU, otherwise 32.
        max_pixels: larger images are an error; None: no limit.
        inputs: number of images or clips, if it is known. With backend="auto", few inputs run on PyTorch; see
            `hierax.engine.hardware.backend_for`.

    Raises:
        ValueError, OSError, ImportError: see `hierax.Engine`. Also ValueError: the model cannot have this size.
    """
    if batch_size is not None:
        check_count("batch_size", batch_size, most=_LARGEST_BATCH)
    if isinstance(model, Pretrained):
        record = record_at(preprocessing_for(model.config, model.preprocessing), size=size, whole=whole)
        kind = "backbone" if isinstance(model, Hiera) else Signature.of(model).task
        place = model.device
        how = f"{str(model.dtype).removeprefix('torch.').replace('float', 'fp')}, torch on {place.type}"
        batch = batch_size or (1 if place.type == "cpu" else _ON_A_GPU)
        call = partial(_call, model)
        return Predictor(kind, model.config, record, model.license, how, batch, call, model, max_pixels)
    threads = None
    if inputs is not None and backend == "auto" and not isinstance(model, Engine) and not is_export(model):
        model = open_checkpoint(model)
        sides = None if size is None else _sides(size)
        backend = backend_for(inputs, model.config, backend=backend, precision=precision, size=sides)
        if backend == "torch" and inputs > 1:
            threads = threads_beside(reading_threads(), model.config, size=sides)
    engine = (
        model
        if isinstance(model, Engine)
        else Engine(
            model,
            task=task,
            out_features=out_features,
            device=device,
            precision=precision,
            backend=backend,
            threads=threads,
        )
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
        engine=engine,
    )


def _call(model: Pretrained, pixels: Tensor, **options: Any) -> Any:
    """The output in eval mode; the model of the caller keeps its mode."""
    with evaluating(model):
        return model(pixels.to(model.device), **options)


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
        _sides(size)
    if not whole:
        return record if size is None else record.at(size)
    if size is not None and not isinstance(size, int):
        raise ValueError(f"size is {'x'.join(map(str, size))}; expected one number, the shorter side, for whole images")
    return record.whole(size)


def _sides(size: Size) -> tuple[int, int]:
    """Rows and columns. Raises `ValueError` if `size` is not valid, or has more pixels than an image may have."""
    sides: tuple[Any, ...] = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    if len(sides) != 2 or any(isinstance(side, bool) or not isinstance(side, Integral) or side < 1 for side in sides):
        shown = "x".join(map(str, sides)) if isinstance(size, (list, tuple)) else repr(size)
        raise ValueError(f"size is {shown}; expected one number, or rows and columns")
    if math.prod(sides) > DEFAULT_MAX_PIXELS:
        raise ValueError(
            f"size is {sides[0]} x {sides[1]} pixels; expected at most {DEFAULT_MAX_PIXELS:,} pixels altogether"
        )
    return int(sides[0]), int(sides[1])


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
            record = export_preprocessing(model)
            self.takes_clips = record is not None and record.num_frames is not None
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
