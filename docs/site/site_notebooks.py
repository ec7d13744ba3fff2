"""The lessons of the site: their cells, and below each cell what it shows, if the lessons were run.

The outputs are those of `build/notebooks`, where `make notebooks` writes them. They are not part of the repository.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
EXECUTED = ROOT / "build" / "notebooks"
WITHOUT = (
    "*This is a notebook, here without the outputs of its cells. `make site` runs all lessons, and shows their outputs "
    "in these pages.*"
)
WITH = "*This is a notebook. Below each cell is what it shows.*"
_CELL = re.compile(r"^```python\n(.*?)^```$\n?", re.DOTALL | re.MULTILINE)
_IMAGES = {"image/png": "png", "image/gif": "gif", "image/jpeg": "jpg"}
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def lesson(text: str, name: str, *, executed: Path = EXECUTED) -> str:
    """The page of a lesson: a note below the title, and the outputs of the cells if they belong to these cells.

    Args:
        text: the Markdown of the lesson.
        name: its name, such as "first_look".
        executed: the folder of the notebooks with outputs. The images in them are written beside them.
    """
    shown = _with_outputs(text, executed / f"{name}.ipynb")
    head, title, rest = (text if shown is None else shown).partition("\n# ")
    first, line, body = rest.partition("\n")
    return f"{head}{title}{first}{line}\n{WITHOUT if shown is None else WITH}\n{body}"


def _with_outputs(text: str, file: Path) -> str | None:
    """The lesson with its outputs; None if it was not run, or was run before its cells were changed."""
    if not file.is_file():
        return None
    notebook = json.loads(file.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    if [_joined(cell["source"]).strip() for cell in cells] != [source.strip() for source in _CELL.findall(text)]:
        return None
    found = iter(enumerate(cells))

    def extended(match: re.Match[str]) -> str:
        number, cell = next(found)
        pieces = _pieces(cell["outputs"], file.with_name(f"{file.stem}-{number}"))
        return "\n".join([match[0].rstrip("\n"), *(f"\n{piece}" for piece in pieces)]) + "\n"

    return _CELL.sub(extended, text)


def _pieces(outputs: Sequence[Mapping[str, Any]], stem: Path) -> Iterator[str]:
    """The outputs of a cell as Markdown. Images are written to files whose names begin with `stem`."""
    for number, output in enumerate(outputs):
        if output["output_type"] == "stream":
            yield _text(_joined(output["text"]))
        elif data := output.get("data"):
            yield _richest(data, stem.with_name(f"{stem.name}-{number}"))


def _richest(data: Mapping[str, Any], stem: Path) -> str:
    """The form of an output that a notebook would show."""
    if "text/html" in data:
        return _fenced(_joined(data["text/html"]).strip(), "{raw} html")
    kind = next((kind for kind in _IMAGES if kind in data), None)
    if kind is None:
        return _text(_joined(data.get("text/plain", "")))
    file = stem.with_name(f"{stem.name}.{_IMAGES[kind]}")
    file.write_bytes(base64.b64decode(_joined(data[kind])))
    return f"![The output of the cell above](../build/notebooks/{file.name})"


def _text(text: str) -> str:
    """Text as a block of the class `output`."""
    return "{.output}\n" + _fenced(_ESCAPES.sub("", text).rstrip(), "text")


def _fenced(text: str, kind: str) -> str:
    """A block whose fence is longer than any in the text."""
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return f"{fence}{kind}\n{text}\n{fence}"


def _joined(lines: str | Sequence[str]) -> str:
    """The text of a field of a notebook, which may be a list of lines."""
    return lines if isinstance(lines, str) else "".join(lines)


def _show(_app: Sphinx, page: str, source: list[str]) -> None:
    if page.startswith("notebooks/"):
        source[0] = lesson(source[0], page.partition("/")[2])


def _read_again(_app: Sphinx, env: Any, *_sets: Any) -> list[str]:
    """The lessons are always read: their outputs may be new where their text is not."""
    return [page for page in env.found_docs if page.startswith("notebooks/")]


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("source-read", _show)
    app.connect("env-get-outdated", _read_again)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
