"""The parser of the command line: one-line errors that name the right help page, and what was probably meant."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from hierax.cli.terminal import say

_MEANT = {
    "train": "pretrain or finetune",
    "fit": "pretrain or finetune",
    "predict": "classify",
    "infer": "classify",
    "inference": "classify",
    "label": "classify",
    "classification": "classify",
    "test": "evaluate",
    "eval": "evaluate",
    "val": "evaluate",
    "validate": "evaluate",
    "score": "evaluate",
    "extract": "embed or features",
    "index": "embed",
    "embeddings": "embed",
    "query": "search",
    "similar": "search",
    "neighbours": "search",
    "neighbors": "search",
    "dedup": "duplicates",
    "dedupe": "duplicates",
    "anomalies": "outliers",
    "cluster": "map",
    "visualize": "features or map",
    "visualise": "features or map",
    "attention": "features",
    "inpaint": "reconstruct",
    "mae": "reconstruct or pretrain",
    "onnx": "export",
    "quantize": "export",
    "compile": "export",
    "benchmark": "bench",
    "speed": "bench",
    "list": "models",
    "checkpoints": "models",
    "info": "doctor",
    "env": "doctor",
    "check": "doctor",
    "version": "--version",
    "help": "--help",
}
"""What people call a command in other programs, and what it is called here."""
_OPTIONS = {
    "--topk": "--top-k",
    "--k": "--top-k",
    "--out": "--output",
    "--output-dir": "--output",
    "--out-dir": "--output",
    "--force": "--overwrite",
    "--bs": "--batch-size",
    "--batch": "--batch-size",
    "--img-size": "--size",
    "--image-size": "--size",
    "--imgsz": "--size",
    "--resolution": "--size",
    "--checkpoint": "--model",
    "--weights": "--model",
    "--gpu": "--device",
    "--cuda": "--device",
    "--dtype": "--precision",
    "--num-workers": "--workers",
    "--save": "--output",
    "--csv": "--output",
}
"""What people call an option in other programs; offered where the command has it."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other error here."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with exit code 2."""
        say(f"{_with_suggestion(message)} (see {self.prog} --help)")
        raise SystemExit(2)

    def _print_message(self, message: str, file: Any = None) -> None:
        """As argparse's, but a stdout that cannot be written to is no reason to be silent."""
        print(message, end="", file=file or sys.stderr)


class Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of descriptions, and gives options room."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=100)


def parse(
    parser: argparse.ArgumentParser, commands: Mapping[str, argparse.ArgumentParser], argv: Sequence[str]
) -> argparse.Namespace:
    """The arguments of a command line. Those that argparse does not place, since an option stands before them, go to
    `settings` where the command takes such.

    Raises:
        SystemExit: help was asked for, or something is wrong, which is said.
    """
    named = next((text for text in argv if not text.startswith("-")), None)
    if named is not None and named not in commands:
        parser.error(f"no command {named!r}{_did_you_mean(_meant(named, commands))}")
    if (empty := _empty(argv)) is not None:
        commands.get(named or "", parser).error(empty)
    arguments, rest = parser.parse_known_args(argv)
    unknown = [text for text in rest if text.startswith("-") or "settings" not in arguments]
    if unknown:
        command = commands.get(named or "", parser)
        command.error(_unknown(unknown, command, argv, settings="settings" in arguments))
    if rest:
        arguments.settings += rest
    return arguments


def _empty(argv: Sequence[str]) -> str | None:
    """What is empty, as of a variable of the shell that is not set: as a path it would be the current folder."""
    for before, text in zip(["", *argv], argv, strict=False):
        if not text and before.startswith("-") and "=" not in before:
            return f"argument {before}: expected a value; it is empty"
        if not text:
            return "an argument is empty; expected a name or a value (a variable that is not set?)"
        if text.startswith("-") and text.endswith("="):
            return f"argument {text[:-1]}: expected a value; it is empty"
    return None


def _unknown(unknown: Sequence[str], command: argparse.ArgumentParser, argv: Sequence[str], *, settings: bool) -> str:
    """What is wrong with arguments that a command does not take."""
    options = [text for text in unknown if text.startswith("-") and len(text) > 1]
    if not options:
        return f"unexpected argument{'s' if len(unknown) > 1 else ''}: {' '.join(unknown)}"
    name, mark, value = options[0].partition("=")
    if settings and (field := name.lstrip("-").replace("-", "_")) in _recipe_fields():
        following = list(argv)[list(argv).index(options[0]) + 1 :][:1]
        stated = value if mark else following[0] if following and not following[0].startswith("-") else "VALUE"
        return f"no option {name}; settings are written {field}={stated}"
    shown = [action for action in command._actions if action.help != argparse.SUPPRESS]
    known = [option for action in shown for option in action.option_strings]
    meant = _OPTIONS.get(name)
    close = [meant] if meant in known else difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"no option {name}{_did_you_mean(close[0] if close else None)}"


def _recipe_fields() -> set[str]:
    """The settings that training takes."""
    import dataclasses

    from hierax.config import HieraConfig
    from hierax.train.recipe import Recipe

    return {field.name for kind in (Recipe, HieraConfig) for field in dataclasses.fields(kind)}


def _meant(name: str, commands: Iterable[str]) -> str | None:
    """The command that somebody who wrote `name` probably wants."""
    if (known := _MEANT.get(name.lower())) is not None:
        return known
    close = difflib.get_close_matches(name.lower(), commands, n=1, cutoff=0.6)
    return close[0] if close else None


def _did_you_mean(text: str | None) -> str:
    return f"; did you mean {text}?" if text else ""


_HINTS = {
    ("argument --to", "onnx"): "hierax export --format onnx writes ONNX",
    ("argument --to", "openvino"): "hierax export --format openvino writes OpenVINO",
    ("argument --to", "pt2"): "hierax export --format pt2 writes torch.export",
}
_CHOICE = re.compile(r"invalid choice: '(?P<given>.*)' \(choose from (?P<known>.*)\)$")


def _with_suggestion(message: str) -> str:
    """argparse's message about a choice in our words; others as they are."""
    found = _CHOICE.search(message)
    if found is None:
        return message
    known = [name.strip().strip("'") for name in found["known"].split(",")]
    close = difflib.get_close_matches(found["given"].lower(), known, n=1, cutoff=0.6)
    front = message[: found.start()]
    if hint := _HINTS.get((front.rstrip(": "), found["given"].lower())):
        return f"{front}{found['given']!r} is not one of {', '.join(known)}; {hint}"
    return f"{front}{found['given']!r} is not one of {', '.join(known)}{_did_you_mean(close[0] if close else None)}"
