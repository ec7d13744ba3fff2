"""The reference: what stands in single backquotes of a docstring is code, and a link if it is a public name."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

from docutils import nodes

from public_surface import PACKAGES  # pyright: ignore[reportMissingImports]  # of tests/, see conf.py

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_SPAN = re.compile(r"(?<![`:\w])`([^`\n]+)`(?![`_\w])")


def public_names() -> dict[str, tuple[str, Any]]:
    """Full name and object of every public name, by the name alone and by the full name; the first package wins."""
    found: dict[str, tuple[str, Any]] = {}
    for package in PACKAGES:
        module = import_module(package)
        for name in module.__all__:
            entry = (f"{package}.{name}", getattr(module, name))
            found.setdefault(name, entry)
            found[entry[0]] = entry
    return found


def target_of(text: str, names: dict[str, tuple[str, Any]]) -> str:
    """The full name of a public name or of a member of one; "" if it is something else."""
    if text in names:
        return names[text][0]
    owner, _, member = text.rpartition(".")
    return (
        f"{names[owner][0]}.{member}" if owner in names and inspect.isfunction(vars_of(names[owner][1], member)) else ""
    )


def vars_of(owner: Any, member: str) -> Any:
    """The member of a class as it is defined in it, not in a base."""
    return vars(owner).get(member) if inspect.isclass(owner) and not member.startswith("_") else None


def linked(line: str, names: dict[str, tuple[str, Any]]) -> str:
    """A line of a docstring as reStructuredText."""
    pieces, last = [], 0
    for found in _SPAN.finditer(line):
        target = target_of(found[1], names)
        pieces.append(line[last : found.start()].replace("*", "\\*"))
        pieces.append(f":py:obj:`{found[1]} <{target}>`" if target else f"``{found[1]}``")
        last = found.end()
    return "".join([*pieces, line[last:].replace("*", "\\*")])


def _dashes(_app: Sphinx, document: nodes.document) -> None:
    """Between a name and its explanation stands a dash: the site does not make them from hyphens elsewhere."""
    for field in document.findall(nodes.field):
        for text in list(field.findall(nodes.Text)):
            if text.startswith(" -- "):
                text.parent.replace(text, nodes.Text(f" – {text[4:]}"))


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    names = public_names()

    def rewrite(_app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
        lines[:] = [linked(line, names) for line in lines]

    app.connect("doctree-read", _dashes)
    app.connect("autodoc-process-docstring", rewrite, priority=400)  # before napoleon adds marks of its own
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
