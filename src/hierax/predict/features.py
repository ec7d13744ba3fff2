"""Writes the feature maps of every stage of a model, as arrays and as an image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hierax.atomic import atomic_write
from hierax.checkpoint.bundled import FEMTO
from hierax.checkpoint.opened import Checkpoint, open_checkpoint
from hierax.devices import find_device
from hierax.engine.backends.exported import is_export
from hierax.model.config import HieraConfig
from hierax.model.encoder import Hiera
from hierax.model.registry import TASKS
from hierax.model.tasks import HieraBackbone
from hierax.predict.inputs import (
    Overwrite,
    check_inputs,
    check_outputs,
    image_paths,
    not_finite,
    read_pixels,
    stream,
)
from hierax.predict.predictor import Model, Predictor, Size, open_predictor
from hierax.predict.unread import WrittenWhenRead
from hierax.processing import DEFAULT_MAX_PIXELS, HieraVideoProcessor, ImageError, Preprocessing
from hierax.reprs.markup import html_repr
from hierax.reprs.text import short_repr

if TYPE_CHECKING:
    from PIL import Image

    from hierax.viz.sheets import Tile

_LONGEST = 200  # maximum length in bytes of the name of an output, without its suffix


@short_repr(hidden=("config",))
@dataclass(frozen=True)
class StageMaps:
    """The feature maps of one image or clip.

    Attributes:
        size: pixels per axis of the input.
        maps: the map `[C, *grid]` of each stage ("stage1", …), and of each level of a neck ("p1", …).
        attentions: weights `[1, N, windows, queries, keys]` of the last block of each stage, if requested.
    """

    config: HieraConfig
    size: tuple[int, ...]
    maps: dict[str, Tensor]
    attentions: tuple[Tensor, ...] | None = None


@short_repr()
@dataclass(frozen=True)
class FeatureFiles:
    """The files that were written for an image, or the error if it cannot be read."""

    path: Path
    arrays: Path | None = None
    image: Path | None = None
    error: ImageError | None = None

    @html_repr
    def _repr_html_(self) -> str:
        from hierax.predict.cards import feature_files

        return feature_files(self)

    @property
    def picture(self) -> Path | None:
        """The former name of `image`."""
        return self.image


def features(
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    model: Model = FEMTO,
    attention: bool = False,
    size: Size | None = None,
    whole: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    precision: str = "auto",
    backend: str = "auto",
    batch_size: int | None = None,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> Iterator[FeatureFiles]:
    """Writes `NAME.npz` and `NAME.png` (for a video `NAME.gif`) into the folder `output`, and yields their paths.

    Each file is written when its result is read: `list(hierax.features(…))` writes all files.

    Args:
        images: paths of images, or of videos for a video model.
        output: the folder, created if missing.
        model: a Hub id, folder, file or export, which runs on an engine; or a model or engine, which is used as it is.
        attention: also draw mask units and attention (images only). The model then runs in PyTorch and fp32.
        size: side of the square input in pixels, or rows and columns; default: the size of the checkpoint.
        whole: use the whole image instead of its center; `size` is then its shorter side.
        overwrite: replace existing files.
        device, precision, backend: see `hierax.Engine`. On a CPU, backend="auto" is PyTorch for few images: for these,
            opening a faster backend would take longer.
        batch_size: images per call of the model; None: 1 on a CPU, otherwise 32.
        max_pixels: larger images are an error; None: no limit.

    Raises:
        ValueError: the model takes neither images nor clips, or is an export without feature maps; or a file already
            exists (checked before anything is written); see also `hierax.Engine`.
        OSError: a file cannot be written; see also `hierax.load`.
    """
    paths = image_paths(images)
    predictor = open_features(
        model,
        attention=attention,
        size=size,
        whole=whole,
        device=device,
        precision=precision,
        backend=backend,
        batch_size=batch_size,
        max_pixels=max_pixels,
        inputs=len(paths),
    )
    files = feature_files(paths, output, overwrite=overwrite, clips=predictor.config.is_video)
    return WrittenWhenRead(write_features(predictor, paths, files, attention=attention), "features")


def open_features(
    model: Model, *, attention: bool = False, size: Size | None = None, whole: bool = False, **engine: Any
) -> Predictor:
    """Opens a model that returns feature maps. `engine`: see `open_predictor`."""
    if isinstance(model, (str, os.PathLike, Checkpoint)) and not is_export(model):
        model = open_checkpoint(model)
        config = model.config
        names = [*(config.feature_names if "pyramid" in model.parts else config.stage_names)[1:]]
        if attention:
            place = find_device(engine["device"])
            model = HieraBackbone.from_pretrained(model, out_features=names, device=place)
        else:
            engine.update(task="backbone", out_features=names)
    predictor = open_predictor(model, size=size, whole=whole, **engine)
    check_inputs(predictor.config)
    if predictor.model is None and not TASKS[predictor.task].maps:
        raise ValueError(
            f"{model} is for {predictor.task} and returns no feature maps; expected a checkpoint, or an export made "
            "with --task backbone"
        )
    if predictor.model is None and attention:
        raise ValueError("attention was requested, but engines and exports do not return it; expected a checkpoint")
    return predictor


def stage_maps(predictor: Predictor, pixels: Tensor, *, attention: bool = False) -> list[StageMaps]:
    """The feature maps of each image or clip in `pixels` `[B, C, *size]`."""
    config, size = predictor.config, tuple(pixels.shape[2:])
    attentions: tuple[Tensor, ...] | None = None
    if predictor.model is None:
        maps = dict(zip(config.map_names, predictor.call(pixels).feature_maps, strict=True))
    else:
        model = predictor.model
        encoder = model if isinstance(model, Hiera) else model.get_submodule("encoder")
        place = model.device
        output = encoder(pixels.to(place), stages=range(config.stages + 1), output_attentions=attention)
        maps = {name: output.map(stage) for stage, name in enumerate(config.stage_names)}
        if isinstance(model, HieraBackbone) and model.pyramid is not None:
            maps |= zip(model.out_features, model.maps_of(output), strict=True)
        attentions = output.attentions
    return [
        StageMaps(
            config,
            size,
            {name: values[row].float().cpu() for name, values in maps.items() if name != "stem"},
            None if attentions is None else tuple(weights[row : row + 1].cpu() for weights in attentions),
        )
        for row in range(len(pixels))
    ]


def similarity(feature_map: Tensor, cell: tuple[int, int]) -> Tensor:
    """How similar every cell of a map `[C, h, w]` is to the one in row and column `cell`.

    Returns:
        The cosines `[h, w]` in float32, -1 to 1; 0 where a cell has only zeros.
    """
    cells = torch.nn.functional.normalize(feature_map.double().flatten(1), dim=0)
    found = cells.T @ cells[:, cell[0] * feature_map.shape[2] + cell[1]]
    return found.clamp(-1, 1).view(feature_map.shape[1:]).float()


def write_features(
    predictor: Predictor, paths: Sequence[Path], files: Sequence[tuple[Path, Path]], *, attention: bool = False
) -> Iterator[FeatureFiles]:
    """Like `features`, with an open model. `files` contains the paths of the arrays and of the image for each input."""
    from hierax.viz.fonts import drawable_names

    check_inputs(predictor.config, paths)
    processor, record = predictor.processor(), predictor.preprocessing
    video = isinstance(processor, HieraVideoProcessor)
    answers = stream(
        paths,
        partial(read_pixels, processor),
        lambda pixels: stage_maps(predictor, pixels, attention=attention),
        batch_size=1 if video else predictor.batch_size,
    )
    headings = drawable_names([path.name for path in paths], kind="video" if video else "image")
    for heading, answer, (arrays, image) in zip(headings, answers, files, strict=True):
        if answer.result is None or answer.pixels is None:
            yield FeatureFiles(answer.path, error=answer.error)
            continue
        if (wrong := not_finite(answer.path, answer.result.maps.values())) is not None:
            yield FeatureFiles(answer.path, error=wrong)
            continue
        _save_arrays(answer.result, arrays)
        if isinstance(processor, HieraVideoProcessor):
            _save_clip(answer.result, answer.pixels, processor, record, picture=image, heading=heading)
        else:
            _save_image(answer.result, answer.pixels, record, picture=image, heading=heading)
        yield FeatureFiles(answer.path, arrays, image)


def feature_files(
    images: Sequence[Path], output: str | os.PathLike[str], *, overwrite: Overwrite = False, clips: bool = False
) -> list[tuple[Path, Path]]:
    """The paths that `features` writes for each image (for each video if `clips`): the arrays and the image.

    Raises:
        ValueError: `output` is empty; or see `hierax.predict.inputs.check_outputs`.
    """
    if not os.fspath(output):
        raise ValueError("output is an empty path; expected a folder to write to")
    stems = [Path(output, name) for name in output_names(images)]
    files = [(Path(f"{stem}.npz"), Path(f"{stem}.{'gif' if clips else 'png'}")) for stem in stems]
    check_outputs([file for pair in files for file in pair], images, overwrite=overwrite)
    return files


def output_names(paths: Sequence[Path]) -> list[str]:
    """A unique name for each image, without suffix.

    It is the name of the image if that is unique. Otherwise, the folders that differ are added (`a-cat`, `b-cat`), then
    the suffix (`cat.jpg`, `cat.png`), then a number. Names that differ only in case count as equal, because they are
    equal on some file systems.
    """
    absolute = [Path(os.path.abspath(path)) for path in paths]
    columns = zip(*(path.parts[:-1] for path in absolute), strict=False)
    shared_folders = len(list(takewhile(lambda parts: len(set(parts)) == 1, columns)))
    choices: list[tuple[str, ...]] = []
    for number, path in enumerate(absolute, start=1):
        apart = [part for part in path.parts[shared_folders:] if part != path.anchor]
        whole = "-".join(apart)
        choices.append((path.stem, whole.removesuffix(path.suffix), whole, f"{whole}-{number}"))
    level = [0] * len(paths)
    while True:
        names = [_truncate(choice[i], number) for number, (choice, i) in enumerate(zip(choices, level, strict=True))]
        counts = Counter(name.casefold() for name in names)
        shared = [i for i, name in enumerate(names) if counts[name.casefold()] > 1 and level[i] < len(choices[i]) - 1]
        if not shared:
            return names
        for i in shared:
            level[i] += 1


def _truncate(name: str, number: int) -> str:
    """Cuts a long name, so that there is room for a suffix. A number is added, so that the names still differ."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= _LONGEST else f"{encoded[:_LONGEST].decode('utf-8', 'ignore')}-{number + 1}"


