"""`hierax finetune`: a classifier of one's own classes."""

from __future__ import annotations

import argparse

from hierax.cli import train
from hierax.cli.terminal import UserError

SUMMARY = "train a classifier on your labelled data, from a checkpoint or from scratch"
EPILOG = train.SETTINGS.format(command="finetune") + "\n--from scratch starts with fresh weights."
_DEFAULT = "finetune_tiny_small_data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    train.add_run(parser, default=_DEFAULT)
    parser.add_argument("--from", dest="source", metavar="CKPT", help="checkpoint or run to start from, or 'scratch'")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.train import TrainingStopped, finetune

    data, out, recipe, source, validation = train.decided(arguments, default=_DEFAULT)
    if source is None and arguments.config is None:
        raise UserError("--from is missing: a checkpoint, a run's folder, or 'scratch' for fresh weights")
    try:
        finetune(
            data,
            source=None if source == "scratch" else source,
            out=out,
            recipe=recipe,
            validation=validation,
            device=arguments.device,
            parallel=arguments.parallel,
            overwrite=arguments.overwrite,
        )
    except TrainingStopped as error:
        raise UserError(str(error)) from error
    return 0
