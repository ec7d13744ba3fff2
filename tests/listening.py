"""A server in a thread of the tests, on a free port of this machine."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def running(app: Any, **settings: Any) -> Iterator[str]:
    """The address (`127.0.0.1:PORT`) of an application that runs in uvicorn, once it is ready."""
    import uvicorn

    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on", **settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        _wait(app, server, thread)
        yield f"127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        listening.close()
        assert not thread.is_alive()


def _wait(app: Any, server: Any, thread: threading.Thread) -> None:
    end = time.monotonic() + 120
    while not server.started or app.state.hierax.status in ("new", "loading"):
        assert thread.is_alive(), "the server did not start"
        assert time.monotonic() < end, "the server is not ready after two minutes"
        time.sleep(0.02)
    assert app.state.hierax.status == "ready", app.state.hierax.error
