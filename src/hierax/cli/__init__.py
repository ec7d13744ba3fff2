"""The command line: `hierax COMMAND`, one module and one public function per command.

Nothing here, nor at the top of a command's module, imports torch: help comes at once. Results go to stdout; progress,
licences and errors to stderr. Exit codes: 0 all done, 1 a fault of hierax, 2 nothing could be done as asked, 3 some
inputs could not be read, 130 interrupted, 141 the reader of a pipe has left, 143 terminated.
"""

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import NoReturn

from hierax.cli import (
    bench,
    classify,
    convert,
    demo,
    duplicates,
    embed,
    evaluate,
    export,
    features,
    finetune,
    models,
    outliers,
    pretrain,
    recipes,
    reconstruct,
    search,
    stats,
)
from hierax.cli import map as map_command
from hierax.cli.terminal import UserError, one_line, quiet_libraries, say

_COMMANDS: dict[str, ModuleType] = {
    "demo": demo,
    "models": models,
    "classify": classify,
    "features": features,
    "reconstruct": reconstruct,
    "convert": convert,
    "embed": embed,
    "search": search,
    "duplicates": duplicates,
    "outliers": outliers,
    "map": map_command,
    "export": export,
    "bench": bench,
    "stats": stats,
    "pretrain": pretrain,
    "finetune": finetune,
    "evaluate": evaluate,
    "recipes": recipes,
}
_EPILOG = """commands:
{commands}

examples:
  hierax demo
  hierax classify holiday/ --json > labels.jsonl

hierax/femto, a small model, comes with hierax and is what --model means where it is left out.
`hierax COMMAND --help` says more, `hierax models` which other weights there are.
Images are files, folders (searched to their depths) or patterns ('*.jpg').
Exit codes: 0 all done, 2 nothing could be done as asked, 3 some inputs could not be read."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other error here."""

    def error(self, message: str) -> NoReturn:
        say(f"{message} (see {self.prog} --help)")
        raise SystemExit(2)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of descriptions, and gives options room."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=100)


class _Version(argparse.Action):
    """Prints the version; looking it up is left to the moment when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"hierax {version()}")
        raise SystemExit(0)


def version() -> str:
    """The installed version of hierax."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("hierax")
    except PackageNotFoundError:  # run from a source tree
        return "(not installed)"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hierax",
        usage="hierax [--version] [--debug] COMMAND …",
        description="Hiera vision transformers: classification, features, masked reconstruction.",
        epilog=_EPILOG.format(commands="\n".join(f"  {n:12} {m.SUMMARY}" for n, m in _COMMANDS.items())),
        formatter_class=_Help,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    parser.add_argument("--debug", action="store_true", help="show the traceback of errors (or set HIERAX_DEBUG=1)")
    parser.set_defaults(run=None)  # that of the command that is named
    commands = parser.add_subparsers(
        prog="hierax", metavar="COMMAND", help=argparse.SUPPRESS
    )  # listed in the epilog, a line each
    for name, module in _COMMANDS.items():
        command = commands.add_parser(
            name,
            description=f"{module.SUMMARY[0].upper()}{module.SUMMARY[1:]}.",
            epilog=module.EPILOG,
            formatter_class=_Help,
            allow_abbrev=False,
        )
        module.add_arguments(command)
        # Without a default, so that `hierax --debug COMMAND` is not undone by the command's own.
        command.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks of errors"
        )
        command.set_defaults(run=module.run)
    return parser


class _Terminated(BaseException):
    """SIGTERM came; like Ctrl-C, it lets what is half written be taken away."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Takes SIGTERM while inside; training, which saves and ends in order, has a way of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(*_: object) -> NoReturn:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line (`sys.argv[1:]` unless given) and returns its exit code."""
    parser = _parser()
    try:
        arguments = _parsed(parser, argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    if arguments.run is None:
        parser.print_help()
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may hold what the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    debug = arguments.debug or os.environ.get("HIERAX_DEBUG", "") not in ("", "0")
    try:
        with _terminable(), quiet_libraries(debug=debug):
            code = arguments.run(arguments)
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        return _reader_left()
    except _Terminated:
        say("terminated")
        return 143
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        return _failed(error, sys.argv[1:] if argv is None else argv)


def _parsed(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; those that argparse does not place, since an option stands before them, go to `settings`."""
    arguments, rest = parser.parse_known_args(argv)
    unknown = [text for text in rest if text.startswith("-") or "settings" not in arguments]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        arguments.settings += rest
    return arguments


def _failed(error: BaseException, argv: Sequence[str]) -> int:
    """Says what happened in one line; returns the exit code."""
    from hierax.checkpoint.hub import NotCached

    if isinstance(error, KeyboardInterrupt):
        say("interrupted")
        return 130
    if isinstance(error, NotCached):
        say(error.advising(_option_of(error.repository, argv)))
        return 2
    missing = isinstance(error, ImportError) and "pip install" in str(error)  # an extra, which the message names
    if missing or isinstance(error, (UserError, ValueError, OSError)):
        say(one_line(error))
        return 2
    say(f"{type(error).__name__}: {one_line(error)} (a fault of hierax; --debug shows the traceback)")
    return 1


def _option_of(repository: str, argv: Sequence[str]) -> str:
    """The option of a command line that names a checkpoint, such as `--model`; "" where none does."""
    from hierax.checkpoint import find_record

    for before, text in zip(("", *argv), argv, strict=False):
        option, _, value = text.partition("=") if text.startswith("--") else (before, "", text)
        record = find_record(value)
        if option.startswith("--") and repository in (value, record and record.hub_id):
            return option
    return ""


def _reader_left() -> int:
    """Nobody reads stdout any more (`| head`): the interpreter must not fail on it again at its end."""
    with contextlib.suppress(OSError, ValueError):  # a stdout without a file below it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
