"""The page of the commands, made from their parsers: usage, arguments and explanation of each."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hierax import cli

if TYPE_CHECKING:
    from sphinx.application import Sphinx

MARKER = "<!-- commands -->"
PAGE = "docs/reference/commands"
_SPECIAL = re.compile(r"([\\*_<>\[\]|$#{}])")
_CODE = re.compile(r"`[^`]*`|(?<![\w-])(?:--?[a-zA-Z][\w-]*|\w+=[\w.,/-]*\w)")


def plain(text: str) -> str:
    """Text as Markdown that shows it as it is; options and settings become code."""
    pieces, last = [], 0
    for found in _CODE.finditer(text):
        pieces += [_SPECIAL.sub(r"\\\1", text[last : found.start()]), f"`{found[0].strip('`')}`"]
        last = found.end()
    return "".join([*pieces, _SPECIAL.sub(r"\\\1", text[last:])])


def explained(epilog: str) -> Iterator[str]:
    """The text below the options: paragraphs, and indented lines as blocks."""
    for paragraph in re.split(r"\n\s*\n", epilog.strip("\n")):
        for block in re.findall(r"(?:^  .*\n?)+|(?:^(?!  ).*\n?)+", paragraph, flags=re.MULTILINE):
            if block.startswith("  "):
                kind = "sh" if re.match(r" +(hierax|torchrun|curl|pip) ", block) else "text"
                yield "\n".join([f"```{kind}", *(line[2:] for line in block.splitlines()), "```"])
            elif block.strip():
                yield plain(" ".join(block.split()))


def _option(action: argparse.Action, formatter: argparse.HelpFormatter) -> str:
    name = formatter._format_action_invocation(action)
    return f"```{{option}} {name}\n{plain(formatter._expand_help(action))}\n```"


def command_text(name: str, command: argparse.ArgumentParser) -> str:
    """The part of a command as Markdown."""
    return "\n\n".join(_pieces(name, command))


def _pieces(name: str, command: argparse.ArgumentParser) -> Iterator[str]:
    formatter = argparse.HelpFormatter(command.prog, width=72)
    formatter.add_usage(command.usage, command._actions, command._mutually_exclusive_groups, prefix="")
    yield f"## {name}"
    yield plain(command.description or "")
    yield f"```text\n{formatter.format_help().strip()}\n```"
    yield f"```{{program}} {command.prog}\n```"
    for action in command._actions:
        if action.help not in (None, argparse.SUPPRESS) and action.dest != "help":
            yield _option(action, formatter)
    yield from explained(command.epilog or "")


def commands_text() -> str:
    """All commands as Markdown, in the order of `hierax --help`."""
    return "\n\n".join(command_text(name, command) for name, command in cli._parser()[1].items())


def _add_commands(_app: Sphinx, name: str, source: list[str]) -> None:
    if name == PAGE:
        source[0] = source[0].replace(MARKER, commands_text())


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("source-read", _add_commands)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
