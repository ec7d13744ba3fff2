"""Collects what is installed and available on this machine, for `hierax doctor` and for bug reports."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hierax import extras
from hierax.checkpoint import list_checkpoints
from hierax.devices import list_devices, missing_cuda
from hierax.home import home

_BASE = ("numpy", "pillow", "safetensors", "huggingface_hub", "rich")
_TELEMETRY = (
    "off: hierax sends nothing, and switches off the reports of ONNX Runtime and OpenVINO; it contacts the Hugging "
    "Face Hub only for the checkpoints and data sets that you name"
)


def diagnose() -> dict[str, Any]:
    """Versions, devices, the choice of the engine, optional packages, caches, licenses and telemetry, as a dict for
    JSON.
    """
    return {
        "versions": _versions(),
        "devices": _devices(),
        "cpu": _cpu(),
        "engine": _engine(),
        "extras": _extras(),
        "caches": caches(),
        "licenses": {record.hub_id: record.license for record in list_checkpoints() if record.bundled},
        "telemetry": _TELEMETRY,
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _versions() -> dict[str, str | None]:
    import torch

    import hierax

    return {
        "hierax": _version("hierax"),
        "folder": str(Path(hierax.__file__).parent),
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        **{name: _version(name) for name in _BASE},
    }


def _devices() -> list[dict[str, Any]]:
    import torch

    found: list[dict[str, Any]] = []
    for name in list_devices():
        note = ""
        if name.startswith("cuda"):
            card = torch.cuda.get_device_properties(name)
            note = f"{card.name}, {card.total_memory / 2**30:.0f} GiB"
        elif name == "cpu":
            note = missing_cuda() or ""
        found.append({"name": name, "note": note})
    return found


def _cpu() -> dict[str, Any]:
    import torch

    from hierax.engine.hardware import fast_bf16

    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "fast_bf16": fast_bf16(),
    }


def _engine() -> dict[str, str]:
    from hierax.engine.hardware import choose

    picked = choose("auto", "auto", "auto")
    return {"device": str(picked.device), "precision": picked.precision, "backend": picked.backend}


def _extras() -> list[dict[str, Any]]:
    return [
        {
            "package": module,
            "version": _version(package.requirement.partition(">")[0].partition("[")[0])
            if extras.is_installed(module)
            else None,
            "extra": package.extra or None,
            "purpose": package.purpose,
            "install": None if extras.is_installed(module) else extras.install_line(module),
        }
        for module, package in extras.PACKAGES.items()
    ]


def caches() -> list[dict[str, Any]]:
    """The existing folders in which hierax and its packages store files, with their sizes."""
    from huggingface_hub import constants

    from hierax.engine.cache import default_folder

    base = Path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache")
    places = [
        (default_folder(), "compiled models of the engine"),
        (Path(constants.HF_HUB_CACHE), "checkpoints from the Hugging Face Hub"),
        (Path(constants.HF_HOME) / "datasets", "datasets from the Hugging Face Hub"),
        (Path(os.environ.get("MPLCONFIGDIR") or base / "matplotlib"), "fonts of matplotlib"),
        (base / "Microsoft" / "DeveloperTools", "an id of ONNX Runtime"),
        (home() / "intel" / "openvino_ga_cid", "an id of OpenVINO's tools"),
    ]
    return [
        {"path": str(path), "purpose": purpose, "bytes": _size(path), "delete": f"rm -r '{path}'"}
        for path, purpose in places
        if path.exists()
    ]


def _size(path: Path) -> int:
    """The bytes of a file, or of all files in a folder. Links are not followed."""
    if path.is_file():
        return path.stat().st_size
    total = 0
    for parent, _, files in os.walk(path):
        for name in files:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except OSError:  # noqa: PERF203  (deleted in the meantime)
                continue
    return total
