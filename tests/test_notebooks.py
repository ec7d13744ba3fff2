"""The lessons in notebooks/: they can be read, their names exist, they run; and what a notebook shows of long work."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hierax.reprs.progress import NotebookBar

pytest.importorskip("jupytext", reason="needs the extra notebooks")

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
sys.path.insert(0, str(FOLDER))
import run as notebooks  # noqa: E402

NAMES = notebooks.names()
IMAGES = {"first_look": 10, "features_and_similarity": 10, "finetune": 3, "segmentation": 4, "video": 4}
"""The smallest number of images in the outputs of each."""


def code(name: str) -> list[str]:
    return [cell.source for cell in notebooks.read(name).cells if cell.cell_type == "code"]


def text(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


# -- without running them -----------------------------------------------------------------------------------------


def test_every_notebook_is_in_the_list() -> None:
    assert {path.stem for path in FOLDER.glob("*.md")} - {"README"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_has_text_before_code_and_no_outputs(name: str) -> None:
    cells = notebooks.read(name).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    assert len([cell for cell in cells if cell.cell_type == "markdown"]) >= 6
    assert all(not cell.outputs for cell in cells if cell.cell_type == "code")
    assert all(not cell.source.startswith("%") for cell in cells)


@pytest.mark.parametrize("name", NAMES)
def test_the_code_of_a_notebook_is_formatted_and_uses_only_names_that_it_defines(name: str) -> None:
    rules = ["--select", "F,E501,B,UP", "--ignore", "B018", "--config", 'builtins=["display"]', "--line-length", "120"]
    runs = [(["check", *rules], "\n\n".join(code(name)))]
    runs += [(["format", "--check", "--line-length", "120"], cell) for cell in code(name)]
    for command, source in runs:
        given = [sys.executable, "-m", "ruff", *command, "--isolated", "-"]
        done = subprocess.run(given, input=f"{source}\n", capture_output=True, text=True)
        assert done.returncode == 0, f"{source}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("name", NAMES)
def test_what_a_notebook_imports_exists(name: str) -> None:
    hierax = importlib.import_module("hierax")
    for node in ast.walk(ast.parse("\n".join(code(name)))):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
        elif isinstance(node, ast.Import):
            assert all(importlib.import_module(alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "hierax":
            assert hasattr(hierax, node.attr), ast.unparse(node)


@pytest.mark.parametrize("name", NAMES)
def test_links_of_a_notebook_lead_somewhere(name: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text(name)) if "://" not in link]
    assert links
    assert [link for link in links if not (FOLDER / link.partition("#")[0]).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_needs_no_network(name: str) -> None:
    """Other weights are named in comments and text only."""
    names = re.findall(r"[\"'](\w+/[\w.-]+)[\"']", "\n".join(ast.unparse(ast.parse(cell)) for cell in code(name)))
    assert {found for found in names if found.split("/")[0] in ("facebook", "timm")} == set()
    assert "hierax/femto" in text(name)


# -- in a kernel --------------------------------------------------------------------------------------------------


def outputs(*cells: str) -> list[list[Any]]:
    """What these cells show, run by a kernel of Jupyter."""
    import nbformat.v4 as form
    from nbclient import NotebookClient

    notebook = form.new_notebook(cells=[form.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    return [cell.outputs for cell in notebook.cells]


@pytest.mark.filterwarnings("ignore")  # of the packages that start kernels
def test_progress_in_a_kernel_is_one_output_that_ends_with_the_count() -> None:
    work = (
        "from hierax.console import ProgressDisplay, progress, say\n"
        "times = iter(range(100_000))\n"
        "with ProgressDisplay('image', clock=lambda: float(next(times))) as display:\n"
        "    for done in range(1, 2001):\n"
        "        display.update(done, 2000, '7 images/s')\n"
        "say('done')\n"
        "with progress(range(3), total=3, what='image') as few:\n"
        "    list(few)"
    )
    (found,) = outputs(work)
    shown, said = found
    assert shown.output_type == "display_data"
    assert set(shown.data) == {"text/html", "text/plain"}  # no widget, which would be empty when it is read again
    assert shown.data["text/plain"].startswith("image 2,000 of 2,000 · ")
    assert (said.name, said.text) == ("stdout", "hierax: done\n")


def test_a_bar_shows_the_last_results_and_escapes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[dict[str, str]] = []

    class Handle:
        def update(self, data: dict[str, str], *, raw: bool) -> None:
            assert raw
            states.append(data)

    def display(data: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        assert raw
        assert display_id
        states.append(data)
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    bar = NotebookBar()
    bar.show(0.5, "step 1 of 2 <b>")
    for number in range(8):
        bar.report(f"result {number} <i>")
    bar.show(None, "done")
    assert "width:50.0%" in states[0]["text/html"]
    assert states[-1]["text/plain"].splitlines() == ["done", *(f"result {number} <i>" for number in range(3, 8))]
    assert not any("<b>" in state["text/html"] or "<i>" in state["text/html"] for state in states)


def test_a_notebook_that_cannot_show_a_bar_does_not_stop_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: 1 / 0)
    bar = NotebookBar()
    bar.show(0.5, "step")
    bar.report("result")
    assert not bar.shown


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_from_top_to_bottom(name: str) -> None:
    cells = [cell for cell in notebooks.execute(name).cells if cell.cell_type == "code"]
    shown = [output for cell in cells for output in cell.outputs]
    data = [output.data for output in shown if "data" in output]
    drawn = sum(("image/png" in one or "image/gif" in one) + one.get("text/html", "").count("<img") for one in data)
    assert drawn >= IMAGES[name]
    assert not [one for one in data if "no such file" in one.get("text/html", "")]
    assert not [one for one in data if any("widget" in kind for kind in one)]
    assert [output.text for output in shown if output.output_type == "stream" and output.name == "stderr"] == []
    assert sum(output.text.count("\n") for output in shown if output.output_type == "stream") < 60
