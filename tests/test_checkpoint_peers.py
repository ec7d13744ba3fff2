from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from peer_files import CASES, LIMIT, Differences
from small import fresh_seed


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_outputs_equal_those_of_the_published_package(case: Callable[[Path], Differences], tmp_path: Path) -> None:
    if find_spec("timm") is None or find_spec("hiera") is None:
        pytest.skip("timm and hiera-transformer are not installed")
    fresh_seed()
    assert max(case(tmp_path).values()) <= LIMIT
