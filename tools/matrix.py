"""Tests the wheel with other versions of Python and PyTorch, each in a fresh environment, and prints a table.

    python tools/matrix.py [WHEEL] [--pythons 3.10,3.11,3.12,3.13] [--torch lowest,pinned,newest,2.9.1]

`lowest` is the oldest PyTorch that pyproject.toml allows, `pinned` that of constraints.txt, `newest` the newest that
can be installed. Each cell runs the smoke program of `core`, and the tests in `TESTS`, which need transformers and no
other extra. transformers does not install on Python 3.10, where the tests of the core run. On Linux, PyTorch for other
Pythons comes with CUDA: some gigabytes per version are downloaded once.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from check_wheel import PYTEST, attempt
from check_wheel import TESTS as TESTS_OF
from environments import CONSTRAINTS, Environment, Failed, environment, table, the_wheel
from project import ROOT
from requirements_of import CORE

CORE_ONLY = ("3.10",)
"""Pythons on which the extra transformers cannot be installed."""
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
TESTS = (
    "models", "parity_transformers", "checkpoint_loading", "checkpoint_keys", "mae", "encoder", "positions", "config",
    "outputs", "products",
)  # fmt: skip
"""tests/test_models.py, …: what the models compute, and how checkpoints are read."""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wheel", nargs="?", type=Path, help="the wheel to check (dist/hierax-*.whl)")
    parser.add_argument("--pythons", default=",".join(PYTHONS), help="versions of Python, with commas")
    parser.add_argument("--torch", default="lowest,pinned,newest", help="versions of PyTorch, with commas")
    arguments = parser.parse_args()
    wheel, rows = the_wheel(arguments.wheel), []
    for python in arguments.pythons.split(","):
        for torch in arguments.torch.split(","):
            try:
                rows.append(cell(wheel, python, torch))
            except Failed as error:
                print(error, file=sys.stderr, flush=True)
                rows.append((python, torch, "FAILED", "", "", ""))
            print(" | ".join(rows[-1]), flush=True)
    print(table(("Python", "PyTorch", "installed", "NumPy", "used", "tests"), rows))
    sys.exit(any("FAILED" in text for row in rows for text in row))


def cell(wheel: Path, python: str, torch: str) -> Sequence[str]:
    """A row of the table: one version of Python and of PyTorch.

    Raises:
        Failed: this Python is not there, or there is no such version for it.
    """
    with environment(python) as env:
        install(env, wheel, torch, transformers=python not in CORE_ONLY)
        versions = env.versions()
        used = attempt(env, "python", str(ROOT / "tools" / "smoke.py"), "core")
        names = TESTS_OF[CORE] if python in CORE_ONLY else TESTS
        tests = attempt(env, *PYTEST, *(f"tests/test_{name}.py" for name in names), folder=ROOT)
        return (python, torch, versions["torch"], versions["numpy"], used, tests)


def install(env: Environment, wheel: Path, torch: str, *, transformers: bool) -> None:
    """Installs the wheel with a version of PyTorch, with or without transformers, and what the tests need.

    Raises:
        Failed: there is no such version for this Python.
    """
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pinned = next(line for line in lines if line.startswith("torch=="))
    named = {"lowest": f"torch=={lowest_torch()}.*", "pinned": pinned, "newest": "torch"}
    others = env.folder / "constraints.txt"
    others.write_text("\n".join(line for line in lines if line != pinned), encoding="utf-8")
    requirement = named.get(torch, f"torch=={torch}")
    wheel_of = f"hierax{'[transformers]' if transformers else ''} @ {wheel.as_uri()}"
    env.install("--constraint", str(others), wheel_of, requirement, "pytest", "hypothesis")


def lowest_torch() -> str:
    """The version in pyproject.toml's `torch>=2.8`."""
    found = re.search(r'^  "torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise ValueError("pyproject.toml has no lowest version of torch")
    return found[1]


if __name__ == "__main__":
    main()
