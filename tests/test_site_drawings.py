"""The drawings of docs/concepts.md are those that the script draws, and can be read in light and dark mode."""

from __future__ import annotations

import base64
import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs" / "site"))

from concept_drawings import DRAWINGS, OUTPUT, main  # noqa: E402  (after the path is set)
from svg import STYLE  # noqa: E402

INSIDE = re.compile(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)")


def photos(text: str) -> list[np.ndarray]:
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(code)))).astype(int) for code in INSIDE.findall(text)]


def test_the_committed_drawings_are_what_the_script_draws(tmp_path: Path) -> None:
    """Photos may differ by what JPEG encoders differ in."""
    main([str(tmp_path)])
    assert {path.name for path in OUTPUT.iterdir()} == {f"{name}.svg" for name in DRAWINGS}
    for name in DRAWINGS:
        drawn, kept = ((place / f"{name}.svg").read_text(encoding="utf-8") for place in (tmp_path, OUTPUT))
        assert INSIDE.sub("", drawn) == INSIDE.sub("", kept), name
        for one, other in zip(photos(drawn), photos(kept), strict=True):
            assert one.shape == other.shape
            assert np.abs(one - other).mean() < 2


def contrast(first: str, second: str) -> float:
    """The contrast ratio of WCAG 2 of two colors such as #1b1f24."""

    def luminance(color: str) -> float:
        values = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_text_and_marks_stand_out_in_light_and_in_dark_mode(mode: int) -> None:
    palette = re.findall(r":root \{(.*?)\}", STYLE, flags=re.DOTALL)[mode]
    colors = dict(re.findall(r"--(\w+): (#\w{6})", palette))
    assert contrast(colors["ink"], colors["paper"]) > 7
    assert contrast(colors["soft"], colors["paper"]) > 4.5
    assert contrast(colors["soft"], colors["fill"]) > 4.5
    assert min(contrast(colors[name], colors["paper"]) for name in ("blue", "orange")) > 4.5
