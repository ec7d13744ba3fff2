"""The command line whatever stdout and stderr are, and whenever a signal comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from hierax import streams
from hierax.cli import main
from hierax.cli.signals import Interruptions, Terminated
from hierax.stopping import SIGNALS, StopSignal

if TYPE_CHECKING:
    from command_line import Run

pytest_plugins = ("command_line",)
POSIX = pytest.mark.skipif(os.name == "nt", reason="descriptors and devices of POSIX")


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """A line for bash in which HIERAX is the program."""
    text = line.replace("HIERAX", f"{sys.executable} -m hierax")
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True)


@POSIX
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "2>/dev/full >/dev/null", "<&- >/dev/null"])
@pytest.mark.parametrize(("command", "code"), [("models", 0), ("models --license MIT", 2)])
def test_a_stream_that_is_closed_or_full_changes_no_exit_code(closed: str, command: str, code: int) -> None:
    done = shell(f"HIERAX {command} {closed}")
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@POSIX
@pytest.mark.parametrize("command", ["models", "--help", "classify --help", "--version", ""])
def test_a_stdout_that_is_full_is_said(command: str) -> None:
    done = shell(f"HIERAX {command} >/dev/full")
    assert (done.returncode, done.stderr) == (2, "hierax: standard output: No space left on device\n")


@POSIX
def test_a_file_never_gets_the_number_of_a_stream_that_was_closed(here: Path) -> None:
    code = "from hierax.cli import main; main(['--version']); f = open('x', 'w'); print(f.fileno() > 2, file=f)"
    subprocess.run(["bash", "-c", f'{sys.executable} -c "{code}" >&- 2>&- <&-'], check=True)
    assert Path("x").read_text() == "True\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "koi8-r"])
@pytest.mark.parametrize("command", ["--help", "embed --help", "models --license gr\u00fc\u00dfe\u2026"])
def test_output_is_written_in_any_encoding(encoding: str, command: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    line = [sys.executable, "-m", "hierax", *command.split()]
    done = subprocess.run(line, capture_output=True, env=environment)
    assert done.returncode == (2 if "license" in command else 0), done.stderr
    assert b"Traceback" not in done.stderr
    assert b"\\u2026" not in done.stdout


def test_characters_that_an_encoding_lacks_have_plain_ones() -> None:
    streams.prepare()
    assert "a \u2026 b \u00b7 5\u00d73 \u2603".encode("ascii", "hierax.plain") == b"a ... b - 5x3 \\u2603"
    assert "caf\u00e9.jpg".encode("ascii", "hierax.plain") == b"caf\\xe9.jpg"  # a name stays one name


# -- signals

SAID = dict(zip(SIGNALS, ("interrupted", "terminated", "the terminal was closed"), strict=False))


@POSIX
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_signal_before_or_after_the_command_ends_in_one_line(number: signal.Signals, moment: str) -> None:
    program = f"""
import os, sys, hierax.cli, hierax.__main__ as entry
def main():
    if "{moment}" == "before": os.kill(os.getpid(), {int(number)})
    return 0
