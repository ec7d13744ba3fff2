"""The bar on a terminal: one line that leaves nothing behind."""

import os
import re
import struct
import subprocess
import sys
import unicodedata

import pytest

pty = pytest.importorskip("pty", reason="only Unix has pseudo-terminals")

SHOW = """
import sys
from hierax.console import ProgressDisplay
times = iter(range(10**6))
with ProgressDisplay("image", clock=lambda: float(next(times))) as display:
    for done in range(1, 4):
        display.update(done, 3, "12 images/s · float32, openvino" if done < 3 else "")
        display.step("事" * 30 if done == 1 else "reading the file", done / 3)
    {last}
"""
CODES = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]")


def shown(columns: int, last: str = "") -> tuple[str, int]:
    """What a process writes to a terminal of this width, and its exit code."""
    import fcntl
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")} | {"TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-c", SHOW.format(last=last)], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    written = b""
    try:
        while block := os.read(ours, 1 << 16):
            written += block
    except OSError:  # Linux says so that the other side is closed
        pass
    os.close(ours)
    return written.decode("utf-8"), process.wait()


def cells(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_a_bar_is_one_line_with_room_for_the_mark_of_an_interrupt(columns: int) -> None:
    written, code = shown(columns)
    assert code == 0
    bars = [CODES.sub("", line) for line in re.split(r"\r|\n", written)]
    assert max(map(cells, bars)) <= columns - 3
    assert written.partition("\x1b[?25l")[2].count("\n") == 1  # from the removal of the bar
    assert ("of 3" in written, "float32" in written) == (columns >= 40, columns >= 80)


@pytest.mark.parametrize("last", ["", "raise KeyboardInterrupt", "raise ValueError('not so')"])
def test_the_cursor_is_shown_again_and_the_bar_is_erased(last: str) -> None:
    written, _ = shown(40, last)
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1
    assert written.rindex("\x1b[2K") > written.rindex("━")
