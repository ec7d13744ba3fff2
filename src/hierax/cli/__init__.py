"""The command line: `hierax COMMAND`, one module per command.

Neither this module nor the top of a command's module imports torch, so help is shown at once. Results are written to
stdout; progress, licenses and errors are written to stderr.

Exit codes: 0: everything was done. 1: a fault of hierax. 2: nothing could be done as requested. 3: some inputs could
not be read. 129: the terminal was closed. 130: interrupted (Ctrl-C). 141: the reader of a pipe has closed it. 143:
terminated.
"""

import argparse
import errno
import os
import signal
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from hierax.cli import (
    bench,
    classify,
    convert,
    demo,
    detect,
    doctor,
    duplicates,
    embed,
    evaluate,
    explain,
    export,
    features,
    finetune,
    models,
    outliers,
    pretrain,
    recipes,
    reconstruct,
    search,
    segment,
    serve,
    stats,
)
from hierax.cli import map as map_command
from hierax.cli.parsing import Help, Parser, parse
from hierax.cli.signals import Interruptions, Terminated
from hierax.cli.terminal import UserError
from hierax.console import one_line, quiet_libraries, say
from hierax.extras import MissingPackage
from hierax.memory import ENOUGH, LEAST, address_limit, is_out_of_memory, spare_address_space
from hierax.streams import STDOUT, give_up, prepare

_COMMANDS: dict[str, ModuleType] = {
    "demo": demo,
    "models": models,
    "classify": classify,
    "features": features,
    "explain": explain,
    "segment": segment,
    "reconstruct": reconstruct,
    "detect": detect,
    "convert": convert,
    "embed": embed,
    "search": search,
    "duplicates": duplicates,
    "outliers": outliers,
    "map": map_command,
    "serve": serve,
    "export": export,
    "bench": bench,
    "stats": stats,
    "pretrain": pretrain,
    "finetune": finetune,
    "evaluate": evaluate,
    "recipes": recipes,
    "doctor": doctor,
}
_EPILOG = """commands:
{commands}

examples:
  hierax demo
  hierax classify holiday/ --json > labels.jsonl

Without --model, most commands use hierax/femto, a small model that is part of the package.
`hierax COMMAND --help` explains a command. `hierax models` lists other weights.
Images can be files, folders (with their subfolders) or patterns ('*.jpg').
Exit codes: 0 if everything was done, 2 if nothing could be done, 3 if some inputs cannot be read."""


_FULL = os.strerror(errno.ENOSPC)
_ENDED = {"SIGINT": "interrupted", "SIGHUP": "the terminal was closed"}


class _Version(argparse.Action):
    """Prints the version, which is looked up only when it is needed."""

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


