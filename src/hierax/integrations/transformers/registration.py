"""Puts the models behind transformers' `Auto` classes."""

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForSemanticSegmentation,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    HieraConfig,
)
from transformers.utils.import_utils import is_torchvision_available

from hierax.integrations.transformers import as_hiera
from hierax.integrations.transformers.configuration import HieraxConfig
from hierax.integrations.transformers.models import (
    HieraxBackbone,
    HieraxForImageClassification,
    HieraxForPreTraining,
    HieraxForVideoClassification,
    HieraxModel,
)
from hierax.integrations.transformers.processors import HieraxImageProcessor, HieraxVideoProcessor
from hierax.integrations.transformers.segmentation import HieraxForSemanticSegmentation


def register(*, replace: bool = False) -> None:
    """Puts the models behind transformers' `Auto` classes, for the model type "hierax".

    Args:
        replace: also for the model type "hiera". hierax then computes `facebook/hiera-…-hf` and folders that exist
            already, in classes that have transformers' names, so that what they save opens without hierax too.
    """
    AutoConfig.register("hierax", HieraxConfig, exist_ok=True)
    for auto, ours, theirs in (
        (AutoModel, HieraxModel, as_hiera.HieraModel),
        (AutoModelForImageClassification, HieraxForImageClassification, as_hiera.HieraForImageClassification),
        (AutoModelForSemanticSegmentation, HieraxForSemanticSegmentation, as_hiera.HieraForSemanticSegmentation),
        (AutoModelForPreTraining, HieraxForPreTraining, as_hiera.HieraForPreTraining),
        (AutoBackbone, HieraxBackbone, as_hiera.HieraBackbone),
        (AutoModelForVideoClassification, HieraxForVideoClassification, None),
    ):
        auto.register(HieraxConfig, ours, exist_ok=True)
        if replace and theirs is not None:
            auto.register(HieraConfig, theirs, exist_ok=True)
    processors: dict[str, type] = {"pil": HieraxImageProcessor, "torchvision": HieraxImageProcessor}
    AutoImageProcessor.register(HieraxConfig, image_processor_classes=processors, exist_ok=True)
    if is_torchvision_available():  # transformers has no AutoVideoProcessor without it
        AutoVideoProcessor.register(HieraxConfig, HieraxVideoProcessor, exist_ok=True)
