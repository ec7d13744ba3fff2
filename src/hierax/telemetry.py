"""Imports packages that send usage reports, with the reports switched off.

ONNX Runtime sends events to Microsoft, and stores a device id and a database in the cache folder. OpenVINO and NNCF
send events to Google Analytics for Intel, and store a client id in `~/intel`. They start when they are imported. To
allow the reports, import the packages before hierax; for ONNX Runtime, `ORT_DISABLE_TELEMETRY=0` allows them too.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

_REPORTER = "openvino_telemetry"


def import_onnxruntime() -> Any:
    """Imports `onnxruntime` so that it creates no id, no database and no thread for reports."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, when the library is loaded
    return importlib.import_module("onnxruntime")


def import_openvino() -> Any:
    """Imports `openvino` without its reports."""
    return _without_reports("openvino")


def import_nncf() -> Any:
    """Imports `nncf` without its reports."""
    return _without_reports("nncf")


def _without_reports(name: str) -> Any:
    """Imports the module as if the package that sends its reports were not installed."""
    if name in sys.modules:
        return sys.modules[name]
    before = sys.modules.get(_REPORTER)
    sys.modules[_REPORTER] = None  # type: ignore[assignment]  # importing it then raises ImportError
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules[_REPORTER]
        if before is not None:
            sys.modules[_REPORTER] = before
