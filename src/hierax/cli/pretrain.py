"""`hierax pretrain`: trains a masked autoencoder on unlabeled data."""

from __future__ import annotations

import argparse

from hierax.cli import train
from hierax.cli.terminal import UserError

SUMMARY = "pretrain a masked autoencoder on your data, without labels"
EPILOG = train.SETTINGS.format(command="pretrain")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    train.add_run(parser, start="hierax/femto.mae")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.train import TrainingStopped, pretrain

    request = train.read_request(arguments)
    try:
        pretrain(
            request.data,
            out=request.out,
            recipe=request.recipe,
            settings=request.settings,
            source=request.source,
            validation=request.validation,
            columns=request.columns,
            device=arguments.device,
            parallel=arguments.parallel,
            overwrite=arguments.overwrite,
        )
    except TrainingStopped as error:
        raise UserError(str(error)) from error
    return train.exit_code(request.out)
