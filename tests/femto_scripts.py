"""Scripts of femto/ as modules, and drawings for their tests."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FEMTO = Path(__file__).parent.parent / "femto"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`script("split")` is `femto/split.py` as a module."""
    monkeypatch.syspath_prepend(str(FEMTO))

    def imported(name: str) -> ModuleType:
        return importlib.import_module(name)

    return imported
