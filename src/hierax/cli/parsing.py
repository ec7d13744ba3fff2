"""The parser of the command line. An error is one line: it names the help page and suggests what was probably meant."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from hierax.console import say

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
    "segmentation": "segment",
    "masks": "segment",
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
"""Names of commands in other programs, and the command of hierax for each."""
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
"""Names of options in other programs, and the option of hierax for each. It is suggested if the command has it."""


class Parser(argparse.ArgumentParser):
    """An argument parser that writes an error as one line, like all other errors of hierax."""

    def error(self, message: str) -> NoReturn:
        """Writes the error and ends the program with exit code 2."""
        say(f"{_with_suggestion(message)} (see {self.prog} --help)")
        raise SystemExit(2)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Like the method of argparse, but raises an error if stdout cannot be written to."""
        print(message, end="", file=file or sys.stderr)


class Help(argparse.RawDescriptionHelpFormatter):
    """A help formatter that preserves the line breaks of descriptions, and has a wide column for options."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=100)


def parse(
    parser: argparse.ArgumentParser, commands: Mapping[str, argparse.ArgumentParser], argv: Sequence[str]
) -> argparse.Namespace:
    """Parses a command line.

    argparse leaves positional arguments over if they follow an option. Here they are added to `settings` if the command
    has settings, else to its optional positional arguments, or to those that it takes any number of.

    Raises:
        SystemExit: help was requested, or the arguments are wrong and an error was written.
    """
    named = next((text for text in argv if not text.startswith("-")), None)
    if named is not None and named not in commands:
        parser.error(f"no command {named!r}{_did_you_mean(_meant(named, commands) or _with_a_command(named))}")
    command = commands.get(named or "", parser)
    if (wrong := _empty(argv) or _misspelled(command, argv)) is not None:
        command.error(wrong)
    arguments, rest = parser.parse_known_args(argv)
    if "settings" not in arguments:
        rest = _fill_positionals(command, arguments, rest)
    unknown = [text for text in rest if text.startswith("-") or "settings" not in arguments]
    if unknown:
        command.error(_unknown(unknown, command, argv, settings="settings" in arguments))
    if rest:
        arguments.settings += rest
    return arguments


def _fill_positionals(
    command: argparse.ArgumentParser, arguments: argparse.Namespace, rest: Sequence[str]
) -> list[str]:
    """Assigns the remaining words to optional positional arguments without a value, or to the one that takes any number
    (`classify a.jpg --json b.jpg`); returns the words that are left.
    """
    words = [text for text in rest if not text.startswith("-")]
    for action in command._get_positional_actions():
        if words and action.nargs == "?" and getattr(arguments, action.dest) == action.default:
            setattr(arguments, action.dest, words.pop(0))
        elif words and action.nargs in ("+", "*"):
            setattr(arguments, action.dest, [*(getattr(arguments, action.dest) or ()), *words])
            words = []
    return [*(text for text in rest if text.startswith("-")), *words]


def _empty(argv: Sequence[str]) -> str | None:
    """An error for an empty argument, such as an unset shell variable: as a path it would mean the current folder."""
    for before, text in zip(["", *argv], argv, strict=False):
        if not text and before.startswith("-") and "=" not in before:
            return f"argument {before}: expected a value; it is empty"
        if not text:
            return "an argument is empty; expected a name or a value (is a shell variable not set?)"
        if text.startswith("-") and text.endswith("="):
            return f"argument {text[:-1]}: expected a value; it is empty"
    return None


def _misspelled(command: argparse.ArgumentParser, argv: Sequence[str]) -> str | None:
    """The error for an unknown option. It comes before argparse's errors: a required option may be misspelled."""
    named = command.prog.rpartition(" ")[2]
    if named not in argv:
        return None
    known = {option: action for action in command._actions for option in action.option_strings}
    own = list(argv)[list(argv).index(named) + 1 :]
    value_of: argparse.Action | None = None  # the option whose value the next argument may be
    for text in own:
        name = text.partition("=")[0]
        if text == "--" or name in ("-h", "--help"):  # after --, all are file names; help is always shown
            return None
        if name in known:
            value_of = known[name] if name == text and known[name].nargs != 0 else None
            continue
        is_number = re.fullmatch(r"-\d+|-\d*\.\d+", text) is not None  # argparse takes it as a value
        if not text.startswith("-") or text == "-" or is_number or text[:2] in known or " " in text:
            value_of = None
            continue
        if value_of is not None:
            return None  # argparse reports that this option has no value
        return _unknown([text], command, argv, settings=_takes_settings(command))
    return None


