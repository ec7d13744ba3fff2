"""Published checkpoints give the numbers that are public for them: `pytest -m hub`, on a machine with a network."""

import pytest

import published
from published import Numbers

pytestmark = [pytest.mark.hub, pytest.mark.filterwarnings("ignore")]  # those of the Hub's client and of transformers


@pytest.fixture(autouse=True)
def _hub() -> None:
    published.require_hub()


def test_pixels_and_logits_are_the_public_ones() -> None:
    published.check_classifier(Numbers.stated(), {})


def test_the_weights_of_the_authors_and_of_timm_give_the_same_logits() -> None:
    published.check_formats({})


def test_features_at_another_size_are_the_public_ones() -> None:
    published.check_tokens(Numbers.stated(), {})


def test_reconstruction_and_loss_are_the_public_ones_and_those_of_transformers() -> None:
    published.check_reconstruction(Numbers.stated(), {})


def test_scores_of_sam_2_for_points_and_boxes_are_the_public_ones() -> None:
    published.check_truck(published.TRUCK_PROMPTS, {})
