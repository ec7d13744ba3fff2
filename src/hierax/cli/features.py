"""`hierax features`: the maps of every stage, as arrays and as a picture."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hierax.cli.clips import check_inputs, in_parts, takes_clips
from hierax.cli.inputs import add_images, expand, output_names
from hierax.cli.loading import add_model, loaded, open_model, read_pixels, record_of
from hierax.cli.moving import featured_clip, write_animation
from hierax.cli.terminal import Tally, UserError, progress
from hierax.cli.writing import written

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from hierax.encoder import Features
    from hierax.pretrained import Pretrained
    from hierax.processing import ImageError, Preprocessing
    from hierax.viz import Tile

SUMMARY = "write the feature maps of pictures or videos, as arrays and as a picture"
EPILOG = """For each IMAGE, NAME.npz holds the maps stage1, stage2, … (float32, channels x height x width).
NAME.png shows them: their first three principal components as red, green and blue.
Like colours are like features, within one map; between maps colours cannot be compared.
Pictures of one name are told apart by their folders (a-cat, b-cat).
Of a video (by a model of clips; extra `video`) it is the window in its middle: maps have an axis of time
before height, and NAME.gif shows them move.
Without --model it is hierax/femto; `hierax models` lists larger ones, which are downloaded."""


@dataclass(frozen=True)
class FeatureFiles:
    """The files made for a picture; or the error that kept it from being read."""

    path: Path
    arrays: Path | None = None
    picture: Path | None = None
    error: ImageError | None = None


def write_features(
    images: Sequence[str | Path],
    output: str | Path,
    *,
    model: str | Path | Pretrained,
    attention: bool = False,
    size: int | None = None,
    whole: bool = False,
    force: bool = False,
) -> Iterator[FeatureFiles]:
    """Writes `NAME.npz` and `NAME.png` (of videos `NAME.gif`) for each picture into the folder `output`, one by one.

    Args:
        images: paths of pictures; of videos for a model of clips.
        output: made if missing.
        model: any Hiera model of pictures or clips, or a Hub id, folder or file to load one from.
        attention: also draw mask units and attention, of pictures.
        size: side in pixels of the square that the model sees, instead of the checkpoint's.
        whole: the whole picture instead of its centre, `size` being its shorter side.
        force: replace files that exist.

    Raises:
        UserError: the model takes neither pictures nor clips; a file exists already (before anything is written).
        ValueError, OSError: those of `hierax.load`.
    """
    import torch

    from hierax.encoder import Hiera
    from hierax.processing import HieraImageProcessor, HieraVideoProcessor, ImageError

    paths = [Path(image) for image in images]
    backbone = loaded(model, task="backbone")
    check_inputs(backbone, ())
    video = backbone.config.is_video
    files = feature_files(paths, output, force=force, clips=video)
    encoder = backbone if isinstance(backbone, Hiera) else backbone.get_submodule("encoder")
    record = record_of(backbone, size=size, whole=whole)
    processor = HieraVideoProcessor(record) if video else HieraImageProcessor(record)
    for path, (arrays, picture) in zip(paths, files, strict=True):
        try:
            if isinstance(processor, HieraVideoProcessor):
                (pixels,) = in_parts(processor.clips(path), backbone)
            else:
                pixels = read_pixels(processor, path, backbone)
        except ImageError as error:
            yield FeatureFiles(path, error=error)
            continue
        with torch.inference_mode():
            found = encoder(pixels, stages=range(1, backbone.config.stages + 1), output_attentions=attention)
        _save_arrays(found, arrays)
        if isinstance(processor, HieraVideoProcessor):
            seconds = float(processor.sampling.span)
            moving = featured_clip(found, pixels[0], record=record, seconds=seconds, title="the model's input")
            note = "Colors are the first three principal components of each map, the same in all frames."
            write_animation([moving], picture, heading=path.name, note=note)
        else:
            _save_picture(found, pixels, record, picture=picture, heading=path.name)
        yield FeatureFiles(path, arrays, picture)


def feature_files(
    images: Sequence[Path], output: str | Path, *, force: bool = False, clips: bool = False
) -> list[tuple[Path, Path]]:
    """The files that `write_features` makes for each picture, or video if `clips`: arrays and picture.

    Raises:
        UserError: one of them exists, and not `force`.
    """
    stems = [Path(output, name) for name in output_names(images)]
    files = [(Path(f"{stem}.npz"), Path(f"{stem}.{'gif' if clips else 'png'}")) for stem in stems]
    taken = [file for pair in files for file in pair if file.exists()]
    if taken and not force:
        more = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
        raise UserError(f"{taken[0]}{more} would be replaced; choose another folder, or pass --force")
    return files


def _save_arrays(found: Features, arrays: Path) -> None:
    import numpy as np

    maps = {f"stage{stage}": found.map(stage)[0].float().cpu().numpy() for stage in sorted(found.tokens) if stage > 0}
    with written(arrays) as part:
        np.savez(part, **maps)  # type: ignore[arg-type]  # the stubs take any name for its one option


def _save_picture(found: Features, pixels: torch.Tensor, record: Preprocessing, *, picture: Path, heading: str) -> None:
    from hierax.viz import sheet

    size = " x ".join(str(n) for n in reversed(found.size))
    with written(picture) as part:
        note = f"{size} pixels as the model sees them. Colours are the first three principal components of each map."
        note += "" if found.attentions is None else " Attention: dark is little, bright is much."
        sheet(feature_tiles(found, pixels[0], record=record), heading=heading, note=note).save(part)


def feature_tiles(found: Features, pixels: torch.Tensor, *, record: Preprocessing) -> list[list[Tile]]:
    """The picture `[C, H, W]` and the PCA of its maps in a row; where attentions are there, a second row of them."""
    from hierax.viz import Tile, pca_picture, to_picture

    config, size, picture = found.config, found.size, to_picture(pixels, record=record)
    row = [Tile(picture, "picture", "what the model sees")]
    for stage in range(1, config.stages + 1):
        stride, values = config.stage_stride(stage - 1), found.map(stage)[0]
        channels, height, width = values.shape
        note = f"stride {stride[0]}: {width} x {height}, {channels} channels"
        row.append(Tile(pca_picture(values, stride=stride, size=size), f"stage {stage}", note))
    return [row] if found.attentions is None else [row, attention_tiles(found, picture)]


def attention_tiles(found: Features, picture: Image.Image) -> list[Tile]:
    """Mask units, then by stage the attention that tokens receive; in global stages but the last, that of one token."""
    from hierax.viz import Tile, attention_map, draw_units, heat_picture

    assert found.attentions is not None
    config, size = found.config, found.size
    centre = tuple(n // 2 for n in size)
    units = " x ".join(str(n) for n in reversed(found.units))
    row = [Tile(draw_units(picture, unit=config.unit_pixels), "mask units", f"{units} units")]
    for stage, weights in enumerate(found.attentions):
        windowed, last = weights.shape[2] > 1, stage == config.stages - 1
        at = None if windowed or last else centre
        heat, stride = attention_map(weights[0], config=config, stage=stage, size=size, at=at)
        note = "received within each unit" if windowed else "received from all tokens"
        note = note if at is None else "of the token in the ring"
        row.append(Tile(heat_picture(picture, heat, stride=stride, at=at), f"attention, stage {stage + 1}", note))
    return row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add_images(parser, clips=True)
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to write to, made if missing")
    add_model(parser)
    parser.add_argument("--whole", action="store_true", help="the whole picture, not the square in its centre")
    parser.add_argument("--attention", action="store_true", help="also draw mask units and attention")
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    video = takes_clips(arguments.model)
    paths, problems = expand(arguments.images, clips=video)
    if video and (arguments.attention or arguments.whole):
        raise UserError("--attention and --whole are for pictures, and this model takes clips")
    tally = Tally()
    for problem in problems:
        tally.add(problem)
    if not paths:
        return tally.exit_code
    feature_files(paths, arguments.output, force=arguments.force, clips=video)  # better said before a model is fetched
    model = open_model(arguments.model, device=arguments.device, task="backbone")
    check_inputs(model, paths)
    results = write_features(
        paths,
        arguments.output,
        model=model,
        attention=arguments.attention,
        size=arguments.size,
        whole=arguments.whole,
        force=arguments.force,
    )
    with progress(results, total=len(paths), what="writing features") as followed:
        for result in followed:
            tally.add(result.error)
            if result.error is None:
                print(f"{result.path}: {result.arrays}, {result.picture}", flush=True)
    return tally.exit_code
