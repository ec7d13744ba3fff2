"""`hierax reconstruct`: what a masked autoencoder makes of the parts of a picture or video that it does not see."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hierax.checkpoint.bundled import FEMTO_MAE
from hierax.cli.clips import MAE, check_inputs, in_parts, takes_clips
from hierax.cli.inputs import add_images, expand
from hierax.cli.loading import add_model, loaded, open_model, read_pixels, record_of
from hierax.cli.moving import (
    MOVING,
    Moving,
    reconstructed_clip,
    reconstruction_captions,
    write_animation,
    write_strip,
)
from hierax.cli.terminal import Tally, UserError, progress
from hierax.cli.writing import written

if TYPE_CHECKING:
    import torch

    from hierax.config import HieraConfig
    from hierax.models import HieraForPreTraining
    from hierax.pretrained import Pretrained
    from hierax.processing import ImageError, Preprocessing
    from hierax.viz import Statistics, Tile

SUMMARY = "hide parts of pictures or videos and let a MAE model fill them in"
EPILOG = f"""Most MAE models predict each patch without its brightness and contrast.
--statistics visible (the default) guesses these from the patches around it that are seen;
--statistics true takes them from the hidden patch itself, as many published pictures do:
it looks better because the answer leaks in.
Without --model it is hierax/femto.mae; `hierax models --task mae` lists larger ones, which are downloaded.
A MAE model of clips takes videos (extra `video`): OUT moves ({", ".join(MOVING)}), OUT-strip.png shows all frames:
  hierax reconstruct clip.mp4 -o clip.gif --model {MAE}"""
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Reconstructed:
    """Three captioned pictures: as it is, what is seen, what is made of it; of a video the same of its frames; or the
    error that prevented them.
    """

    path: Path
    tiles: tuple[Tile, ...] = ()
    moving: Moving | None = None
    error: ImageError | None = None


def reconstruct(
    images: Iterable[str | Path],
    *,
    model: str | Path | Pretrained,
    mask_ratio: float | None = None,
    seed: int = 0,
    statistics: Statistics = "visible",
    size: int | None = None,
) -> Iterator[Reconstructed]:
    """The reconstruction of each picture, or of the middle of each video, one by one.

    Args:
        images: paths of pictures; of videos for a model of clips.
        model: a MAE model, or a Hub id, folder or file to load one from.
        mask_ratio: share of the mask units that is hidden, instead of the model's.
        seed: decides which units; they are the same ones in every picture.
        statistics: where brightness and contrast come from, "visible" or "true"; see `viz.reconstruct_pixels`.
        size: side in pixels of the square that the model sees, instead of the checkpoint's.

    Raises:
        UserError: the model is no MAE model, or takes neither pictures nor clips.
        ValueError: a ratio that hides all or nothing, a size that is not whole mask units.
    """
    from hierax.models import HieraForPreTraining
    from hierax.processing import HieraImageProcessor, HieraVideoProcessor, ImageError

    mae = loaded(model)
    check_inputs(mae, ())
    if not isinstance(mae, HieraForPreTraining):
        such = MAE if mae.config.is_video else FEMTO_MAE
        raise UserError(f"this model is a {type(mae).__name__}; reconstruct needs a MAE model, such as {such}")
    record, video = record_of(mae, size=size), mae.config.is_video
    processor = HieraVideoProcessor(record) if video else HieraImageProcessor(record)
    for path in map(Path, images):
        try:
            if isinstance(processor, HieraVideoProcessor):
                (pixels,) = in_parts(processor.clips(path), mae)
            else:
                pixels = read_pixels(processor, path, mae)
        except ImageError as error:
            yield Reconstructed(path, error=error)
            continue
        keep = draw_keep(mae.config, tuple(pixels.shape[2:]), mask_ratio=mask_ratio, seed=seed).to(pixels.device)
        if isinstance(processor, HieraVideoProcessor):
            span = float(processor.sampling.span)
            moving = reconstructed_clip(
                mae, pixels, keep, record=record, statistics=statistics, seconds=span, title=path.name
            )
            yield Reconstructed(path, moving=moving)
        else:
            tiles = reconstruction_tiles(mae, pixels, keep, record=record, statistics=statistics, title=path.name)
            yield Reconstructed(path, tiles)


def draw_keep(config: HieraConfig, size: tuple[int, ...], *, mask_ratio: float | None, seed: int) -> torch.Tensor:
    """Booleans `[1, U]`, True for the mask units to show: drawn at random, the same for the same `seed`.

    Raises:
        ValueError: the ratio hides all or nothing, or is none; the size is not whole mask units.
    """
    import torch

    from hierax.encoder import visible_units
    from hierax.mae import check_mae_size, random_keep

    check_mae_size(size, config)
    count = torch.Size(config.unit_grid(size)).numel()
    ratio = config if mask_ratio is None else config.replace(mask_ratio=mask_ratio)
    noise = torch.rand(1, count, generator=torch.Generator().manual_seed(seed))
    kept, _ = random_keep(noise, visible_units(ratio, count))
    return torch.zeros(1, count, dtype=torch.bool).scatter(1, kept, True)


def reconstruction_tiles(
    mae: HieraForPreTraining,
    pixels: torch.Tensor,
    keep: torch.Tensor,
    *,
    record: Preprocessing,
    statistics: Statistics,
    title: str,
) -> tuple[Tile, Tile, Tile]:
    """Picture, masked picture and reconstruction of `pixels` `[1, C, H, W]`; `keep` `[1, U]` shows True mask units."""
    import torch

    from hierax.viz import Tile, draw_units, reconstruct_pixels, to_picture

    with torch.inference_mode():
        out = mae(pixels, keep=keep)
        made = reconstruct_pixels(pixels, out.logits, out.bool_masked_pos, config=mae.config, statistics=statistics)
    picture, shown = to_picture(pixels[0], record=record), keep[0].cpu().numpy()
    masked = draw_units(picture, unit=mae.config.unit_pixels, keep=shown)
    images = (picture, masked, to_picture(made[0], record=record))
    captions = reconstruction_captions(mae.config, pixels.shape[2:], shown, statistics, title=title)
    first, second, third = (Tile(image, *caption) for image, caption in zip(images, captions, strict=True))
    return first, second, third


def _ratio(text: str) -> float:
    try:
        ratio = float(text)
    except ValueError:
        ratio = 0.0
    if not 0 < ratio < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return ratio


def _picture_file(text: str) -> Path:
    path = Path(text)
    known = dict.fromkeys((*_SUFFIXES, *MOVING))
    if path.suffix.lower() not in known or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a picture ({', '.join(known)})")
    return path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add_images(parser, clips=True)
    parser.add_argument(
        "-o", "--output", required=True, type=_picture_file, metavar="OUT", help="one picture, a row per file"
    )
    add_model(parser, default=FEMTO_MAE)
    parser.add_argument("--mask-ratio", type=_ratio, metavar="R", help="share that is hidden (default: the model's)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which mask units are hidden (default: 0)")
    parser.add_argument("--statistics", choices=("visible", "true"), default="visible", help="see below")


def _check_decoder(source: str) -> None:
    """Raises `UserError` for a checkpoint that is an encoder alone, as pretraining with target=hog leaves it."""
    from hierax.checkpoint.hub import HubOptions
    from hierax.checkpoint.opened import open_checkpoint

    if not {"decoder", "head"} & set(open_checkpoint(source, HubOptions()).parts):
        raise UserError(
            f"{source} is an encoder without a decoder (target=hog saves no other); reconstruct needs a MAE model, "
            f"such as {FEMTO_MAE}"
        )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.viz import sheet

    video = takes_clips(arguments.model)
    paths, problems = expand(arguments.images, clips=video)
    allowed = MOVING if video else _SUFFIXES
    if arguments.output.suffix.lower() not in allowed:
        what = "videos" if video else "pictures"
        raise UserError(f"--output {arguments.output}: what is made of {what} is one of {', '.join(allowed)}")
    tally = Tally()
    for problem in problems:
        tally.add(problem)
    if not paths:
        return tally.exit_code
    _check_decoder(arguments.model)
    model = open_model(arguments.model, device=arguments.device)
    check_inputs(model, paths)
    results = reconstruct(
        paths,
        model=model,
        mask_ratio=arguments.mask_ratio,
        seed=arguments.seed,
        statistics=arguments.statistics,
        size=arguments.size,
    )
    rows: list[tuple[Tile, ...]] = []
    clips: list[Moving] = []
    with progress(results, total=len(paths), what="reconstructing") as followed:
        for result in followed:
            tally.add(result.error)
            if result.moving is not None:
                clips.append(result.moving)
            elif result.error is None:
                rows.append(result.tiles)
    heading, note = "Masked reconstruction", f"{arguments.model}, seed {arguments.seed}"
    if clips:
        strip = arguments.output.with_name(f"{arguments.output.stem}-strip.png")
        write_animation(clips, arguments.output, heading=heading, note=note)
        write_strip(clips, strip, heading=heading, note=note)
        print(f"wrote {arguments.output} and {strip}: {len(clips)} {'video' if len(clips) == 1 else 'videos'}")
    elif rows:
        with written(arguments.output) as part:
            sheet(rows, heading=heading, note=note).save(part)
        print(f"wrote {arguments.output}: {len(rows)} {'picture' if len(rows) == 1 else 'pictures'}")
    return tally.exit_code
