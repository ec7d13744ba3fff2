"""Fresh virtual environments for the checks of a release, made with uv, which links files instead of copying them."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from project import ROOT

CONSTRAINTS = ROOT / "constraints.txt"


class Failed(RuntimeError):
    """A command failed; the message has the end of what it printed."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment in a folder that has nothing else.

    Attributes:
        folder: the folder; the environment is in `venv`, the home of its commands in `home`.
    """

    folder: Path

    @property
    def bin(self) -> Path:
        """The folder of the environment's programs."""
        return self.folder / "venv" / "bin"

    def install(self, *arguments: str) -> None:
        """Runs `uv pip install` with these requirements and options.

        Raises:
            Failed: a requirement cannot be met or installed.
        """
        run([uv(), "pip", "install", "--quiet", "--python", str(self.bin / "python"), *arguments], self.folder)

    def versions(self) -> dict[str, str]:
        """The installed packages and their versions."""
        command = [uv(), "pip", "freeze", "--quiet", "--python", str(self.bin / "python")]
        lines = run(command, self.folder).splitlines()
        return dict(line.split("==", 1) for line in lines if "==" in line)

    def megabytes(self) -> int:
        """The size of the environment without PyTorch, whose builds have from 0.2 to 5 GB."""
        return round(sum(stat.st_size for stat in _stats(self.folder / "venv")) / 1e6)

    def run(self, *command: str, folder: Path | None = None, timeout: float = 900, **more: str) -> str:
        """Runs a program of the environment without the Hub, and returns what it printed.

        Args:
            command: the name of the program, and its arguments.
            folder: the working folder; default is the home of the environment.
            timeout: seconds.
            more: environment variables.

        Raises:
            Failed: the program failed, or it took too long.
        """
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        own = {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(home),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        return run([str(self.bin / command[0]), *command[1:]], folder or home, timeout, {**own, **more})


@contextmanager
def environment(python: str | None = None) -> Iterator[Environment]:
    """A new environment, which is deleted at the end.

    Args:
        python: a version ("3.12") or a path of an interpreter; default is the one that runs this.
    """
    with tempfile.TemporaryDirectory(prefix="hierax-env-") as folder:
        made = Environment(Path(folder))
        command = [uv(), "venv", "--quiet", "--no-python-downloads", "--python", python or sys.executable]
        run([*command, str(made.folder / "venv")], made.folder)
        yield made


def uv() -> str:
    """The path of uv, which must be installed (extra `dev`)."""
    found = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if not found:
        sys.exit("this needs uv: pip install uv")
    return found


def run(command: Sequence[str], folder: Path, timeout: float = 1800, variables: Mapping[str, str] | None = None) -> str:
    """Runs a command without the variables that let Python find other packages, and returns what it printed.

    Raises:
        Failed: it failed, or took longer than `timeout` seconds.
    """
    foreign = ("PYTHON", "VIRTUAL_ENV", "HIERAX_", "PYTEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**kept, **(variables or {})},
            timeout=timeout,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{Path(command[0]).name} took longer than {timeout:.0f} s") from error
    if done.returncode:
        raise Failed(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-6000:]}")
    return done.stdout


def the_wheel(given: Path | None = None) -> Path:
    """The wheel to check: the given one, or the only one in dist/."""
    if given is not None:
        return given.resolve()
    found = sorted((ROOT / "dist").glob("hierax-*.whl"))
    if len(found) != 1:
        sys.exit(f"dist/ has {len(found)} wheels; run make dist, or name a wheel")
    return found[0]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _stats(folder: Path) -> Iterator[os.stat_result]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in ("torch", "nvidia", "triton")]
        for name in files:
            yield os.lstat(os.path.join(parent, name))
