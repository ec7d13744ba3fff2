"""What is public stays as it is, or the change is seen, noted and decided; see docs/stability.md."""

import difflib
import inspect
import re
import sys

import pytest

import hierax
import hierax.collection
import hierax.data
import hierax.train
from public_surface import SNAPSHOT, surface


def test_public_names_and_arguments_are_those_of_the_snapshot() -> None:
    before, now = SNAPSHOT.read_text(encoding="utf-8").splitlines(), surface().splitlines()
    lines = difflib.unified_diff(before, now, lineterm="", n=0)
    changed = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
    assert changed == [], "note it in CHANGELOG.md, then: python tests/public_surface.py"


@pytest.mark.parametrize(
    ("former", "name"),
    [
        ("Classified", "Classification"),
        ("Reconstructed", "Reconstruction"),
        ("Searched", "SearchResult"),
        ("Streamed", "StreamResult"),
    ],
)
def test_a_former_name_still_works_but_is_not_listed(former: str, name: str) -> None:
    assert getattr(hierax, former) is getattr(hierax, name)
    assert former not in dir(hierax)


INTERNAL = {"Approximate", "Column", "HitArrays", "Geometry", "Item", "Output", "RowInfo", "Report", "Unreadable"}
"""Types of methods that other rooms use; `Item` and `_Output` are type variables."""


def test_what_a_public_function_returns_is_public() -> None:
    packages = (hierax, hierax.train, hierax.data, hierax.collection)
    public = {name for package in packages for name in package.__all__}
    for package in packages:
        for name in package.__all__:
            found = getattr(package, name)
            members = inspect.getmembers(found, callable)
            own = [f for n, f in members if n == "__call__" or not n.startswith("_")]
            for function in [found] if inspect.isfunction(found) else own:
                annotation = getattr(function, "__annotations__", {}).get("return", "")
                text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
                module = sys.modules[function.__module__] if getattr(function, "__module__", None) else None
                ours = {
                    word
                    for word in re.findall(r"[A-Z]\w+", text)
                    if str(getattr(getattr(module, word, None), "__module__", "")).startswith("hierax")
                }
                assert ours <= public | INTERNAL, f"{name}: {getattr(function, '__qualname__', '')}"
