"""Runs the notebooks of this folder from top to bottom, and writes them with their outputs (`.ipynb`, `.html`).

`python notebooks/run.py -o build/notebooks [NAME …]` runs all, or those of these names. It needs the extra `notebooks`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbformat import NotebookNode

FOLDER = Path(__file__).parent
TIMEOUT = 600
"""Seconds after which a cell is stopped."""


def names() -> list[str]:
    """The notebooks, in the order in which they are read."""
    return ["first_look", "features_and_similarity", "finetune", "segmentation", "video"]


def read(name: str) -> NotebookNode:
    """A notebook without outputs."""
    import jupytext

    return jupytext.read(FOLDER / f"{name}.md")


def execute(name: str, *, timeout: int = TIMEOUT) -> NotebookNode:
    """A notebook with the outputs of all cells, from a new kernel.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised an error.
    """
    from nbclient import NotebookClient

    notebook = read(name)
    resources: dict[str, Any] = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources=resources).execute()
    return notebook


def write(notebook: NotebookNode, stem: Path) -> list[Path]:
    """Writes the notebook as `.ipynb` and as `.html`, and returns the paths."""
    import nbformat
    from nbconvert import HTMLExporter

    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_suffix(".ipynb"), stem.with_suffix(".html")]
    nbformat.write(notebook, files[0])
    files[1].write_text(HTMLExporter().from_notebook_node(notebook)[0], encoding="utf-8")
    return files


def main() -> None:
    """Runs the notebooks of the command line."""
    parser = argparse.ArgumentParser(description="Runs the notebooks from top to bottom.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(names())}")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for the results")
    arguments = parser.parse_args()
    for name in arguments.names or names():
        started = time.monotonic()
        files = write(execute(name), arguments.output / name)
        print(f"{name}: {time.monotonic() - started:.0f} s, {', '.join(map(str, files))}", flush=True)


if __name__ == "__main__":
    main()