def _parser() -> tuple[Parser, dict[str, Parser]]:
    """The main parser, and the parsers of the commands by name."""
    parser = Parser(
        prog="hierax",
        usage="hierax [--version] [--debug] COMMAND ...",
        description="Hiera vision transformers: classification, features, segmentation, detection, MAE.",
        epilog=_EPILOG.format(commands="\n".join(f"  {n:12} {m.SUMMARY}" for n, m in _COMMANDS.items())),
        formatter_class=Help,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors (or set HIERAX_DEBUG=1)")
    parser.set_defaults(run=None)  # each command sets its own function
    commands = parser.add_subparsers(
        prog="hierax", metavar="COMMAND", help=argparse.SUPPRESS
    )  # the epilog lists the commands, one per line
    for name, module in _COMMANDS.items():
        command = commands.add_parser(
            name,
            description=f"{module.SUMMARY[0].upper()}{module.SUMMARY[1:]}.",
            epilog=module.EPILOG,
            formatter_class=Help,
            allow_abbrev=False,
        )
        module.add_arguments(command)
        # It has no default: the default of the command would replace the value of `hierax --debug COMMAND`.
        command.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks of errors"
        )
        command.set_defaults(run=module.run)
    return parser, commands.choices


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line (default: `sys.argv[1:]`) and returns its exit code."""
    prepare()
    words = list(sys.argv[1:] if argv is None else argv)
    parser, commands = _parser()
    try:
        arguments = parse(parser, commands, words)
        if arguments.run is None:
            parser.print_help()
            return _flush_stdout(2)
    except SystemExit as stop:
        return _flush_stdout(stop.code if isinstance(stop.code, int) else 2)
    except OSError as error:  # of stdout, while help was printed
        return _report_error(error, words)
    debug = arguments.debug or os.environ.get("HIERAX_DEBUG", "") not in ("", "0")
    interruptions = Interruptions()
    if not _has_memory():
        return 1
    try:
        with interruptions.handle(), quiet_libraries(debug=debug):
            code = arguments.run(arguments)
            sys.stdout.flush()
        return code if interruptions.number is None else _report_interruption(interruptions.number)
    except (Exception, KeyboardInterrupt, Terminated) as error:
        if debug and not isinstance(error, Terminated):
            raise
        if interruptions.number is not None:  # after an interruption, errors of libraries are not faults
            return _report_interruption(interruptions.number)
        try:
            return _report_error(error, words)
        except MemoryError:  # not even an import is possible
            os.write(2, b"hierax: out of memory\n")
            return 1


def _has_memory() -> bool:
    """Whether the limit of memory (`ulimit -v`) allows a command to run; if not, writes an error.

    With a low limit, it writes a warning and reduces the use of address space. C++ libraries that reach the limit may
    end the process without an error message.
    """
    limit = address_limit()
    if limit is None or limit >= ENOUGH:
        return True
    have, need = limit / 1e9, ENOUGH / 1e9
    if limit < LEAST:
        say(f"out of memory: memory is limited to {have:.1f} GB (ulimit -v); expected at least {LEAST / 1e9:.1f} GB")
        return False
    spare_address_space()
    say(f"memory is limited to {have:.1f} GB (ulimit -v); a command with a model may need {need:.0f} GB")
    return True


def _flush_stdout(code: int) -> int:
    """The exit code of a command that only printed; 2 or 141 if stdout could not be written to."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return _report_error(error, ())
    return code


def _report_interruption(number: int) -> int:
    say(_ENDED.get(signal.Signals(number).name, "terminated"))
    # CPython remembers if a KeyboardInterrupt left an exec() of a string (dataclasses call it), even if the exception
    # was caught. It then ends `python -m hierax` with SIGINT. Another exec() resets this.
    exec("")
    return 128 + number


def _report_error(error: BaseException, argv: Sequence[str]) -> int:
    """Writes one line about the error; returns the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return _report_interruption(signal.SIGINT)
    if isinstance(error, BrokenPipeError) or (isinstance(error, OSError) and error.filename == STDOUT):
        give_up(sys.stdout)
        if isinstance(error, BrokenPipeError):
            return 141
    if is_out_of_memory(error):
        text = one_line(error)
        say(text if text.startswith("out of memory") else f"out of memory: {text}" if str(error) else "out of memory")
        return 1
    from hierax.checkpoint.hub import NotCached

    if isinstance(error, NotCached):
        say(error.advising(_option_of(error.repository, argv)))
        return 2
    library = isinstance(error, ImportError) and "pip install" in str(error)  # a package that a library names
    if library or isinstance(error, (UserError, MissingPackage, ValueError, OSError)):
        say(one_line(error))
        return 2
    if _FULL in str(error):  # of a library that keeps temporary files
        say(f"{_FULL} for temporary files (TMPDIR=DIR places them elsewhere): {one_line(error)}")
        return 2
    limit = address_limit()
    fault = "a fault of hierax"
    if limit is not None and limit < ENOUGH:  # libraries report a lack of memory in many ways
        fault = f"memory is limited to {limit / 1e9:.1f} GB, which may be the reason"
    say(f"{type(error).__name__}: {one_line(error)} ({fault}; --debug shows the traceback)")
    return 1


def _option_of(repository: str, argv: Sequence[str]) -> str:
    """The option of a command line that names the checkpoint, such as `--model`; "" if there is none."""
    from hierax.checkpoint import find_record

    for before, text in zip(("", *argv), argv, strict=False):
        option, _, value = text.partition("=") if text.startswith("--") else (before, "", text)
        record = find_record(value)
        if option.startswith("--") and repository in (value, record and record.hub_id):
            return option
    return ""
