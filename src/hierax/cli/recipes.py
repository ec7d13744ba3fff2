"""`hierax recipes`: lists training recipes and their settings."""

from __future__ import annotations

import argparse
import inspect
import json

from hierax.cli.outputs import add_json
from hierax.cli.terminal import UserError

SUMMARY = "list training recipes, or show one"
EPILOG = """Change the settings of a recipe on the command line: hierax pretrain DATA -o RUN --recipe NAME key=value ...
flip=null mirrors images, but not arrays (signals, volumes). flip=true mirrors both along the last axis. flip=false
mirrors neither."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="print the settings of this recipe as JSON")
    parser.add_argument("--source", action="store_true", help="print the code that creates the recipe")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.detection.recipes import RECIPES as DETECTION
    from hierax.train.recipes import RECIPES, recipe, source_of

    if arguments.source and (arguments.json or not arguments.name):
        raise UserError("--source needs the NAME of a recipe, and has no --json")
    if arguments.name in DETECTION:
        if arguments.source:
            print(inspect.getsource(DETECTION[arguments.name]), end="")
        else:
            print(json.dumps(DETECTION[arguments.name]().to_dict(), indent=2))
        return 0
    if arguments.name:
        chosen = recipe(arguments.name)
        print(source_of(chosen.name) if arguments.source else json.dumps(chosen.to_dict(), indent=2))
        return 0
    made = [build() for build in RECIPES.values()]
    detection = [build() for build in DETECTION.values()]
    if arguments.json:
        print(json.dumps({one.name: one.to_dict() for one in (*made, *detection)}, indent=2))
        return 0
    width = max(len(one.name) for one in made)
    for one in made:
        print(
            f"{one.name:<{width}}  {one.mode:<8}  {one.epochs:>4} epochs  batch {one.batch_size:>4}  "
            f"lr {one.lr:<7g} {one.source}"
        )
    for one in detection:
        print(
            f"{one.name:<{width}}  {one.task:<8}  steps by data  batch {one.batch_size:>4}  lr {one.lr:<7g} "
            f"{one.head}, {one.image_size} pixels"
        )
    return 0
