"""What the site adds to the Markdown that GitHub shows: the contents, the start page."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

CONTENTS: dict[str, dict[str, str]] = {
    "Start": {
        "docs/install": "Install",
        "docs/models": "Checkpoints and licenses",
        "docs/transformers": "Coming from transformers",
    },
    "Lessons": {
        "notebooks/first_look": "A first look",
        "notebooks/features_and_similarity": "Features and similarity",
        "notebooks/finetune": "Fine-tune in five minutes",
        "notebooks/segmentation": "From weights to a segmentation",
        "notebooks/video": "Video",
    },
    "Jobs": {
        "docs/label": "Label",
        "docs/features": "Features and maps",
        "docs/embed": "Embed and search",
        "docs/pretrain": "Pretrain",
        "docs/finetune": "Fine-tune",
        "docs/recipes": "Recipes",
        "docs/segmentation": "Segment",
        "docs/detection": "Detect",
        "docs/dense": "Choose weights for both",
        "docs/video": "Video",
        "docs/serve": "Serve",
        "docs/explain": "Explain",
        "docs/engine": "Run fast and export",
        "docs/deploy": "Deploy",
        "docs/checkpoints": "Checkpoint files",
        "docs/gpus": "GPUs",
        "docs/machines": "Several machines",
        "docs/offline": "Air-gapped machines",
        "docs/channels": "Other channels and dimensions",
        "docs/integrations": "Integrations",
    },
    "Understand": {
        "docs/concepts": "How Hiera works",
        "docs/sizes": "Any input size",
        "docs/femto": "hierax/femto",
        "docs/comparison": "Comparison",
        "benchmarks/RESULTS": "Results",
        "docs/log": "Log",
    },
    "Reference": {
        "docs/reference/commands": "Commands",
        "docs/reference/predict": "Label, explain, segment",
        "docs/reference/models": "Models",
        "docs/reference/checkpoints": "Checkpoints",
        "docs/reference/processing": "Images and videos to pixels",
        "docs/reference/engine": "Engine and exports",
        "docs/reference/collections": "Collections of features",
        "docs/reference/train": "Training and evaluation",
        "docs/reference/data": "Data",
        "docs/reference/detection": "Detection",
        "docs/reference/serve": "Server",
        "docs/reference/integrations": "In other libraries",
    },
    "Project": {
        "docs/stability": "Stability",
        "CONTRIBUTING": "Contributing",
        "CHANGELOG": "Changelog",
        "SECURITY": "Security",
        "femto/README": "How femto is made",
        "femto/SOURCES": "Sources of its images",
    },
}
"""The pages by part, each with its name in the navigation. tests/test_site.py checks that every page is here."""


def contents() -> str:
    """The hidden trees of contents that Sphinx reads from the start page."""
    trees = (
        "\n".join(
            (
                "```{toctree}",
                ":hidden:",
                f":caption: {part}",
                "",
                *(f"{title} <{page}>" for page, title in pages.items()),
                "```",
            )
        )
        for part, pages in CONTENTS.items()
    )
    return "\n\n" + "\n\n".join(trees) + "\n"


_NAMED = re.compile(r"\[(?:[\w./-]*/)?([\w-]+\.md)\]\((?=(?:[\w./-]*/)?\1[#)])")


def with_titles(text: str) -> str:
    """The text with links whose words are the name of the file they lead to: the site shows the title of the page."""
    return _NAMED.sub("[](", text)


def _change_source(_app: Sphinx, name: str, source: list[str]) -> None:
    source[0] = with_titles(source[0])
    if name == "README":
        source[0] += contents()


def _add_start_page(app: Sphinx, error: Exception | None) -> None:
    """A site is opened at index.html."""
    start = Path(app.outdir, "README.html")
    if error is None and start.exists():
        shutil.copyfile(start, start.with_name("index.html"))


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("source-read", _change_source)
    app.connect("build-finished", _add_start_page)
    return {"version": "1", "env_version": 1, "parallel_read_safe": True, "parallel_write_safe": True}
