"""`hierax doctor`: shows what is installed and available on this machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from hierax.cli.outputs import add_json
from hierax.console import quantity

SUMMARY = "show versions, devices, optional packages and caches of this machine"
EPILOG = """Please include this output in bug reports. The command changes nothing and needs no network."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from hierax.diagnosis import diagnose

    found = diagnose()
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        for line in lines(found):
            print(line)
    return 0


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The result of `diagnose` as lines of text."""
    yield "versions"
    for name, value in found["versions"].items():
        yield f"  {name:<16} {value or 'not installed'}" if name != "cuda" else f"  cuda of torch    {value or 'none'}"
    yield "devices"
    for device in found["devices"]:
        yield f"  {device['name']:<16} {device['note']}".rstrip()
    cpu, engine = found["cpu"], found["engine"]
    size = f"{quantity(cpu['cores'], 'core')}, {quantity(cpu['threads'], 'thread')} of PyTorch"
    yield f"  CPU: {size}, {cpu['instructions']}"
    bf16 = "multiplies bf16 in hardware" if cpu["fast_bf16"] else "does not multiply bf16 in hardware"
    yield f"  CPU {bf16}"
    yield f"  the engine picks {engine['backend']} in {engine['precision']} on {engine['device']}"
    yield "optional packages"
    for extra in found["extras"]:
        state = extra["version"] or f"missing: {extra['install']}"
        yield f"  {extra['package']:<16} {state}  ({extra['purpose']})"
    yield "caches (you can delete each; it is created again when needed)"
    for cache in found["caches"]:
        yield f"  {cache['bytes'] / 1e6:>10,.1f} MB  {cache['path']}  ({cache['purpose']})"
        yield f"  {'':>13}  delete: {cache['delete']}"
    if not found["caches"]:
        yield "  none"
    yield "bundled weights"
    for name, license in found["licenses"].items():
        yield f"  {name:<16} {license}"
    yield f"telemetry: {found['telemetry']}"