def _save_arrays(outputs: StageMaps, arrays: Path) -> None:
    import numpy as np

    maps = {name: values.numpy() for name, values in outputs.maps.items()}
    with atomic_write(arrays, sync=False) as part:
        np.savez(part, **maps)  # type: ignore[arg-type]  # the stubs confuse names of arrays with the only option


def _save_image(outputs: StageMaps, pixels: Tensor, record: Preprocessing, *, picture: Path, heading: str) -> None:
    from hierax.viz.sheets import sheet

    size = " x ".join(str(n) for n in reversed(outputs.size))
    with atomic_write(picture, sync=False) as part:
        note = f"{size} pixels, as the model sees them. Colors are the first three principal components of each map."
        note += "" if outputs.attentions is None else " Attention: bright areas get more attention than dark ones."
        sheet(feature_tiles(outputs, pixels[0], record=record), heading=heading, note=note).save(part)


def _save_clip(
    outputs: StageMaps,
    pixels: Tensor,
    processor: HieraVideoProcessor,
    record: Preprocessing,
    *,
    picture: Path,
    heading: str,
) -> None:
    from hierax.viz.animation import featured_clip, write_animation

    seconds = float(processor.sampling.span)
    moving = featured_clip(outputs, pixels[0], record=record, seconds=seconds, title="the model's input")
    note = "Colors are the first three principal components of each map, the same in all frames."
    write_animation([moving], picture, heading=heading, note=note)


