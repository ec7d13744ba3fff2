"""The comparison with public numbers (`pytest -m hub`) works up to the download: a stand-in for the Hub, no network."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

pytest.importorskip("transformers")
import published
from hub_standin import StandIn, served
from published import Numbers

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own
ROOT = Path(__file__).parent.parent
CHECKS: dict[str, Callable[..., None]] = {
    "logits": published.check_classifier,
    "pixels": published.check_classifier,
    "tokens": published.check_tokens,
    "reconstruction": published.check_reconstruction,
}


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    return StandIn(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def options(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {"cache_dir": stand_in.cache(tmp_path_factory.mktemp("cache")), "local_files_only": True}


def moved(values: Any) -> Any:
    """The last number is 0.01 larger."""
    return [*values[:-1], moved(values[-1])] if isinstance(values, list) else values + 0.01


@pytest.mark.parametrize("field", CHECKS)
def test_a_check_passes_with_the_numbers_of_its_weights_and_fails_with_others(
    field: str, stand_in: StandIn, options: dict[str, Any]
) -> None:
    CHECKS[field](stand_in.numbers, options)
    others = dataclasses.replace(stand_in.numbers, **{field: moved(getattr(stand_in.numbers, field))})
    refused = pytest.skip.Exception if field == "reconstruction" else AssertionError
    with pytest.raises(refused, match="other noise" if field == "reconstruction" else "Mismatched elements"):
        CHECKS[field](others, options)


def test_weights_in_three_formats_are_compared(
    stand_in: StandIn, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    published.check_formats(options)
    monkeypatch.setattr(published, "OTHERS", (published.FEATURES,))
    with pytest.raises((AssertionError, AttributeError)):
        published.check_formats(options)


def test_scores_of_sam_2_are_compared_for_points_and_boxes(stand_in: StandIn, options: dict[str, Any]) -> None:
    published.check_truck(stand_in.prompts, options)
    for prompt, scores in stand_in.prompts:
        with pytest.raises(AssertionError, match="scores for"):
            published.check_truck([(prompt, [*scores[:-1], scores[-1] + 0.02])], options)


def test_without_the_hub_the_skip_says_what_is_not_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(pytest.skip.Exception, match=r"switched off .*: published checkpoints are NOT tested"):
        published.require_hub()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_url", lambda *_: "http://127.0.0.1:9/config.json")
    with pytest.raises(pytest.skip.Exception, match=r"cannot be reached .*: published checkpoints are NOT tested"):
        published.require_hub()


def test_a_hub_that_says_no_is_no_reason_to_skip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with served(tmp_path) as address:
        monkeypatch.setattr(huggingface_hub, "hf_hub_url", lambda *_: f"{address}/a/b/resolve/main/config.json")
        published.require_hub()


def run_hub_tests(home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HOME": str(home), "HF_HUB_OFFLINE": "0", **variables}
    del environment["HF_HOME"]
    command = [sys.executable, "-m", "pytest", "-m", "hub", "-p", "no:cacheprovider", "tests/test_hub.py"]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_the_command_downloads_and_compares(stand_in: StandIn, tmp_path: Path) -> None:
    """The truck's numbers are those of the real weights, so this one test fails."""
    stand_in.numbers.write(tmp_path / "numbers.json")
    with served(stand_in.repositories) as address:
        done = run_hub_tests(tmp_path, HF_ENDPOINT=address, **{published.NUMBERS: str(tmp_path / "numbers.json")})
    assert "1 failed, 4 passed" in done.stdout, done.stdout
    assert "FAILED tests/test_hub.py::test_scores_of_sam_2" in done.stdout
    assert "scores for" in done.stdout
    assert list(tmp_path.rglob("model.safetensors")), "the cache of the user is used"


@pytest.mark.slow
def test_without_a_network_the_command_skips_and_says_so(tmp_path: Path) -> None:
    done = run_hub_tests(tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0, done.stdout
    assert "5 skipped" in done.stdout
    assert "WARNING: the Hub cannot be reached" in done.stdout
    assert "NOT tested" in done.stdout.splitlines()[-2], done.stdout


def test_the_public_numbers_have_the_shapes_of_those_of_the_stand_in(stand_in: StandIn) -> None:
    def shape(values: Any) -> Any:
        return [shape(value) for value in values] if isinstance(values, list) else 0

    public, small = (dataclasses.asdict(numbers) for numbers in (Numbers.stated(), stand_in.numbers))
    assert {name: shape(value) for name, value in public.items()} == {n: shape(v) for n, v in small.items()}
