"""Several processes that accept from one socket; a process that dies is replaced."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import connection
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hierax.devices import available_cores
from hierax.sockets import shorten_socket_folder
from hierax.stopping import StopSignal

if TYPE_CHECKING:
    from hierax.serve.run import Settings

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_LOOK = 0.2
"""Seconds between two looks for a signal."""
_LONGEST = 30.0
"""Maximum seconds before a process that dies again and again is replaced."""
_STEADY = 60.0
"""Seconds after which a process counts as steady."""
_EXTRA = 5.0
"""Seconds beyond `grace_s` after which a process that does not end is killed."""


@dataclass
class _Worker:
    number: int
    process: Any
    pipe: connection.Connection
    started: float
    is_ready: bool = False


def supervise(settings: Settings, listener: socket.socket, *, say: Callable[[str], None]) -> int:
    """Serves in `settings.processes` processes until a signal arrives; returns the exit code, as `run`.

    Raises:
        ValueError: a first process could not open the model; the message says why.
    """
    if settings.engine.get("threads") is None:
        each = max(available_cores() // settings.processes, 1)
        settings = replace(settings, engine={**settings.engine, "threads": each})
    shorten_socket_folder()
    with _counting_together():
        return _Supervisor(settings, listener, say).run()


@contextlib.contextmanager
def _counting_together() -> Iterator[None]:
    """A folder in which the processes count together."""
    if _FOLDER in os.environ:
        yield
        return
    folder = os.environ[_FOLDER] = tempfile.mkdtemp(prefix="hierax-metrics-")
    try:
        yield
    finally:
        del os.environ[_FOLDER]
        shutil.rmtree(folder, ignore_errors=True)


class _Supervisor:
    def __init__(self, settings: Settings, listener: socket.socket, say: Callable[[str], None]) -> None:
        self._settings, self._listener, self._say = settings, listener, say
        self._workers: dict[int, _Worker] = {}
        self._due: dict[int, float] = {}  # when the next process of a number is started
        self._wait: dict[int, float] = {}
        self._announced = False
        self._stop = StopSignal()

    def run(self) -> int:
        with self._stop.handle():
            try:
                for number in range(self._settings.processes):
                    self._start(number)
                while not self._stop():
                    self._look()
            finally:
                self._end()
        number = self._stop.number
        return 0 if number in (None, signal.SIGTERM) else 128 + number

    def _start(self, number: int) -> None:
        ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=work, args=(self._settings, self._listener, theirs), name=f"hierax-{number}")
        with _without_main():
            process.start()
        theirs.close()
        self._workers[number] = _Worker(number, process, ours, time.monotonic())

    def _look(self) -> None:
        """Waits a little for what the processes say, and replaces those that have died."""
        pipes = {worker.pipe: worker for worker in self._workers.values()}
        ends = [worker.process.sentinel for worker in self._workers.values()]
        for found in connection.wait([*pipes, *ends], timeout=_LOOK):
            worker = pipes.get(found)  # pyright: ignore[reportArgumentType, reportCallIssue]
            if worker is not None:
                self._hear(worker)
        for worker in list(self._workers.values()):
            if not worker.process.is_alive():
                self._bury(worker)
        for number, due in list(self._due.items()):
            if time.monotonic() >= due:
                del self._due[number]
                self._start(number)

    def _hear(self, worker: _Worker) -> None:
        try:
            word, text = worker.pipe.recv()
        except (EOFError, OSError):
            time.sleep(0.01)  # it is dying
            return
        if word == "ready":
            worker.is_ready = True
            if not self._announced:
                self._announced = True
                for line in text:
                    self._say(line)
        elif not self._announced:
            raise ValueError(text)
        else:
            self._say(f"process {worker.process.pid} could not open the model: {text}")

    def _bury(self, worker: _Worker) -> None:
        """A process has died: another one is started, at once the first time, later if it dies again and again."""
        if worker.pipe.poll():  # its last word says why
            self._hear(worker)
        process = worker.process
        process.join()
        worker.pipe.close()
        del self._workers[worker.number]
        with contextlib.suppress(Exception):
            from prometheus_client.multiprocess import mark_process_dead

            mark_process_dead(process.pid)
        steady = time.monotonic() - worker.started > _STEADY and worker.is_ready
        wait = 0.0 if steady else self._wait.get(worker.number, 0.0)
        self._wait[worker.number] = min(max(wait * 2, 1.0), _LONGEST)
        code = process.exitcode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        self._say(f"process {process.pid} {how}; another one starts" + (f" in {wait:g} s" if wait else ""))
        self._due[worker.number] = time.monotonic() + wait

    def _end(self) -> None:
        """Ends all processes: they finish what they accepted; those that do not end in time are killed."""
        self._listener.close()
        for worker in self._workers.values():
            worker.process.terminate()
        limit = time.monotonic() + self._settings.limits.grace_s + _EXTRA
        for worker in self._workers.values():
            while worker.process.is_alive() and time.monotonic() < limit:
                worker.process.join(_LOOK)
        for worker in self._workers.values():
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """The new process does not run the caller's program again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def work(settings: Settings, listener: socket.socket, pipe: connection.Connection) -> None:
    """The life of one process. It ends with its parent, and leaves Ctrl-C to it."""
    from hierax.console import one_line, quiet_libraries, say
    from hierax.serve.run import serve

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if "SIGHUP" in signal.Signals.__members__:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()

    def ready(lines: Sequence[str]) -> None:
        pipe.send(("ready", list(lines)))

    try:
        with quiet_libraries():
            code = serve(settings, listener, say=say, ready=ready)
    except Exception as error:
        with contextlib.suppress(OSError):
            pipe.send(("failed", one_line(error)))
        code = 2
    sys.stdout.flush()
    os._exit(code)  # threads that still load a model do not hold it up


def _end_with_parent(pipe: connection.Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        pipe.recv()  # nothing is ever sent: this returns when the parent has ended
    os.kill(os.getpid(), signal.SIGTERM)