def feature_tiles(outputs: StageMaps, pixels: torch.Tensor, *, record: Preprocessing) -> list[list[Tile]]:
    """The tiles of an image `[C, H, W]`: a row with the image and the PCA of its maps; if requested, a row of
    attention.
    """
    from hierax.viz.maps import pca_image, to_image
    from hierax.viz.sheets import Tile

    config, size, image = outputs.config, outputs.size, to_image(pixels, record=record)
    row = [Tile(image, "image", "what the model sees")]
    for name, values in outputs.maps.items():
        stride = config.stage_stride(config.feature_stage(name))
        channels, height, width = values.shape
        note = f"stride {stride[0]}: {width} x {height}, {channels} channels"
        row.append(Tile(pca_image(values, stride=stride, size=size), name.replace("stage", "stage "), note))
    return [row] if outputs.attentions is None else [row, attention_tiles(outputs, image)]


def attention_tiles(outputs: StageMaps, picture: Image.Image) -> list[Tile]:
    """The mask units, then the attention that tokens receive, for each stage. For a global stage that is not the last,
    it is the attention of one token.
    """
    from hierax.viz.attention import attention_map, heat_image
    from hierax.viz.reconstruction import draw_units
    from hierax.viz.sheets import Tile

    assert outputs.attentions is not None
    config, size = outputs.config, outputs.size
    center = tuple(n // 2 for n in size)
    units = " x ".join(str(n) for n in reversed(config.unit_grid(size)))
    row = [Tile(draw_units(picture, unit=config.unit_pixels), "mask units", f"{units} units")]
    for stage, weights in enumerate(outputs.attentions):
        windowed, last = weights.shape[2] > 1, stage == config.stages - 1
        at = None if windowed or last else center
        heat, stride = attention_map(weights[0], config=config, stage=stage, size=size, at=at)
        note = "received within each unit" if windowed else "received from all tokens"
        note = note if at is None else "of the token in the ring"
        row.append(Tile(heat_image(picture, heat, stride=stride, at=at), f"attention, stage {stage + 1}", note))
    return row