def _takes_settings(command: argparse.ArgumentParser) -> bool:
    return any(action.dest == "settings" for action in command._actions)


def _unknown(unknown: Sequence[str], command: argparse.ArgumentParser, argv: Sequence[str], *, settings: bool) -> str:
    """The error for arguments that a command does not take."""
    options = [text for text in unknown if text.startswith("-") and len(text) > 1]
    if not options:
        return f"unexpected argument{'s' if len(unknown) > 1 else ''}: {' '.join(unknown)}"
    name, mark, value = options[0].partition("=")
    if settings and (field := name.lstrip("-").replace("-", "_")) in _recipe_fields():
        following = list(argv)[list(argv).index(options[0]) + 1 :][:1]
        stated = value if mark else following[0] if following and not following[0].startswith("-") else "VALUE"
        return f"no option {name}; a setting is written as {field}={stated}"
    if os.path.exists(options[0]):
        return f"no option {options[0]}; for the file with that name, write ./{options[0]}"
    shown = [action for action in command._actions if action.help != argparse.SUPPRESS]
    known = [option for action in shown for option in action.option_strings]
    meant = _OPTIONS.get(name)
    return f"no option {name}{_did_you_mean(meant if meant in known else _closest(name, known, cutoff=0.75))}"


def _recipe_fields() -> set[str]:
    """The names of all training settings."""
    import dataclasses

    from hierax.model.config import HieraConfig
    from hierax.train.settings import Recipe

    return {field.name for kind in (Recipe, HieraConfig) for field in dataclasses.fields(kind)}


def _meant(name: str, commands: Iterable[str]) -> str | None:
    """The command that `name` probably means."""
    if (known := _MEANT.get(name.lower())) is not None:
        return known
    return _closest(name.lower(), list(commands))


def _closest(name: str, known: Sequence[str], *, cutoff: float = 0.6) -> str | None:
    """The most similar name, if its similarity (0 to 1) is at least `cutoff`."""
    import difflib

    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=cutoff)), None)


def _with_a_command(name: str) -> str | None:
    """The command to suggest if only a file or folder is given."""
    return f"hierax classify {name}" if os.path.exists(name) else None


def _did_you_mean(text: str | None) -> str:
    return f"; did you mean {text}?" if text else ""


_HINTS = {
    ("argument --to", "onnx"): "hierax export --format onnx writes ONNX",
    ("argument --to", "openvino"): "hierax export --format openvino writes OpenVINO",
    ("argument --to", "pt2"): "hierax export --format pt2 writes torch.export",
}
_SWITCH = re.compile(r"ignored explicit argument '(?P<given>.*)'$")
_CHOICE = re.compile(r"invalid choice: '(?P<given>.*)' \(choose from (?P<known>.*)\)$")


def _with_suggestion(message: str) -> str:
    """Rewrites argparse's message about a choice or a switch, with a suggestion; other messages are not changed."""
    if switch := _SWITCH.search(message):
        return f"{message[: switch.start()]}takes no value; {switch['given']!r} was given"
    found = _CHOICE.search(message)
    if found is None:
        return message
    known = [name.strip().strip("'") for name in found["known"].split(",")]
    front = message[: found.start()]
    if hint := _HINTS.get((front.rstrip(": "), found["given"].lower())):
        return f"{front}{found['given']!r} is not one of {', '.join(known)}; {hint}"
    close = _did_you_mean(_closest(found["given"].lower(), known))
    return f"{front}{found['given']!r} is not one of {', '.join(known)}{close}"
