"""Installs the wheel into fresh environments, without extras and with each extra alone, and uses it there.

    python tools/check_wheel.py [WHEEL] [--extras core,fast,…] [--python 3.12] [--lowest] [--tests]

The default wheel is the one in dist/. `core` is the wheel without extras. `tools/smoke.py` says what is done with each
extra. Versions are those of constraints.txt where it has them. With `--lowest` all direct requirements have the lowest
versions that pyproject.toml allows, except those in constraints.txt. With `--tests` the tests of each extra run too. A
table is printed at the end; the exit code is 1 if anything failed.
"""

import argparse
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from environments import CONSTRAINTS, Environment, Failed, environment, table, the_wheel
from project import ROOT
from requirements_of import CORE, requirements

TESTS: Mapping[str, Sequence[str]] = {
    CORE: ("models", "mae", "encoder", "checkpoint_loading", "config"),
    "fast": ("image_damage",),
    "openvino": ("engine_int8", "export"),
    "onnx": ("export", "export_layouts"),
    "plot": ("bench_run",),
    "train": ("train_log",),
    "data": ("data_tables",),
    "video": ("video_file", "video_formats"),
    "embed": ("embed", "columns", "index"),
    "search": ("search",),
    "transformers": ("parity_transformers", "integration_transformers"),
    "timm": ("integration_timm",),
    "serve": ("serve_images", "serve_app"),
    "dense": ("detection_models", "detection_evaluation"),
    "adapters": ("adapters",),
}
"""The tests of an extra that need no other extra: `models` is tests/test_models.py."""
DEVELOPERS = ("test", "docs", "notebooks", "dev")
"""Extras that are not checked one by one: `make test` and `make docs` use them."""
_TEST_TOOLS = ("pytest", "hypothesis")
PYTEST = ("python", "-m", "pytest", "-x", "-p", "no:cacheprovider", "-W", "default", "-m", "not slow and not hub")
"""pytest as the checks run it: old versions of packages give warnings, which are errors in `make test`."""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wheel", nargs="?", type=Path, help="the wheel to check (dist/hierax-*.whl)")
    parser.add_argument("--extras", help="extras, with commas; core is none (all but those of developers)")
    parser.add_argument("--python", help="version or path of the interpreter (the one that runs this)")
    parser.add_argument("--lowest", action="store_true", help="install the lowest versions that pyproject.toml allows")
    parser.add_argument("--tests", action="store_true", help="also run the tests of each extra")
    arguments = parser.parse_args()
    wheel, rows = the_wheel(arguments.wheel), []
    every = [extra for extra in requirements(wheel) if extra not in DEVELOPERS]
    for extra in arguments.extras.split(",") if arguments.extras else every:
        try:
            rows.append(checked(wheel, extra, arguments))
        except Failed as error:
            print(error, file=sys.stderr, flush=True)
            rows.append((extra, "", "", "FAILED", "", "", ""))
        print(" | ".join(rows[-1]), flush=True)
    print(table(("extra", "packages", "MB without PyTorch", "installs", "used", "tests", "versions"), rows))
    sys.exit(any("FAILED" in cell for row in rows for cell in row))


def checked(wheel: Path, extra: str, arguments: argparse.Namespace) -> Sequence[str]:
    """A row of the table: an extra in an environment of its own.

    Raises:
        Failed: the interpreter is not there, or a requirement cannot be met.
    """
    with environment(arguments.python) as env:
        install(env, wheel, extra, lowest=arguments.lowest)
        versions = env.versions()
        size = f"{env.megabytes():,}"
        used = attempt(env, "python", str(ROOT / "tools" / "smoke.py"), extra)
        tests = ""
        if arguments.tests and (files := TESTS.get(extra)):
            env.install("--constraint", str(CONSTRAINTS), *_TEST_TOOLS)
            tests = attempt(env, *PYTEST, *(f"tests/test_{file}.py" for file in files), folder=ROOT)
        return (extra, str(len(versions)), size, "yes", used, tests, shown(requirements(wheel)[extra], versions))


def install(env: Environment, wheel: Path, extra: str, *, lowest: bool) -> None:
    """Installs the wheel with an extra.

    Raises:
        Failed: a requirement cannot be met.
    """
    name = "" if extra == CORE else f"[{extra}]"
    if lowest:
        more = () if extra == CORE else ("--extra", extra)
        options = ("--resolution", "lowest-direct", "--only-binary", ":all:", "--constraint", str(CONSTRAINTS))
        env.install("--requirements", str(ROOT / "pyproject.toml"), *more, *options)
        env.install("--no-deps", str(wheel))
    else:
        env.install("--constraint", str(CONSTRAINTS), f"hierax{name} @ {wheel.as_uri()}")


def attempt(env: Environment, *command: str, folder: Path | None = None) -> str:
    """Runs a command, and says how it went and how long it took."""
    start = time.perf_counter()
    try:
        output = env.run(*command, folder=folder, timeout=3600)
    except Failed as error:
        print(error, file=sys.stderr, flush=True)
        failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", str(error), re.MULTILINE)
        return " ".join(["FAILED", *failed[:3]])
    summary = next((line for line in reversed(output.splitlines()) if " passed" in line), "")
    counts = re.findall(r"\d+ (?:passed|skipped)", summary)
    return f"{', '.join(counts) or 'yes'} ({time.perf_counter() - start:.0f} s)"


def shown(names: Sequence[str], versions: Mapping[str, str]) -> str:
    """The versions of packages."""
    known = {name.lower().replace("_", "-"): version for name, version in versions.items()}
    return ", ".join(f"{name} {known.get(name.lower().replace('_', '-'), 'missing')}" for name in names)


if __name__ == "__main__":
    main()
