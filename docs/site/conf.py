"""Sphinx's settings for the site: `make docs` builds it. Pages are the Markdown files that GitHub shows too."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "src")]
sys.path.append(str(ROOT / "tests"))  # site_reference reads which names are public

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
    "site_notebooks",
    "site_reference",
    "site_commands",
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
    "notebooks/*.md",
    "femto/*.md",
]
exclude_patterns = [".*", "build", "dist", "demo", "src", "tests"]

nitpicky = True
nitpick_ignore_regex = [
    (
        "py:class",
        ".*",
    ),  # types of signatures: the build needs no network, so there are no inventories of other projects
    ("py:.*", r"(?!hierax\.).*"),
]
smartquotes = False  # an option begins with two hyphens
suppress_warnings = ["myst.header"]  # CHANGELOG.md and the log have levels of their own

myst_heading_anchors = 4
myst_enable_extensions = ["deflist", "attrs_block"]
myst_links_external_new_tab = False
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
autodoc_mock_imports = ["timm"]
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_param = False  # several names that share an explanation stay together
napoleon_use_rtype = False

highlight_language = "text"
copybutton_prompt_text = "$ "

html_theme = "furo"
html_title = f"hierax {release}"
html_static_path = ["static"]
html_css_files = ["hierax.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
