"""What an editor knows of results: pyright checks the types that this file states, as part of `make lint`."""

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from hierax import HieraBackbone, HieraForImageClassification, HieraForPreTraining, HieraModel, load
from small import image_config, pixels

if TYPE_CHECKING:
    from typing_extensions import assert_type


def test_what_is_loaded_has_the_type_of_its_task(classifier: Path) -> None:
    model = load(classifier, task="classification")
    if TYPE_CHECKING:
        assert_type(model, HieraForImageClassification)
    assert isinstance(model, HieraForImageClassification)


def test_results_have_types() -> None:
    config = image_config()
    x = pixels(config)
    logits = HieraForImageClassification(config)(x).logits
    pooled = HieraModel(config)(x).pooler_output
    maps = HieraBackbone(config)(x).feature_maps
    loss = HieraForPreTraining(image_config(num_query_pool=2))(x, mask_ratio=0.5).loss
    if TYPE_CHECKING:
        assert_type(logits, Tensor)
        assert_type(pooled, Tensor)
        assert_type(maps, tuple[Tensor, ...])
        assert_type(loss, Tensor)
    assert all(isinstance(tensor, Tensor) for tensor in (logits, pooled, *maps, loss))
