"""Reconstructs the masked parts of images and videos with a masked autoencoder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hierax.arguments import check_count
from hierax.checkpoint.bundled import FEMTO_MAE
from hierax.checkpoint.opened import Checkpoint, open_checkpoint
from hierax.engine.backends.exported import is_export
from hierax.model.config import HieraConfig
from hierax.model.encoder import visible_units
from hierax.model.mae import check_mae_size, masked_loss, random_keep
from hierax.model.registry import TASKS
from hierax.predict.inputs import MAE, check_inputs, image_paths, not_finite, read_pixels, stream
from hierax.predict.predictor import Model, Predictor, Size, open_predictor
from hierax.processing import DEFAULT_MAX_PIXELS, HieraVideoProcessor, ImageError
from hierax.reprs.markup import html_repr
from hierax.reprs.text import short_repr

if TYPE_CHECKING:
    from hierax.viz.animation import Animation
    from hierax.viz.reconstruction import Statistics
    from hierax.viz.sheets import Tile


@short_repr(changed=True)
@dataclass(frozen=True)
class Reconstruction:
    """Three images with captions: the original, the visible part, the reconstruction. For a video, the same for its
    frames. Or the error if the file cannot be read.
    """

    path: Path
    tiles: tuple[Tile, ...] = ()
    animation: Animation | None = None
    error: ImageError | None = None

    @html_repr
    def _repr_html_(self) -> str:
        from hierax.predict.cards import reconstruction

        return reconstruction(self)

    @property
    def moving(self) -> Animation | None:
        """The former name of `animation`."""
        return self.animation


def reconstruct(
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    model: Model = FEMTO_MAE,
    mask_ratio: float | None = None,
    seed: int = 0,
    statistics: Statistics = "visible",
    size: Size | None = None,
    device: str = "auto",
    precision: str = "auto",
    backend: str = "auto",
    batch_size: int | None = None,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> Iterator[Reconstruction]:
    """Yields the reconstruction of each image, or of the middle of each video, in the order of the paths.

    Args:
        images: paths of images, or of videos for a video model.
        model: a Hub id, folder, file or export, which runs on an engine; or an MAE model or engine, which is used as it
            is.
        mask_ratio: fraction of the mask units to hide, between 0 and 1; None: the ratio of the model.
        seed: seed of the random mask; the same units are hidden in every image.
        statistics: source of the brightness and contrast of masked patches, "visible" or "true"; see
            `viz.reconstruct_pixels`.
        size: side of the square input in pixels, or rows and columns; default: the size of the checkpoint.
        device, precision, backend: see `hierax.Engine`. On a CPU, backend="auto" is PyTorch for few images: for these,
            opening a faster backend would take longer.
        batch_size: images per call of the model; None: 1 on a CPU, otherwise 32.
        max_pixels: larger images are an error; None: no limit.

    Raises:
        ValueError: the model is not an MAE model, or takes neither images nor clips; or the ratio hides all units or no
            unit; or the size is not a multiple of the mask unit; see also `hierax.Engine`.
        OSError: see `hierax.load`.
    """
    paths = image_paths(images)
    predictor = open_mae(
        model,
        size=size,
        device=device,
        precision=precision,
        backend=backend,
        batch_size=batch_size,
        max_pixels=max_pixels,
        inputs=len(paths),
    )
    return reconstructions(predictor, paths, mask_ratio=mask_ratio, seed=seed, statistics=statistics)


def open_mae(model: Model, *, size: Size | None = None, **engine: Any) -> Predictor:
    """Opens an MAE model. `engine`: see `open_predictor`.

    Raises:
        ValueError: it is not an MAE model, or it has no decoder.
    """
    if isinstance(model, (str, os.PathLike, Checkpoint)) and not is_export(model):
        model = open_checkpoint(model)
        if not {task.part for task in TASKS.values() if task.labels or task.masked} & model.parts:
            raise ValueError(
                f"{model.name} is an encoder without a decoder (as written by hierax.inflate, or by pretraining with "
                f"target=hog); reconstruct needs an MAE model, such as {FEMTO_MAE}"
            )
    predictor = open_predictor(model, size=size, **engine)
    check_inputs(predictor.config)
    if not TASKS[predictor.task].masked:
        example = MAE if predictor.config.is_video else FEMTO_MAE
        raise ValueError(f"this model is for {predictor.task}; reconstruct needs an MAE model, such as {example}")
    return predictor


def reconstructions(
    predictor: Predictor,
    paths: Sequence[Path],
    *,
    mask_ratio: float | None = None,
    seed: int = 0,
    statistics: Statistics = "visible",
) -> Iterator[Reconstruction]:
    """Like `reconstruct`, with a model that is already open."""
    from hierax.viz.fonts import drawable_names

    check_inputs(predictor.config, paths)
    steps = _Steps(predictor, mask_ratio=mask_ratio, seed=seed, statistics=statistics)
    video = predictor.config.is_video
    titles = drawable_names([path.name for path in paths], kind="video" if video else "image")
    answers = stream(
        paths, partial(read_pixels, steps.processor), steps.predict, batch_size=1 if video else predictor.batch_size
    )
    for title, answer in zip(titles, answers, strict=True):
        if answer.result is None or answer.pixels is None:
            yield Reconstruction(answer.path, error=answer.error)
        elif (wrong := not_finite(answer.path, [answer.result])) is not None:
            yield Reconstruction(answer.path, error=wrong)
        else:
            yield steps.draw(answer.path, answer.pixels, answer.result, title=title)


class _Steps:
    """From a file to its reconstruction: the steps, with an open model."""

    def __init__(self, predictor: Predictor, *, mask_ratio: float | None, seed: int, statistics: Statistics) -> None:
        self.predictor, self.processor = predictor, predictor.processor()
        self.mask_ratio, self.seed = mask_ratio, seed
        self.statistics: Statistics = statistics

    def predict(self, pixels: Tensor) -> Sequence[Tensor]:
        """The reconstructions `[C, *size]` of a batch."""
        keep = self._keep(pixels).expand(len(pixels), -1)
        made = reconstruct_batch(self.predictor, pixels, keep, statistics=self.statistics)
        return [image for image, _ in made]

    def draw(self, path: Path, pixels: Tensor, result: Tensor, *, title: str) -> Reconstruction:
        """The images of pixels `[1, C, *size]` and their reconstruction `made`."""
        from hierax.viz.animation import reconstructed_clip

        predictor, keep = self.predictor, self._keep(pixels)
        if not isinstance(self.processor, HieraVideoProcessor):
            tiles = reconstruction_tiles(predictor, pixels, result, keep, statistics=self.statistics, title=title)
            return Reconstruction(path, tiles)
        animation = reconstructed_clip(
            pixels,
            result,
            keep,
            config=predictor.config,
            record=predictor.preprocessing,
            statistics=self.statistics,
            seconds=float(self.processor.sampling.span),
            title=title,
        )
        return Reconstruction(path, animation=animation)

    def _keep(self, pixels: Tensor) -> Tensor:
        return draw_keep(self.predictor.config, tuple(pixels.shape[2:]), mask_ratio=self.mask_ratio, seed=self.seed)


def reconstruct_batch(
    predictor: Predictor, pixels: Tensor, keep: Tensor, *, statistics: Statistics = "visible"
) -> list[tuple[Tensor, float]]:
    """The reconstruction `[C, *size]` of each image in `pixels` `[B, C, *size]`, and its loss: the mean squared error
    over the hidden patches.

    In `keep` `[B, U]`, True means that a mask unit is visible; every image keeps the same number.

    Raises:
        ValueError: a shape is wrong, or no unit or all units are hidden.
    """
    from hierax.viz.reconstruction import reconstruct_pixels

    out = predictor.call(pixels, keep=keep)
    logits, visible = out.logits.float().cpu(), out.bool_masked_pos.cpu()
    pixels, config = pixels.cpu(), predictor.config
    made = reconstruct_pixels(pixels, logits, visible, config=config, statistics=statistics)
    rows = [slice(row, row + 1) for row in range(len(pixels))]
    losses = [float(masked_loss(logits[row], pixels[row], visible[row], config)) for row in rows]
    return list(zip(made.unbind(), losses, strict=True))


def draw_keep(config: HieraConfig, size: tuple[int, ...], *, mask_ratio: float | None, seed: int) -> Tensor:
    """A random mask `[1, U]` of booleans: True means that a mask unit is visible. The same `seed` gives the same mask.

    Raises:
        ValueError: the ratio is not a number, or hides all units or no unit; or the size is not a multiple of the mask
            unit.
    """
    check_mae_size(size, config)
    seed = check_count("seed", seed, least=0, most=2**63 - 1)
    count = torch.Size(config.unit_grid(size)).numel()
    ratio = config if mask_ratio is None else config.replace(mask_ratio=mask_ratio)
    noise = torch.rand(1, count, generator=torch.Generator().manual_seed(seed))
    kept, _ = random_keep(noise, visible_units(ratio, count))
    return torch.zeros(1, count, dtype=torch.bool).scatter(1, kept, True)


def reconstruction_tiles(
    predictor: Predictor, pixels: Tensor, result: Tensor, keep: Tensor, *, statistics: Statistics, title: str
) -> tuple[Tile, Tile, Tile]:
    """The tiles of the original `pixels` `[1, C, H, W]`, the masked image and the reconstruction `result` `[C, H, W]`.

    In `keep` `[1, U]`, True means that a mask unit is visible.
    """
    from hierax.viz.animation import reconstruction_captions
    from hierax.viz.maps import to_image
    from hierax.viz.reconstruction import draw_units
    from hierax.viz.sheets import Tile

    config, record = predictor.config, predictor.preprocessing
    picture, shown = to_image(pixels[0], record=record), keep[0].numpy()
    masked = draw_units(picture, unit=config.unit_pixels, keep=shown)
    images = (picture, masked, to_image(result, record=record))
    captions = reconstruction_captions(config, pixels.shape[2:], shown, statistics, title=title)
    first, second, third = (Tile(image, *caption) for image, caption in zip(images, captions, strict=True))
    return first, second, third
