"""The application on a cluster: Ray Serve runs copies of it, as many as the load needs."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hierax import extras
from hierax.console import quantity
from hierax.serve.run import Settings, listen, url, warn_if_open
from hierax.stopping import StopSignal

if TYPE_CHECKING:
    from fastapi import FastAPI

NAME = "hierax"
"""The name of the application on the cluster."""
_WHAT = "hierax serve --ray"
_CPUS = 4
"""CPUs of a copy, if the machines have as many and `threads` says nothing else."""
_TARGET = 16
"""Requests that a copy works on at the same time; above this, Ray starts another copy."""


@dataclass(frozen=True)
class Deployed:
    """An application that runs on a cluster.

    Attributes:
        address: such as http://127.0.0.1:8000.
        copies: the largest number of copies.
        cpus, gpus: what each copy reserves.
        started: whether this process started the cluster.
    """

    address: str
    copies: int
    cpus: int
    gpus: int
    started: bool

    def close(self) -> None:
        """Ends the application: requests that were accepted are finished. A cluster that was started here ends too."""
        import ray
        from ray import serve

        serve.delete(NAME)
        if self.started:
            ray.shutdown()


def run(settings: Settings, *, say: Callable[[str], None]) -> int:
    """Serves on a cluster until a signal arrives; returns the exit code, as `hierax.serve.run.run`.

    Raises:
        MissingPackage: Ray Serve is not installed.
        ValueError, OSError: the address cannot be used, or no copy could be started.
    """
    warn_if_open(settings, say=say)
    deployed, stop = deploy(settings), StopSignal()
    with stop.handle():  # not before: Ray sets handlers of its own
        try:
            each = quantity(deployed.cpus, "CPU") + (" and a GPU" if deployed.gpus else "")
            most = quantity(deployed.copies, "replica")
            say(f"{settings.sources['model']} on Ray: 1 to {most}, each with {each}")
            say(f"page {deployed.address} · API {deployed.address}/docs · Ctrl-C to stop")
            stop.wait()
        finally:
            deployed.close()
    return 0 if stop.number in (None, signal.SIGTERM) else 128 + stop.number


def _check_packages() -> None:
    """Checks that Ray Serve is there, and makes it quiet.

    Raises:
        MissingPackage: it is not; the message names the extra.
    """
    extras.require(_WHAT, "ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # copies that are lost are replaced without a long text
    try:
        import ray.serve  # noqa: F401
    except ImportError as error:
        reason = str(error).partition(".")[0]
        raise extras.MissingPackage(
            f"{_WHAT} needs Ray Serve, which cannot be imported ({reason}): {extras.install_line('ray')}", name="ray"
        ) from error
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)


def deploy(settings: Settings) -> Deployed:
    """Starts the application on a cluster, and returns when the first copy is ready.

    The cluster is that of the variable RAY_ADDRESS; without it, Ray runs on this machine only. Models and collections
    need the same paths on all machines.

    Args:
        settings: what is run. `workers` is the largest number of copies; None: the CPUs of the cluster decide.

    Raises:
        MissingPackage: Ray Serve is not installed.
        ValueError, OSError: the address cannot be used, or no copy could be started.
    """
    if not settings.port:
        raise ValueError("port is 0; expected a fixed port for a cluster")
    _check_packages()
    with listen(settings.host, settings.port):
        pass  # Ray tells of a port that is in use only in its logs
    import ray
    from ray import serve

    started = not ray.is_initialized()
    if started:
        ray.init(os.environ.get("RAY_ADDRESS"), log_to_driver=False, logging_level=logging.ERROR)
    deployed = _plan(settings, started=started and "RAY_ADDRESS" not in os.environ)
    options = {"host": settings.host, "port": settings.port, "request_timeout_s": settings.limits.deadline_s + 10}
    try:
        serve.start(http_options=options, logging_config={"log_level": "WARNING"})
        serve.run(_application(settings, deployed), name=NAME, route_prefix="/")
    except RuntimeError as error:
        deployed.close()
        raise ValueError(f"no copy could be started: {error}") from error
    return deployed


def _plan(settings: Settings, *, started: bool) -> Deployed:
    """How many copies there may be, and what each reserves."""
    import ray

    machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
    threads = settings.engine.get("threads")
    cpus = int(threads or max(min(_CPUS, *(int(machine.get("CPU", 1)) for machine in machines)), 1))
    device = str(settings.engine.get("device", "auto"))
    gpus = int(device.startswith("cuda") or (device == "auto" and any(machine.get("GPU", 0) for machine in machines)))
    room = sum(int(machine.get("CPU", 0)) // cpus for machine in machines)
    if gpus:
        room = min(room, sum(int(machine.get("GPU", 0)) for machine in machines))
    copies = settings.workers or max(room, 1)
    return Deployed(url(settings.host, settings.port), copies, cpus, gpus, started)


def _application(settings: Settings, deployed: Deployed) -> Any:
    """The application for `ray.serve.run`."""
    from ray import serve

    limits = settings.limits
    each = replace(settings, engine={**settings.engine, "threads": deployed.cpus})
    made: Any = serve.deployment(
        serve.ingress(builder(each))(),
        name=NAME,
        max_ongoing_requests=limits.queue_images,
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": deployed.copies,
            "target_ongoing_requests": _TARGET,
        },
        ray_actor_options={"num_cpus": deployed.cpus, "num_gpus": deployed.gpus},
        graceful_shutdown_timeout_s=limits.grace_s,
        health_check_period_s=2,
        health_check_timeout_s=30,
    )
    return made.bind()


def builder(settings: Settings) -> Callable[[], FastAPI]:
    """A function that a copy calls to make its application, whose start lasts until the model is open."""

    def build() -> FastAPI:
        app = settings.app()
        start = app.router.lifespan_context

        @contextlib.asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
            async with start(app) as kept:
                state = app.state.hierax
                await state.opened
                if state.error is not None:
                    raise RuntimeError(f"the model cannot be opened: {state.error}")
                yield kept

        app.router.lifespan_context = lifespan  # type: ignore[assignment]
        return app

    return build
