"""What the tests of position embeddings share."""

from typing import Any

from hierax.model.config import HieraConfig
from hierax.model.positions import position_embedding
from small import CONFIGS, randomize

KINDS = sorted(CONFIGS)
OTHER = {"image": (24, 40), "video": (8, 24, 16), "line": (64,), "volume": (16, 8, 24), "abs_win": (24, 40)}


def embedding(config: HieraConfig) -> Any:
    made = position_embedding(config)
    randomize(made, std=1.0)
    return made.eval()
