"""Runs the application with uvicorn: the socket, signals, the lines that a person reads, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from hierax import extras
from hierax.checkpoint.bundled import FEMTO
from hierax.console import quantity
from hierax.serve.limits import Limits
from hierax.stopping import give_back, take_signals

if TYPE_CHECKING:
    from hierax.serve.app import State

_BACKLOG = 2048
_KEEP_ALIVE = 75
"""Seconds that a connection may be idle; longer than those of usual proxies, so that these close it."""
_UNREAD_SECONDS = 60
"""Seconds after which the system closes a connection whose client does not read its answer."""
_SWITCH = 0.0005
"""Seconds after which a thread of Python lets another one work; 5 ms would make the event loop wait for decoders."""
_NAMES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime", "torch": "PyTorch", "compile": "torch.compile"}


@dataclass(frozen=True)
class Settings:
    """What `hierax serve` runs.

    Attributes:
        host, port: the address; port 0 takes a free one.
        workers: number of processes, or on a cluster the largest number of replicas; None: one process, or as many
            replicas as the CPUs of the cluster allow.
        sources: arguments of `create_app`: `model`, `mae`, `segmentation`, `collection`.
        engine: options of the engines: `precision`, `device`, `backend`, `threads`.
        limits: sizes, numbers and times.
        api_keys: the keys that are accepted; none: no key is needed.
        allow_origins: see `create_app`.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int | None = None
    sources: Mapping[str, Any] = field(default_factory=lambda: {"model": FEMTO})
    engine: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    api_keys: Sequence[str] = ()
    allow_origins: Sequence[str] = ()

    @property
    def processes(self) -> int:
        """The number of processes, without a cluster."""
        return self.workers or 1

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine reach the server."""
        if self.host == "localhost":
            return True
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return False

    def app(self) -> Any:
        """The application."""
        from hierax.serve.app import create_app

        return create_app(
            **self.sources,
            limits=self.limits,
            api_key=self.api_keys or None,
            allow_origins=self.allow_origins,
            **self.engine,
        )


def run(settings: Settings, *, say: Callable[[str], None]) -> int:
    """Serves until a signal arrives; returns the exit code: 0 for SIGTERM, else 128 and the number of the signal.

    Args:
        settings: what is run.
        say: writes a line for a person.

    Raises:
        ValueError, OSError, ImportError: the address cannot be used, or the model cannot be opened.
    """
    extras.require("hierax serve", "fastapi", "uvicorn", "python_multipart", "prometheus_client", "fastapi_offline")
    raise_file_limit()
    with listen(settings.host, settings.port) as listener:
        settings = replace(settings, port=listener.getsockname()[1])
        warn_if_open(settings, say=say)
        if settings.processes > 1:
            from hierax.serve.workers import supervise

            return supervise(settings, listener, say=say)
        return serve(settings, listener, say=say)


def warn_if_open(settings: Settings, *, say: Callable[[str], None]) -> None:
    """Says so if other machines reach the server without a key."""
    if not settings.is_local and not settings.api_keys:
        say(f"{settings.host} is reachable from other machines and no key is needed; --api-key-file asks for one")


def serve(
    settings: Settings,
    listener: socket.socket,
    *,
    say: Callable[[str], None],
    ready: Callable[[Sequence[str]], None] | None = None,
) -> int:
    """Serves in this process; as `run`.

    Args:
        settings: what is run.
        listener: the socket.
        say: writes a line for a person.
        ready: called with the lines about the model, once it is open; default: `say` writes them.
    """
    import torch
    import uvicorn

    from hierax.serve.connection import protocol

    sys.setswitchinterval(_SWITCH)
    # several engines are compiled in threads, where the backends cannot silence it for themselves alone
    warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # pyright: ignore[reportPrivateImportUsage]
    app = settings.app()
    config = uvicorn.Config(
        app,
        http=protocol(),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=max(round(settings.limits.grace_s), 1),
    )
    for name in ("uvicorn.error", "multipart", "python_multipart"):  # a line for each request that is damaged
        logging.getLogger(name).setLevel(logging.ERROR)
    state: State = app.state.hierax
    state.tells_errors = False

    def announce(lines: Sequence[str]) -> None:
        for line in lines:
            say(line)

    server = _server(config, state, settings, say=say, ready=ready or announce)
    server.run([listener])
    if state.error is not None:
        raise state.error
    code = 0 if server.number in (None, signal.SIGTERM) else 128 + server.number
    if state.is_stuck:
        say(f"a call of the model did not end within {settings.limits.grace_s:g} s")
    if state.is_stuck or state.left_loading:  # else Python would wait for the engine, or end in the middle of its work
        sys.stderr.flush()
        os._exit(code)
    return code


def _server(
    config: Any,
    state: State,
    settings: Settings,
    *,
    say: Callable[[str], None],
    ready: Callable[[Sequence[str]], None],
) -> Any:
    """uvicorn's server with the signals and lines of the house."""
    import uvicorn

    class Server(uvicorn.Server):
        """Stops accepting at the first signal, finishes what was accepted, and raises no signal again."""

        number: int | None = None
        _following: asyncio.Task[None] | None = None

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Takes the signals while the server works."""
            before = take_signals(self.handle_exit)
            try:
                yield
            finally:
                give_back(before)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            """A signal: the first one stops the server, a second Ctrl-C at once."""
            if self.number is not None and sig == signal.SIGINT:
                self.force_exit = True
            self.number = self.number or sig
            self.should_exit = True

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            """Starts accepting while the model is being loaded."""
            await super().startup(sockets=sockets)
            self._following = asyncio.create_task(self._follow())

        async def _follow(self) -> None:
            """Says when the model is open; stops if it cannot be opened."""
            assert state.opened is not None
            await asyncio.wait([state.opened])
            try:
                if state.status == "ready":
                    ready(await state.in_reader(lines, state, settings))
            except Exception as error:
                state.fail(error)
            if state.error is not None:
                self.should_exit = True
            gc.collect()
            gc.freeze()  # the collector would stop all requests while it looks at the objects of libraries

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            """Stops accepting, and finishes what was accepted."""
            state.drain()
            if state.error is None and self.server_state.tasks:
                count = quantity(len(self.server_state.tasks), "request")
                say(f"finishing {count}, at most {settings.limits.grace_s:g} s; Ctrl-C again ends at once")
            await super().shutdown(sockets=sockets)

    return Server(config)


def lines(state: State, settings: Settings) -> list[str]:
    """The lines for a person once the models are open: their licenses, the engine, and the addresses."""
    found = state.service.describe()
    model = found["model"]
    models = (found.get(name) for name in ("model", "mae", "segmentation"))
    licenses = [(part["source"], part["license"]) for part in models if part]
    place = "CPU" if model["device"] == "cpu" else model["device"]
    engine = f"{model['precision']} on {place} ({_NAMES.get(model['backend'], model['backend'])})"
    home = url(settings.host, settings.port)
    several = [f"{settings.processes:,} processes"] if settings.processes > 1 else []
    return [
        *(f"{source}: weights under {license}" for source, license in licenses if license),
        " · ".join([engine, *several, f"page {home}", f"API {home}/docs", "Ctrl-C to stop"]),
    ]


def url(host: str, port: int) -> str:
    """The address for a browser on this machine."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        OSError: the address is in use, not of this machine, or not permitted.
        ValueError: the host is empty.
    """
    if not host:  # of a variable that is not set, for example; to the system it would mean all addresses
        raise ValueError(
            "--host is empty; expected an address: 127.0.0.1 for this machine only, 0.0.0.0 for all others"
        )
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:  # a UnicodeError: no such name can exist
        reason = f" ({error.strerror})" if isinstance(error, OSError) else ""
        raise OSError(f"--host is {host[:100]!r}, which is not an address of this machine{reason}") from None
    family, kind, _, _, address = found[0]
    listener = socket.socket(family, kind)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if (option := getattr(socket, "TCP_USER_TIMEOUT", None)) is not None:
            listener.setsockopt(socket.IPPROTO_TCP, option, _UNREAD_SECONDS * 1000)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        advice = "; --port chooses another" if port else ""
        raise OSError(f"{url(host, port)} cannot be used: {(error.strerror or str(error)).lower()}{advice}") from None
    listener.set_inheritable(True)
    return listener


def raise_file_limit() -> None:
    """Allows as many open files, and so connections, as the system permits without other rights."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard == resource.RLIM_INFINITY or hard > 65_536:
            hard = 65_536
        if soft != resource.RLIM_INFINITY and soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
