"""Worker processes that decode while the main process computes. Each answers requests, and ends with its parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import util
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any, Generic, TypeVar

from hierax.sockets import shorten_socket_folder

Request = TypeVar("Request")
Result = TypeVar("Result")

_MAIN = threading.Lock()
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")  # sent to all processes of a terminal; the main process decides


def prepare_processes() -> None:
    """Starts the process that creates the worker processes. It imports packages while this process loads a model.

    A signal to the process group reaches neither this process nor the processes that it creates.
    """
    shorten_socket_folder()
    context = _context()
    if context.get_start_method() == "forkserver":
        from multiprocessing import forkserver, resource_tracker

        context.set_forkserver_preload(["hierax.embedding.decode"])
        resource_tracker.ensure_running()  # it would be started inside the block, and would reset the signal mask
        with _block_signals():
            forkserver.ensure_running()


@contextlib.contextmanager
def _block_signals() -> Iterator[None]:
    """Processes that are started inside the `with` block ignore these signals, from their start on."""
    if sys.platform == "win32":
        yield
        return
    numbers = {getattr(signal, name) for name in _SIGNALS}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _context() -> Any:
    """The start method of processes. It is never fork, because the threads of the engine may hold locks."""
    return multiprocessing.get_context(
        "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    )


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Prevents new processes from running the caller's program, which may have no `if __name__ == "__main__"`."""
    with _MAIN:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


class ProcessDied(OSError):
    """A decoding process was killed."""

    def __init__(self) -> None:
        super().__init__(
            "a decoding process was killed (is the memory full? fewer workers need less); written shards are kept; "
            "the same call resumes"
        )


class Pool(Generic[Request, Result]):
    """A pool of processes that answer requests; results are in the order of the requests.

    Args:
        work: the function that each process calls with a request; it is pickled.
        count: number of processes.
        ahead: number of results that each process may compute in advance.
        ready: called with each result, in a thread of this process, before the result is yielded.
    """

    def __init__(
        self,
        work: Callable[[Request], Result],
        count: int,
        *,
        ahead: int = 4,
        ready: Callable[[Result], Result] | None = None,
    ) -> None:
        self._ready = ready
        self._processes: list[Any] = []
        self._ends: list[Connection] = []
        self._results: list[queue.Queue[Any]] = [queue.Queue(ahead) for _ in range(count)]
        self._closed = threading.Event()
        util.Finalize(self, _kill, (self._processes,), exitpriority=1)  # before Python waits for these processes
        prepare_processes()
        try:
            for _ in range(count):
                self._start(work)
        except BaseException as error:
            self.close()
            if isinstance(error, (EOFError, BrokenPipeError, ConnectionError)):  # the process that creates workers died
                raise ProcessDied from error
            raise

    def _start(self, work: Callable[[Request], Result]) -> None:
        ours, theirs = multiprocessing.Pipe()
        self._ends.append(ours)
        with theirs, _without_main(), _block_signals():
            process = _context().Process(target=_serve, args=(theirs, work), daemon=True)
            self._processes.append(process)
            process.start()

    def map(self, requests: Sequence[Request]) -> Iterator[Result]:
        """Yields the results of these requests, in order, and closes the pool at the end.

        Raises:
            ProcessDied: a process was killed.
            MemoryError, RuntimeError: an error occurred in a process.
        """
        count = len(self._ends)
        threads = [threading.Thread(target=self._ask, args=(n, requests), daemon=True) for n in range(count)]
        for thread in threads:
            thread.start()
        try:
            for number in range(len(requests)):
                result = self._results[number % count].get()
                if isinstance(result, BaseException):
                    raise result
                yield result
        finally:
            self.close()
            for thread in threads:
                thread.join()

    def _ask(self, number: int, requests: Sequence[Request]) -> None:
        """Runs in a thread, and sends every n-th request to one process."""
        end = self._ends[number]
        try:
            for index in range(number, len(requests), len(self._ends)):
                end.send(requests[index])
                result = end.recv()
                if isinstance(result, _Failure):
                    raise result.error()
                self._put(number, result if self._ready is None else self._ready(result))
        except (EOFError, ConnectionError, FileNotFoundError):
            self._put(number, ProcessDied())
        except BaseException as error:
            self._put(number, error)

    def _put(self, number: int, result: object) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._results[number].put(result, timeout=0.1)
                return

    def close(self) -> None:
        """Kills the processes at once. They only read, so nothing is lost."""
        self._closed.set()
        _kill(self._processes)
        for end in self._ends:
            end.close()


def _kill(processes: Sequence[Any]) -> None:
    for process in processes:
        with contextlib.suppress(AttributeError, OSError):  # the process was not started
            process.kill()
    for process in processes:
        with contextlib.suppress(AssertionError, OSError):
            process.join()


class _Failure:
    """The error of a process, as text, because some errors cannot be pickled."""

    def __init__(self, error: BaseException) -> None:
        self.memory = isinstance(error, MemoryError)
        self.text = f"{type(error).__name__}: {error}"
        self.trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))

    def error(self) -> BaseException:
        """The error to raise in the main process."""
        if self.memory:
            return MemoryError("a decoding process ran out of memory; fewer workers need less")
        if "shared memory" in self.text:  # /dev/shm is missing, full, or not writable
            return OSError(f"a decoding process: {self.text}; expected space in /dev/shm (0 workers need none)")
        error = RuntimeError(f"a decoding process: {self.text}")
        error.__cause__ = RuntimeError(self.trace)
        return error


def _serve(end: Connection, work: Callable[[Any], Any]) -> None:
    """Runs in a process of the pool: receives requests and sends results."""
    for name in _SIGNALS:  # on some platforms they could not be blocked
        with contextlib.suppress(AttributeError, ValueError, OSError):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    while True:
        try:
            request = end.recv()
        except (EOFError, OSError):
            return
        try:
            end.send(work(request))
        except ConnectionError:
            return
        except Exception as error:  # also if there is no space for shared memory
            with contextlib.suppress(OSError):
                end.send(_Failure(error))


def _exit_with_parent() -> None:
    """Ends this process when its parent ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
