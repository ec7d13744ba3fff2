"""Sphinx's settings for the site: `make docs` builds it. Pages are the Markdown files that GitHub shows too."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "src")]

from hierax.cli import version as installed_version  # noqa: E402  (after the path is set)

project = "hierax"
copyright = "the authors of hierax"
release = installed_version()
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "site_pages",
]

# The source folder is the root of the repository, so that relative links mean the same on GitHub and in the site.
root_doc = "README"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "docs/*.md",
    "docs/reference/*.md",
    "benchmarks/RESULTS.md",
    "femto/*.md",
]
exclude_patterns = [".*", "build", "dist", "demo", "src", "tests"]

nitpicky = True
suppress_warnings = ["myst.header"]  # CHANGELOG.md and the log have levels of their own

myst_heading_anchors = 4
myst_enable_extensions = ["deflist", "attrs_block"]
myst_links_external_new_tab = False
highlight_language = "text"
copybutton_prompt_text = "$ "

html_theme = "furo"
html_title = f"hierax {release}"
html_static_path = ["static"]
html_css_files = ["hierax.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
