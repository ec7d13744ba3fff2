"""What is public stays as it is, or the change is seen, noted and decided; see docs/stability.md."""

import difflib

from public_surface import SNAPSHOT, surface


def test_public_names_and_arguments_are_those_of_the_snapshot() -> None:
    before, now = SNAPSHOT.read_text(encoding="utf-8").splitlines(), surface().splitlines()
    lines = difflib.unified_diff(before, now, lineterm="", n=0)
    changed = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
    assert changed == [], "note it in CHANGELOG.md, then: python tests/public_surface.py"
