"""The models behind transformers' own `HieraConfig`, under transformers' names, for `register(replace=True)`."""

import transformers

from hierax.integrations.transformers import models, segmentation


class HieraModel(models.HieraxModel):
    """`HieraxModel` for the model type "hiera"."""

    config_class = transformers.HieraConfig


class HieraForImageClassification(models.HieraxForImageClassification):
    """`HieraxForImageClassification` for the model type "hiera"."""

    config_class = transformers.HieraConfig


class HieraForSemanticSegmentation(segmentation.HieraxForSemanticSegmentation):
    """`HieraxForSemanticSegmentation` for the model type "hiera"; transformers has no such class of its own."""

    config_class = transformers.HieraConfig


class HieraForPreTraining(models.HieraxForPreTraining):
    """`HieraxForPreTraining` for the model type "hiera"."""

    config_class = transformers.HieraConfig


class HieraBackbone(models.HieraxBackbone):
    """`HieraxBackbone` for the model type "hiera"."""

    config_class = transformers.HieraConfig
