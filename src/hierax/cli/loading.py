"""A model for a command: loaded, checked for what the command needs, its licence said, its pixels decided."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from hierax.checkpoint.bundled import FEMTO
from hierax.cli.terminal import say

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from hierax.pretrained import Pretrained
    from hierax.processing import HieraImageProcessor, Preprocessing


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def pixel_size(text: str) -> int | tuple[int, ...]:
    """`448`, or `320x448` (rows x columns), for argparse."""
    sides = text.lower().replace("×", "x").split("x")
    if not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected 448, or 320x448 (rows x columns)")
    return int(text) if len(sides) == 1 else tuple(int(side) for side in sides)


def add_model(parser: argparse.ArgumentParser, *, default: str = FEMTO) -> None:
    """Declares `--model`, `--size` and `--device`."""
    parser.add_argument(
        "--model",
        default=default,
        metavar="M",
        help=f"Hub id, folder or file (default: {default}, which comes with hierax)",
    )
    parser.add_argument(
        "--size", type=positive, metavar="PIXELS", help="side of the square the model sees (default: the checkpoint's)"
    )
    parser.add_argument("--device", default="auto", metavar="D", help="auto (default), cpu, cuda, mps, …")


def open_model(source: str, *, device: str = "cpu", task: str | None = None) -> Pretrained:
    """Loads the model that `--model` names and says its licence on stderr.

    Raises:
        ValueError: there is no such device; those of `hierax.load`.
        OSError: those of `hierax.load`.
    """
    from hierax.checkpoint.load import load
    from hierax.devices import find_device

    model = load(source, device=find_device(device), task=task)
    say(licence_line(source, model.license))
    return model


def licence_line(source: str | Path, licence: str | None) -> str:
    """One line on the licence of weights."""
    if licence is None:
        return f"{source}: the checkpoint states no licence for its weights"
    allowed = " (not for commercial use)" if "-NC" in licence.upper() else ""
    return f"{source}: weights under {licence}{allowed}"


def loaded(model: str | Path | Pretrained, *, task: str | None = None) -> Pretrained:
    """A model as it is; a source loaded."""
    from hierax.checkpoint.load import load
    from hierax.pretrained import Pretrained

    return model if isinstance(model, Pretrained) else load(model, task=task)


def record_of(model: Pretrained, *, size: int | None = None, whole: bool = False) -> Preprocessing:
    """The checkpoint's preprocessing record, for a square of another `size`, or for the `whole` picture.

    The part of the picture that is seen stays: both the resize and the crop grow. The whole picture keeps its shape,
    its shorter side being that of the square.
    """
    from hierax.processing import IMAGENET
    from hierax.processing.windows import with_frames

    record = model.preprocessing or IMAGENET
    if model.config.is_video:
        record = with_frames(record, model.config.image_size[0])
    side = min((record.crop_size if record.do_center_crop else record.size).values())
    wanted = size or side
    if whole:
        return record.replace(do_resize=True, size={"shortest_edge": wanted}, do_center_crop=False)
    if size is None:
        return record
    resized = {edge: math.floor(pixels * size / side) for edge, pixels in record.size.items()}
    crop = {"height": size, "width": size}
    return record.replace(do_resize=True, size=resized, do_center_crop=True, crop_size=crop)


def read_pixels(processor: HieraImageProcessor, path: str | Path, model: Pretrained) -> torch.Tensor:
    """One picture as `[1, C, H, W]` on the model's device.

    Raises:
        ImageError: it cannot be read.
    """
    return processor(path).pixel_values.to(model.device)
