"""`hierax serve`: serves a model over HTTP, with a page that shows what it sees."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any

from hierax.checkpoint.bundled import FEMTO, FEMTO_MAE
from hierax.cli.loading import add_device, add_max_pixels, add_precision, add_threads, positive
from hierax.cli.terminal import UserError
from hierax.console import say

SUMMARY = "serve a model over HTTP, with a page for the browser"
EPILOG = """The page is at the address that the command prints, and the API at its /docs. Without --model the command
serves hierax/femto and hierax/femto.mae, small models that are part of the package.
  hierax serve --model facebook/hiera-tiny-224-in1k-hf --mae facebook/hiera-tiny-224-mae-hf --port 8080
  curl -F image=@cat.jpg localhost:8080/v1/classify
  curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' 'localhost:8080/v1/embed?l2=true'

Images of several requests are computed together. A full queue answers with 429 and Retry-After. SIGTERM stops
accepting, finishes what was accepted within --grace seconds, and ends with exit code 0.
With --api-key-file (a key per line) or the variable HIERAX_API_KEY, requests need the header
Authorization: Bearer KEY. Without --host, only programs of this machine reach the server.
/healthz, /readyz and /metrics (Prometheus) are for monitoring; /v2 is the Open Inference Protocol."""


def _seconds(text: str) -> float:
    """Parses a number of seconds above 0, for argparse."""
    return _number(text, least=0.001)


def _number(text: str, *, least: float = 0.0) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least {least:g}")
    return value


def _port(text: str) -> int:
    """Parses the number of a port, for argparse."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; expected a whole number from 0 to 65535")
    return int(text)


def _origin(text: str) -> str:
    """Checks the address of a site, for argparse."""
    if text != "*" and (not text.startswith(("http://", "https://")) or text.count("/") != 2):
        raise argparse.ArgumentTypeError(f"{text!r} is not a site; expected an address such as https://example.org")
    return text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add = parser.add_argument
    add("--model", default=FEMTO, metavar="M", help=f"Hub id, folder, file or export (default: {FEMTO})")
    add("--mae", metavar="M", help=f"masked autoencoder for reconstructions (default: {FEMTO_MAE} beside {FEMTO})")
    add("--segmentation", metavar="M", help="segmentation model for /v1/segment")
    add("--collection", metavar="DIR", help="folder that hierax embed wrote with --model, for /v1/search")
    add("--host", default="127.0.0.1", metavar="H", help="address to listen on (default: 127.0.0.1, this machine only)")
    add("--port", type=_port, default=8000, metavar="N", help="port to listen on (default: 8000; 0: a free one)")
    add(
        "--workers",
        type=positive,
        metavar="N",
        help="number of processes, each with its own engines (default: 1); with --ray, the maximum number of replicas",
    )
    add_device(parser)
    add_precision(parser)
    add_threads(parser)
    add_max_pixels(parser)
    add("--max-batch", type=positive, default=32, metavar="N", help="images per call of the model (default: 32)")
    add(
        "--max-wait-ms",
        type=_number,
        default=2.0,
        metavar="MS",
        help="maximum time to wait for images that are being decoded; a lone request never waits (default: 2)",
    )
    add(
        "--queue",
        type=positive,
        default=256,
        metavar="N",
        help="maximum number of waiting images; more get 429 (default: 256)",
    )
    add("--deadline", type=_seconds, default=30.0, metavar="S", help="seconds until a request gets 504 (default: 30)")
    add("--grace", type=_number, default=30.0, metavar="S", help="seconds to finish requests at the end (default: 30)")
    add("--api-key-file", type=Path, metavar="FILE", help="file with the keys that are accepted, one per line")
    add("--ray", action="store_true", help="serve on a Ray cluster, with as many replicas as the load needs")
    add(
        "--allow-origin",
        type=_origin,
        action="append",
        default=[],
        metavar="URL",
        help="site whose pages may send requests, such as https://example.org; can be repeated",
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax import extras

    extras.require("hierax serve", "fastapi", "uvicorn", "python_multipart", "prometheus_client", "fastapi_offline")
    if arguments.backend in ("auto", "openvino") and extras.is_installed("openvino"):
        # PyTorch's threads, which reduce images, would wait for their next work in a loop, on the cores of OpenVINO
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    settings = settings_of(arguments)
    if arguments.ray:
        from hierax.serve.ray import run as run_on_ray

        return run_on_ray(settings, say=say)
    from hierax.serve.run import run as run_server

    return run_server(settings, say=say)


def settings_of(arguments: argparse.Namespace) -> Any:
    """The settings of the server.

    Raises:
        UserError: the file of keys cannot be read or has none. ValueError: numbers do not fit together.
    """
    from hierax.serve.limits import Limits
    from hierax.serve.run import Settings

    limits = Limits(
        max_batch=arguments.max_batch,
        max_wait_ms=arguments.max_wait_ms,
        queue_images=arguments.queue,
        max_images=min(64, arguments.queue),
        max_pixels=arguments.max_pixels,
        deadline_s=arguments.deadline,
        grace_s=arguments.grace,
    )
    return Settings(
        host=arguments.host,
        port=arguments.port,
        workers=arguments.workers,
        sources={name: getattr(arguments, name) for name in ("model", "mae", "segmentation", "collection")},
        engine={name: getattr(arguments, name) for name in ("precision", "device", "backend", "threads")},
        limits=limits,
        api_keys=read_keys(arguments.api_key_file),
        allow_origins=arguments.allow_origin,
    )


def read_keys(file: Path | None) -> tuple[str, ...]:
    """The keys of a file, one per line, and of the variable HIERAX_API_KEY; empty lines are skipped.

    Raises:
        UserError: the file has no key, or a key has characters that a header cannot have. OSError: it cannot be read.
    """
    keys = []
    if file is not None:
        try:
            keys = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError:
            raise UserError(f"{file}: not a text file; expected a key per line") from None
        if not keys:
            raise UserError(f"{file}: no key; expected a key per line")
    if key := os.environ.get("HIERAX_API_KEY", "").strip():
        keys.append(key)
    if wrong := [number for number, key in enumerate(keys, 1) if not key.isascii() or not key.isprintable()]:
        raise UserError(f"key {wrong[0]} has characters that a header cannot have; expected ASCII without spaces")
    return tuple(keys)
