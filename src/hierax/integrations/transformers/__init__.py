"""hierax's models, configuration and processors as classes of transformers (extra `transformers`).

The module tree carries transformers' names, and the computation is hierax's own: feature maps of any size, in the order
of the image. `register()` puts the classes behind transformers' `Auto` classes.
"""

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    HieraConfig,
)
from transformers.utils import is_torchvision_available

from hierax.integrations.transformers import as_hiera
from hierax.integrations.transformers.configuration import HieraxConfig
from hierax.integrations.transformers.models import (
    HieraxBackbone,
    HieraxForImageClassification,
    HieraxForPreTraining,
    HieraxForVideoClassification,
    HieraxModel,
    HieraxPreTrainedModel,
)
from hierax.integrations.transformers.processors import HieraxImageProcessor, HieraxVideoProcessor

__all__ = [
    "HieraxBackbone",
    "HieraxConfig",
    "HieraxForImageClassification",
    "HieraxForPreTraining",
    "HieraxForVideoClassification",
    "HieraxImageProcessor",
    "HieraxModel",
    "HieraxPreTrainedModel",
    "HieraxVideoProcessor",
    "register",
]


def register(*, replace: bool = False) -> None:
    """Puts the models behind transformers' `Auto` classes, for the model type "hierax".

    Args:
        replace: also for the model type "hiera": `facebook/hiera-…-hf` and existing folders are then computed by
            hierax, under transformers' names.
    """
    AutoConfig.register("hierax", HieraxConfig, exist_ok=True)
    for auto, ours, theirs in (
        (AutoModel, HieraxModel, as_hiera.HieraModel),
        (AutoModelForImageClassification, HieraxForImageClassification, as_hiera.HieraForImageClassification),
        (AutoModelForPreTraining, HieraxForPreTraining, as_hiera.HieraForPreTraining),
        (AutoBackbone, HieraxBackbone, as_hiera.HieraBackbone),
        (AutoModelForVideoClassification, HieraxForVideoClassification, None),
    ):
        auto.register(HieraxConfig, ours, exist_ok=True)
        if replace and theirs is not None:
            auto.register(HieraConfig, theirs, exist_ok=True)
    processors = {"pil": HieraxImageProcessor, "torchvision": HieraxImageProcessor}
    AutoImageProcessor.register(HieraxConfig, image_processor_classes=processors, exist_ok=True)
    if is_torchvision_available():  # transformers has no AutoVideoProcessor without it
        AutoVideoProcessor.register(HieraxConfig, HieraxVideoProcessor, exist_ok=True)
