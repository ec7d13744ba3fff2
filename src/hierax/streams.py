"""Makes stdout and stderr safe to write to. They may be closed, full, without a reader, or unable to encode a
character.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from typing import Any, TextIO

from hierax.notices import escaped

_PLAIN = {"…": "...", "·": "-", "×": "x", "–": "-", "—": "-", "−": "-", "’": "'", "“": '"', "”": '"'}
_ERRORS = "hierax.plain"
STDOUT = "standard output"


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Replacements in ASCII for characters that an encoding may lack."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    shown = (_PLAIN.get(character) or escaped(character) for character in text)
    return "".join(shown), error.end


class _Stdout(io.FileIO):
    """stdout, with errors that name it."""

    def write(self, data: Any, /) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, STDOUT) from None


def prepare() -> None:
    """Makes both streams safe to write to. Text that is written to a closed stream is lost.

    If one of the first three file descriptors were free, the next file that is opened would get its number, and
    libraries would write their errors into that file.
    """
    for descriptor in range(3):
        if not _is_open(descriptor):
            os.open(os.devnull, os.O_RDWR)  # uses the lowest free number
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), encoding="utf-8", write_through=True)
    if sys.stdout is None or (sys.stdout is sys.__stdout__ and os.name != "nt"):
        encoding = "utf-8" if sys.stdout is None else sys.stdout.encoding
        lines = sys.stdout is not None and sys.stdout.isatty()
        raw = io.BufferedWriter(_Stdout(1, "w", closefd=False))
        sys.stdout = io.TextIOWrapper(raw, encoding=encoding, line_buffering=lines)
    codecs.register_error(_ERRORS, _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def give_up(stream: TextIO) -> None:
    """Discards the text in the buffers of a stream, so that the interpreter does not fail at exit."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file below it
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        stream.flush()
