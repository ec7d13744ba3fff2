"""The pages of the lessons in the site: with outputs if the lessons were run, and never with those of other cells."""

from __future__ import annotations

import base64
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "docs" / "site"), str(ROOT / "notebooks")]

from site_notebooks import _CELL, WITH, WITHOUT, lesson  # noqa: E402  (after the path is set)

TEXT = """---
jupyter: x
---

# A title

Words.

```python
print("a")
a
```

```console
$ hierax demo
```

```python
draw()
```

The end.
"""
PIXELS = b"\x89PNG of a test"


def executed(folder: Path, *outputs: list[dict[str, Any]], second: str = "draw()") -> Path:
    sources = (['print("a")\n', "a"], [second])
    cells = [{"cell_type": "markdown", "source": ["# A title"]}]
    cells += [
        {"cell_type": "code", "source": source, "outputs": found}
        for source, found in zip(sources, outputs, strict=True)
    ]
    (folder / "one.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    return folder


def data(**kinds: str | list[str]) -> dict[str, Any]:
    return {"output_type": "display_data", "data": {name.replace("_", "/"): value for name, value in kinds.items()}}


def stream(text: str) -> dict[str, Any]:
    return {"output_type": "stream", "name": "stdout", "text": [text]}


def test_outputs_follow_their_cells(tmp_path: Path) -> None:
    image = data(text_plain="<Figure>", image_png=base64.b64encode(PIXELS).decode())
    table = data(text_plain="Table", text_html=["<table>\n", "\n", "<tr><td>1</td></tr></table>"])
    page = lesson(
        TEXT, "one", executed=executed(tmp_path, [stream("\x1b[1ma\x1b[0m\n"), data(text_plain="'a'")], [table, image])
    )
    head, _, body = page.partition("# A title\n")
    assert head == "---\njupyter: x\n---\n\n"
    assert body.startswith(f"\n{WITH}\n\nWords.\n")
    assert body.endswith("\nThe end.\n")
    first, _, second = body.partition("```console")
    assert first.endswith(
        "```python\nprint(\"a\")\na\n```\n\n{.output}\n```text\na\n```\n\n{.output}\n```text\n'a'\n```\n\n"
    )
    assert "draw()\n```\n\n```{raw} html\n<table>\n\n<tr><td>1</td></tr></table>\n```\n" in second
    (shown,) = re.findall(r"!\[The output of the cell above\]\(\.\./build/notebooks/(.*)\)", second)
    assert (tmp_path / shown).read_bytes() == PIXELS


def test_a_fence_is_longer_than_those_in_an_output(tmp_path: Path) -> None:
    page = lesson(TEXT, "one", executed=executed(tmp_path, [stream("```python\nx\n```")], []))
    assert "{.output}\n````text\n```python\nx\n```\n````\n" in page


def test_outputs_of_other_cells_are_not_shown(tmp_path: Path) -> None:
    without = TEXT.replace("# A title\n", f"# A title\n\n{WITHOUT}\n")
    assert lesson(TEXT, "one", executed=tmp_path) == without
    assert lesson(TEXT, "one", executed=executed(tmp_path, [stream("a")], [], second="draw(2)")) == without


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.md")), ids=lambda path: path.stem)
def test_the_cells_of_a_page_are_those_that_are_run(path: Path) -> None:
    pytest.importorskip("jupytext", reason="needs the extra notebooks")
    import run as notebooks

    run = [cell.source.strip() for cell in notebooks.read(path.stem).cells if cell.cell_type == "code"]
    assert [source.strip() for source in _CELL.findall(path.read_text(encoding="utf-8"))] == run
