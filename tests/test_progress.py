"""How long work shows its progress: one way for all of it."""

import io
import sys
import threading
from typing import Any

import pytest

from hierax.console import ProgressDisplay, progress, say


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Gone(Terminal):
    """A terminal whose window is closed after a number of writes."""

    def __init__(self, good: int) -> None:
        super().__init__()
        self.good = good

    def write(self, text: str, /) -> int:
        self.good -= 1
        if self.good < 0:
            raise OSError(5, "Input/output error")
        return len(text)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 15
        return self.now


def stderr(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> io.StringIO:
    """The stream in the place of stderr; pytest puts its own there after fixtures are made."""
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return stream


def shown() -> None:
    with ProgressDisplay("image", clock=Clock()) as display:
        display.update(3, 12, "7 images/s")


def test_a_terminal_shows_a_bar_that_is_removed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = stderr(monkeypatch, Terminal())
    shown()
    text = terminal.getvalue()
    assert "image" in text
    assert "25%" in text
    assert "3 of 12 · 7 images/s" in text
    assert text.rstrip().endswith("\x1b[2K"), "the line is erased"


def test_without_colors_a_bar_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = stderr(monkeypatch, Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    shown()
    assert "3 of 12" in terminal.getvalue()
    assert "\x1b[3" not in terminal.getvalue()


@pytest.mark.parametrize("where", ["file", "dumb terminal"])
def test_where_no_line_can_be_redrawn_there_are_lines(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    terminal = stderr(monkeypatch, io.StringIO() if where == "file" else Terminal())
    if where == "dumb terminal":
        monkeypatch.setenv("TERM", "dumb")
    shown()
    assert terminal.getvalue() == "hierax: image 3 of 12 · 7 images/s · 0:00:45 left\n"


def test_lines_come_every_ten_seconds(capsys: Any) -> None:
    now = 0.0
    with ProgressDisplay(clock=lambda: now) as display:
        for done in range(1, 26):
            now = float(done)
            display.update(done, 100)
    assert capsys.readouterr().err == "hierax: 10 of 100 · 0:01:30 left\nhierax: 20 of 100 · 0:01:20 left\n"


def test_the_time_that_is_left_is_that_of_the_current_part(capsys: Any) -> None:
    now = 0.0
    with ProgressDisplay(clock=lambda: now) as display:
        for seconds, done, total in ((20, 10, 20), (30, 1, 5), (50, 2, 5)):
            now = float(seconds)
            display.update(done, total)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "hierax: 10 of 20 · 0:00:20 left",
        "hierax: 1 of 5 · 0:00:00 left",
        "hierax: 2 of 5 · 0:00:30 left",
    ]


@pytest.mark.parametrize("quiet", [True, False])
def test_few_inputs_and_quiet_work_show_nothing(monkeypatch: pytest.MonkeyPatch, quiet: bool) -> None:
    terminal = stderr(monkeypatch, Terminal())
    if quiet:
        with ProgressDisplay("image", quiet=True, clock=Clock()) as display:
            display.update(3, 12)
            display.step("measuring", 0.5)
    else:
        with progress(range(4), total=4, what="classifying") as results:
            assert list(results) == [0, 1, 2, 3]
    assert terminal.getvalue() == ""


def test_all_results_pass_under_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = stderr(monkeypatch, Terminal())
    with progress(range(5), total=5, what="classifying") as results:
        assert list(results) == [0, 1, 2, 3, 4]
    assert "5 of 5" in terminal.getvalue()


def test_no_thread_redraws_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr(monkeypatch, Terminal())
    before = threading.active_count()
    with ProgressDisplay("round") as display:
        display.step("round 1", 0.5)
        assert threading.active_count() == before


def test_a_step_is_one_line_where_there_is_no_terminal(capsys: Any) -> None:
    with ProgressDisplay() as display:
        for text, share in (("comparing: 1 input", 0.1), ("comparing: 2 inputs", 0.2), ("writing", 0.9)):
            display.step(text, share)
    assert capsys.readouterr().err == "hierax: comparing\nhierax: writing\n"


def test_what_is_named_is_no_markup_and_no_control_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = stderr(monkeypatch, Terminal())
    with ProgressDisplay() as display:
        display.step("[bold]x[/]\x1b[2J", 0.5)
    assert "[bold]x[/]" in terminal.getvalue()
    assert "\x1b[2J" not in terminal.getvalue()


def test_lines_are_printed_above_a_bar_and_results_for_a_file_are_not_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = stderr(monkeypatch, Terminal())
    monkeypatch.setattr(sys, "stdout", results := io.StringIO())
    with ProgressDisplay("image", clock=Clock()) as display:
        print("a result")
        say("a line")
        display.update(3, 12)
    assert results.getvalue() == "a result\n"
    assert "hierax: a line\n" in terminal.getvalue()


@pytest.mark.parametrize("good", [0, 1, 2, 3])
def test_the_work_continues_when_the_terminal_is_gone(monkeypatch: pytest.MonkeyPatch, good: int) -> None:
    """After as many good writes as are counted."""
    gone = stderr(monkeypatch, Gone(good))
    with ProgressDisplay("image", clock=Clock()) as display:
        display.update(3, 12)
        say("a line")
    assert sys.stderr is gone, "its stream is put back"
