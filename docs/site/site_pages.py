"""What the site adds to the Markdown that GitHub shows: the contents, the start page."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

CONTENTS: dict[str, tuple[str, ...]] = {
    "Jobs": (
        "docs/features",
        "docs/embed",
        "docs/pretrain",
        "docs/finetune",
        "docs/recipes",
        "docs/segmentation",
        "docs/detection",
        "docs/dense",
        "docs/video",
        "docs/serve",
        "docs/explain",
        "docs/engine",
        "docs/deploy",
        "docs/checkpoints",
        "docs/integrations",
        "docs/transformers",
    ),
    "Understand": ("docs/sizes", "docs/femto", "benchmarks/RESULTS", "docs/log"),
    "Project": ("docs/stability", "CONTRIBUTING", "CHANGELOG", "SECURITY", "femto/README", "femto/SOURCES"),
}
"""The pages by part, in the order of the navigation. tests/test_site.py checks that every page is here."""


def contents() -> str:
    """The hidden trees of contents that Sphinx reads from the start page."""
    trees = (
        "\n".join(("```{toctree}", ":hidden:", f":caption: {part}", "", *pages, "```"))
        for part, pages in CONTENTS.items()
    )
    return "\n\n" + "\n\n".join(trees) + "\n"


def _add_contents(_app: Sphinx, name: str, source: list[str]) -> None:
    if name == "README":
        source[0] += contents()


def _add_start_page(app: Sphinx, error: Exception | None) -> None:
    """A site is opened at index.html."""
    start = Path(app.outdir, "README.html")
    if error is None and start.exists():
        shutil.copyfile(start, start.with_name("index.html"))


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("source-read", _add_contents)
    app.connect("build-finished", _add_start_page)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
