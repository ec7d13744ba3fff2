"""The application on a cluster: Ray Serve runs copies of it, as many as the load needs."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hierax import extras
from hierax.serve.limits import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

NAME = "hierax"
"""The name of the application on the cluster."""
_WHAT = "hierax serve --ray"
_log = logging.getLogger("hierax.serve")


@dataclass(frozen=True)
class RayOptions:
    """How the application is spread over a cluster.

    Args:
        host, port: where each machine listens.
        least, most: number of copies (replicas); None for `most`: as many as the CPUs of the cluster suffice for.
        cpus: CPUs that a copy reserves, and the threads of its engine.
        gpus: GPUs that a copy reserves; a share of one is possible.
        target: requests per copy that are worked on at the same time; above this, Ray starts another copy.

    Raises:
        ValueError: a number is too small.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    least: int = 1
    most: int | None = None
    cpus: int = 1
    gpus: float = 0.0
    target: float = 16.0

    def __post_init__(self) -> None:
        for name in ("least", "cpus"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a whole number above 0")
        if self.most is not None and self.most < self.least:
            raise ValueError(f"most is {self.most}; expected at least {self.least}")


@dataclass(frozen=True)
class Deployed:
    """An application that runs on a cluster.

    Attributes:
        address: such as http://127.0.0.1:8000.
        most: the largest number of copies.
        started: whether this process started the cluster.
    """

    address: str
    most: int
    started: bool = field(default=False)

    def close(self) -> None:
        """Ends the application: requests that were accepted are finished. A cluster that was started here ends too."""
        import ray
        from ray import serve

        serve.delete(NAME)
        if self.started:
            serve.shutdown()
            ray.shutdown()


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
        raise extras.MissingPackage(
            f"{_WHAT} needs Ray Serve, which cannot be imported ({str(error).partition('.')[0]}): "
            f"{extras.install_line('ray')}",
            name="ray",
        ) from error


def deploy(settings: Mapping[str, Any], options: RayOptions | None = None) -> Deployed:
    """Starts the application on a cluster, and returns when the first copy is ready.

    The cluster is that of the variable RAY_ADDRESS; without it, Ray runs on this machine only. Folders of models and
    collections must have the same path on all machines.

    Args:
        settings: the arguments of `hierax.serve.create_app`.
        options: how it is spread; default: `RayOptions()`.

    Raises:
        MissingPackage: Ray Serve is not installed.
        RuntimeError: no copy could be started; the message has the reason.
    """
    _check_packages()
    import ray
    from ray import serve

    options = options or RayOptions()
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.WARNING)
    started = not ray.is_initialized()
    if started:
        ray.init(os.environ.get("RAY_ADDRESS"), log_to_driver=False, logging_level=logging.WARNING)
    most = options.most or max(int(ray.cluster_resources().get("CPU", 1)) // options.cpus, options.least)
    serve.start(http_options=_http(options, settings), logging_config={"log_level": "WARNING"})
    serve.run(_application(settings, options, most), name=NAME, route_prefix="/")
    return Deployed(f"http://{options.host}:{options.port}", most, started and "RAY_ADDRESS" not in os.environ)


def _http(options: RayOptions, settings: Mapping[str, Any]) -> dict[str, Any]:
    limits: Limits = settings.get("limits") or Limits()
    return {"host": options.host, "port": options.port, "request_timeout_s": limits.deadline_s + 10}


def _application(settings: Mapping[str, Any], options: RayOptions, most: int) -> Any:
    from ray import serve

    limits: Limits = settings.get("limits") or Limits()
    made: Any = serve.deployment(
        serve.ingress(builder({"threads": options.cpus, **settings}))(),
        name=NAME,
        max_ongoing_requests=limits.queue_images,
        autoscaling_config={
            "min_replicas": options.least,
            "max_replicas": most,
            "target_ongoing_requests": options.target,
        },
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
        graceful_shutdown_timeout_s=limits.grace_s,
        health_check_period_s=2,
        health_check_timeout_s=30,
    )
    return made.bind()


def builder(settings: Mapping[str, Any]) -> Callable[[], FastAPI]:
    """A function that a copy calls to make its application, whose start lasts until the model is open."""
    given = dict(settings)

    def build() -> FastAPI:
        from hierax.serve import create_app

        app = create_app(**given)
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
