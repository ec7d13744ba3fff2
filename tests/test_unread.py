"""Functions that write files as their results are read say so if nobody reads them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

import hierax
from hierax.notices import Notice


@pytest.mark.parametrize("function", [hierax.features, hierax.explain])
def test_a_call_whose_results_are_not_read_says_that_nothing_is_written(
    function: Callable[..., Iterator[Any]], classifier: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(numpy.zeros((64, 64, 3), numpy.uint8)).save(image)
    with pytest.warns(Notice, match=rf"hierax\.{function.__name__} wrote nothing.*list\("):
        function(str(image), tmp_path / "maps", model=str(classifier))
    assert not (tmp_path / "maps").exists()
    results = function([str(image)] * 2, tmp_path / "maps", model=str(classifier))
    assert len(list(results)) == 2
    started = function([str(image)] * 2, tmp_path / "more", model=str(classifier))
    next(started)
    del results, started
    assert sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert not recwarn.list