hierax.cli.main = main
entry.run()
os.kill(os.getpid(), {int(number)})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", f"hierax: {SAID[number]}\n")


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_what_a_library_makes_of_an_interruption_is_no_fault(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def fails(*_: object, **__: object) -> Any:
        try:
            send(number)
        except BaseException:
            raise SystemError("initialization failed without raising an exception") from None

    monkeypatch.setattr("hierax.data.stats.dataset_statistics", fails)
    assert run("stats", "a")[::2] == (128 + number, f"hierax: {SAID[number]}\n")


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interruption_that_was_swallowed_still_is_the_end(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def swallows(*_: object, **__: object) -> Any:
        try:
            send(number)
        except BaseException:
            return {}

    monkeypatch.setattr("hierax.cli.models.models", swallows)
    monkeypatch.setattr("hierax.cli.models.checkpoint_lines", lambda *a, **k: ())
    monkeypatch.setattr("hierax.cli.models.variant_lines", lambda *a, **k: ())
    assert run("models", "--json")[0] == 128 + number


def test_an_interruption_inside_of_a_finaliser_comes_again() -> None:
    came = Interruptions()

    class Last:
        def __del__(self) -> None:
            send(signal.SIGTERM)

    def lasts() -> None:
        with came.handle():
            Last()
            signal.pause()

    with pytest.raises(Terminated):
        lasts()
    assert came.number == signal.SIGTERM


def test_handlers_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    main(["models", "--json"])
    assert before == [signal.getsignal(number) for number in SIGNALS]


def test_a_second_interrupt_goes_to_whoever_took_the_first_before() -> None:
    """It ends a command at once by the command's own handler, which knows what libraries make of an exception."""
    came, stop = Interruptions(), StopSignal()

    def works() -> None:
        with came.handle(), stop.handle():
            send(signal.SIGTERM)
            send(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        works()
    assert (stop.number, came.number) == (signal.SIGTERM, signal.SIGINT)


@POSIX
def test_a_signal_that_is_ignored_stays_so() -> None:
    """As that of a closed terminal by `nohup`, and Ctrl-C by a shell that starts a job in the background."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruptions().handle(), StopSignal().handle():
            send(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


# -- memory


@POSIX
def test_a_limit_of_memory_is_said_before_a_library_meets_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in C++ ends the process without a word."""
    monkeypatch.setattr("hierax.cli.address_limit", lambda: 1_100_000_000)
    _, _, err = run("classify", "missing.jpg")
    assert (
        err.splitlines()[0] == "hierax: memory is limited to 1.1 GB (ulimit -v); a command with a model may need 4 GB"
    )


def test_a_limit_within_which_nothing_runs_ends_the_command_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hierax.cli.address_limit", lambda: 600_000_000)
    code, out, err = run("classify", "missing.jpg")
    assert (code, out) == (1, "")
    assert err == "hierax: out of memory: memory is limited to 0.6 GB (ulimit -v); expected at least 0.8 GB\n"


def test_an_unknown_error_within_a_limit_of_memory_names_the_limit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> int:
        raise IndexError("boolean index did not match")

    monkeypatch.setattr("hierax.cli.recipes.run", fail)
    monkeypatch.setattr("hierax.cli.address_limit", lambda: 1_100_000_000)
    code, _, err = run("recipes")
    assert code == 1
    assert err.splitlines()[1] == (
        "hierax: IndexError: boolean index did not match "
        "(memory is limited to 1.1 GB, which may be the reason; --debug shows the traceback)"
    )


def test_memory_that_runs_out_while_an_error_is_said_is_said(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> int:
        raise MemoryError

    monkeypatch.setattr("hierax.cli.recipes.run", fail)
    monkeypatch.setattr("hierax.cli._report_error", fail)
    assert main(["recipes"]) == 1
    assert capfd.readouterr().err == "hierax: out of memory\n"


@POSIX
def test_too_little_memory_for_the_program_itself_is_said(here: Path) -> None:
    (here / "hierax_cli.py").write_text(
        "import sys\nfrom hierax import __main__ as entry\n"
        "class Finder:\n    def find_spec(self, name, *_):\n        if name == 'hierax.cli': raise MemoryError\n"
        "sys.meta_path.insert(0, Finder())\nsys.exit(entry.run())\n"
    )
    done = subprocess.run([sys.executable, "hierax_cli.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "hierax: out of memory\n")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("no more"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("std::bad_alloc"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("Exception from plugin.cpp:54: Resource temporarily unavailable"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_lack_of_memory_is_said_as_such(run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("hierax.data.stats.dataset_statistics", fails)
    code, _, err = run("stats", "a")
    assert code == 1
    assert err.startswith("hierax: out of memory")
    assert "a fault of hierax" not in err
    assert err.count("\n") == 1


def test_an_interrupt_within_a_text_that_is_executed_ends_as_any_other(tmp_path: Path) -> None:
    """As in the making of a dataclass; CPython would end a module that is run by SIGINT then."""
    (tmp_path / "interrupted.py").write_text(
        "import signal, sys\n"
        "from hierax.cli import main, stats\n"
        "stats.run = lambda _: exec('import signal; signal.raise_signal(signal.SIGINT); print()')\n"
        "sys.exit(main(['stats', 'x']))\n"
    )
    done = subprocess.run([sys.executable, "-m", "interrupted"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "hierax: interrupted\n")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a limit of address space that the system keeps")
@pytest.mark.parametrize("limit", [500, 800, 850, 900, 1000, 1200, 1500, 2000])
@pytest.mark.parametrize("command", ["classify PHOTO", "features PHOTO -o OUT", "export -o OUT --format openvino"])
def test_little_memory_is_enough_or_said_in_one_sentence(command: str, limit: int, tmp_path: Path) -> None:
    Image.new("RGB", (200, 160), (200, 100, 50)).save(tmp_path / "photo.png")
    line = command.replace("PHOTO", str(tmp_path / "photo.png")).replace("OUT", str(tmp_path / "out"))
    done = shell(f"ulimit -v {limit * 1000}; timeout 300 HIERAX {line}")
    said = [text for text in done.stderr.splitlines() if "out of memory" in text or "may be the reason" in text]
    assert (done.returncode, len(said)) in ((0, 0), (1, 1)), done.stderr
    assert "Traceback" not in done.stderr
