"""The models behind transformers' own `HieraConfig`, under transformers' names, for `register(replace=True)`."""

import transformers

from hierax.integrations.transformers import models


class HieraModel(models.HieraxModel):
    """`HieraxModel` for the model type "hiera"."""

    config_class = transformers.HieraConfig


class HieraForImageClassification(models.HieraxForImageClassification):
    """`HieraxForImageClassification` for the model type "hiera"."""

    config_class = transformers.HieraConfig


class HieraForPreTraining(models.HieraxForPreTraining):
    """`HieraxForPreTraining` for the model type "hiera"."""

    config_class = transformers.HieraConfig


class HieraBackbone(models.HieraxBackbone):
    """`HieraxBackbone` for the model type "hiera"."""

    config_class = transformers.HieraConfig
