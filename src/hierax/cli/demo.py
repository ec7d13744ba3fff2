"""`hierax demo`: one picture of what Hiera does, offline."""

from __future__ import annotations

import argparse
import dataclasses
import time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from hierax.cli.writing import written

if TYPE_CHECKING:
    from PIL import Image

    from hierax.pretrained import Pretrained
    from hierax.viz import Tile

SUMMARY = "make a picture of what Hiera does, offline"
EPILOG = "The photo comes with hierax; the weights are random until a trained checkpoint comes with it too."
_PHOTO, _CREDIT = "cat.jpg", "Chelsea the cat, photo by Stéfan van der Walt, CC0"
_SIZE = (288, 416)  # height and width: whole mask units, close to the photo's own shape
_NEXT = (
    ("classify PHOTO.jpg", "timm/hiera_small_abswin_256.sbb2_e200_in12k_ft_in1k"),
    ("features PHOTO.jpg -o features/ --attention", "timm/hiera_small_abswin_256.sbb2_e200_in12k_ft_in1k"),
    ("reconstruct PHOTO.jpg -o reconstruction.png", "facebook/hiera-tiny-224-mae-hf"),
)


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """The sheet, and what was done for it in lines."""

    sheet: Image.Image
    lines: tuple[str, ...]


def demo(*, seed: int = 0) -> Demonstration:
    """A sheet of the bundled photo: mask units, what a masked model sees and makes of it, and the maps of all stages.

    The weights of both models are random, drawn with `seed`; PyTorch's own random numbers stay as they were.
    """
    import torch

    from hierax.models import HieraForPreTraining, create_model
    from hierax.viz import sheet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = create_model("hiera_tiny_224", image_size=_SIZE).eval()
        mae = create_model("mae_hiera_tiny_224", image_size=_SIZE).eval()
    assert isinstance(mae, HieraForPreTraining)
    rows, masking = _rows(encoder, mae, seed=seed)
    heading = "What Hiera does with a picture"
    note = (
        f"Random weights (seed {seed}): this shows the parts of the model, not what training makes of them. {_CREDIT}."
    )
    config, units = encoder.config, encoder.config.unit_grid(_SIZE)
    channels, strides = (
        ", ".join(map(str, values))
        for values in (config.dims, [config.stage_stride(stage)[0] for stage in range(config.stages)])
    )
    lines = (
        f"photo     {_PHOTO} ({_CREDIT}), {_SIZE[1]} x {_SIZE[0]} pixels, {units[1]} x {units[0]} mask units",
        f"features  hiera_tiny_224, {encoder.num_parameters() / 1e6:.1f} M parameters: "
        f"maps of {channels} channels at strides {strides}",
        f"masking   mae_hiera_tiny_224, {mae.num_parameters() / 1e6:.1f} M parameters: {masking} seen",
    )
    return Demonstration(sheet(rows, heading=heading, note=note), lines)


def _rows(encoder: Pretrained, mae: Pretrained, *, seed: int) -> tuple[list[list[Tile]], str]:
    """The rows of the sheet, and how much the masked model saw."""
    import torch

    from hierax.cli.features import feature_tiles
    from hierax.cli.reconstruct import draw_keep, reconstruction_tiles
    from hierax.models import HieraForPreTraining
    from hierax.processing import IMAGENET, HieraImageProcessor
    from hierax.viz import Tile, draw_units, to_picture

    assert isinstance(mae, HieraForPreTraining)
    height, width = _SIZE
    record = IMAGENET.replace(size=height, crop_size={"height": height, "width": width})
    photo = (files("hierax") / "assets" / _PHOTO).read_bytes()
    pixels = HieraImageProcessor(record)(photo).pixel_values
    keep = draw_keep(mae.config, _SIZE, mask_ratio=None, seed=seed)
    with torch.inference_mode():
        found = encoder.get_submodule("encoder")(pixels, stages=range(1, 5))
    config, units = encoder.config, encoder.config.unit_grid(_SIZE)
    picture, seen, made = reconstruction_tiles(mae, pixels, keep, record=record, statistics="visible", title="photo")
    drawn = draw_units(to_picture(pixels[0], record=record), unit=config.unit_pixels)
    note = f"{units[1]} x {units[0]}: early stages attend within one, masks hide whole ones"
    noise = "noise, since weights are random; brightness from around"
    made = dataclasses.replace(made, note=noise)
    first = [picture, Tile(drawn, "mask units", note), seen, made]
    return [first, feature_tiles(found, pixels[0], record=record)[0][1:]], seen.note


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("-o", "--output", default="demo", metavar="DIR", help="folder for sheet.png (default: demo/)")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.cli import version

    begin = time.perf_counter()
    print(f"hierax {version()} demo with random weights: no trained checkpoint comes with hierax yet", flush=True)
    made, target = demo(), Path(arguments.output, "sheet.png")
    with written(target) as part:
        made.sheet.save(part)
    for line in made.lines:
        print(f"  {line}")
    print(f"wrote {target} in {time.perf_counter() - begin:.1f} s")
    print("\nnext, with trained weights from the Hugging Face Hub:")
    for line in next_steps():
        print(f"  {line}")
    return 0


def next_steps() -> list[str]:
    """Commands to go on with, each under the licence of the weights it loads."""
    from hierax.checkpoint import find_record

    lines: list[str] = []
    for command, checkpoint in _NEXT:
        record = find_record(checkpoint)
        assert record is not None
        use = "not for commercial use" if "-NC" in record.license else "also for commercial use"
        heading = f"# weights under {record.license}, {use}"
        if heading not in lines:
            lines.append(heading)
        lines.append(f"hierax {command} --model {checkpoint}")
    return [*lines, "# all checkpoints and their licences", "hierax models"]
