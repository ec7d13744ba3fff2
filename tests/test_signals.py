"""Signals to every command end it in order: the proof takes minutes, since each command is a process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import signals_proof

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt" or not Path("/proc").exists(), reason="Linux")]


def test_every_command_ends_in_order_and_the_same_command_makes_the_rest(tmp_path: Path) -> None:
    lines: list[str] = []
    assert signals_proof.main([str(tmp_path)], tell=lambda line: lines.append(str(line))) == 0, "\n".join(lines)
