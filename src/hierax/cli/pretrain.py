"""`hierax pretrain`: masked autoencoding on one's own data."""

from __future__ import annotations

import argparse

from hierax.cli import train
from hierax.cli.terminal import UserError

SUMMARY = "pretrain a masked autoencoder on your data, without labels"
EPILOG = train.SETTINGS.format(command="pretrain")
_DEFAULT = "mae_tiny_small_data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    train.add_run(parser, default=_DEFAULT)
    parser.add_argument(
        "--from", dest="source", metavar="CKPT", help="start from a checkpoint or run (default: scratch)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.train import TrainingStopped, pretrain

    data, out, recipe, source, validation, _ = train.decided(arguments, default=_DEFAULT)
    try:
        pretrain(
            data,
            out=out,
            recipe=recipe,
            source=None if source == "scratch" else source,
            validation=validation,
            device=arguments.device,
            parallel=arguments.parallel,
            overwrite=arguments.overwrite,
        )
    except TrainingStopped as error:
        raise UserError(str(error)) from error
    return 0
