"""The parser of the command line: one-line errors that name the right help page, and what was probably meant."""

from __future__ import annotations

import argparse
import difflib
import os
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
        parser.error(f"no command {named!r}{_did_you_mean(_meant(named, commands) or _with_a_command(named))}")
    command = commands.get(named or "", parser)
    if (wrong := _empty(argv) or _misspelled(command, argv)) is not None:
        command.error(wrong)
    arguments, rest = parser.parse_known_args(argv)
    unknown = [text for text in rest if text.startswith("-") or "settings" not in arguments]
    if unknown:
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


def _misspelled(command: argparse.ArgumentParser, argv: Sequence[str]) -> str | None:
    """An option that the command does not have: said before what is missing, which it may have been meant to give."""
    named = command.prog.rpartition(" ")[2]
    if named not in argv:
        return None
    known = {option: action for action in command._actions for option in action.option_strings}
    own = list(argv)[list(argv).index(named) + 1 :]
    value_of: argparse.Action | None = None  # the option that the next argument may belong to
    for text in own:
        name = text.partition("=")[0]
        if text == "--" or name in ("-h", "--help"):  # what follows are names of files; help comes whatever is wrong
            return None
        if name in known:
            value_of = known[name] if name == text and known[name].nargs != 0 else None
            continue
        is_number = re.fullmatch(r"-\d+|-\d*\.\d+", text) is not None  # as argparse has it: a value
        if not text.startswith("-") or text == "-" or is_number or text[:2] in known or " " in text:
            value_of = None
            continue
        if value_of is not None:
            return None  # argparse says that this option has no value
        return _unknown([text], command, argv, settings=_takes_settings(command))
    return None


def _takes_settings(command: argparse.ArgumentParser) -> bool:
    return any(action.dest == "settings" for action in command._actions)


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
    if os.path.exists(options[0]):
        return f"no option {options[0]}; for the file of that name write ./{options[0]}"
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


def _with_a_command(name: str) -> str | None:
    """The line that somebody who named only a file or folder may want."""
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
    """argparse's message about a choice in our words; others as they are."""
    if switch := _SWITCH.search(message):
        return f"{message[: switch.start()]}takes no value; {switch['given']!r} was given"
    found = _CHOICE.search(message)
    if found is None:
        return message
    known = [name.strip().strip("'") for name in found["known"].split(",")]
    close = difflib.get_close_matches(found["given"].lower(), known, n=1, cutoff=0.6)
    front = message[: found.start()]
    if hint := _HINTS.get((front.rstrip(": "), found["given"].lower())):
        return f"{front}{found['given']!r} is not one of {', '.join(known)}; {hint}"
    return f"{front}{found['given']!r} is not one of {', '.join(known)}{_did_you_mean(close[0] if close else None)}"
