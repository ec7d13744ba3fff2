"""hierax's models, configuration and processors as classes of transformers (extra `transformers`).

The module tree carries transformers' names, and the computation is hierax's own. `register()` puts the classes behind
transformers' `Auto` classes.
"""

from hierax.extras import require

require("an integration with transformers", "transformers")

from hierax.integrations.transformers.configuration import HieraxConfig  # noqa: E402
from hierax.integrations.transformers.models import (  # noqa: E402
    HieraxBackbone,
    HieraxForImageClassification,
    HieraxForPreTraining,
    HieraxForVideoClassification,
    HieraxModel,
    HieraxPreTrainedModel,
)
from hierax.integrations.transformers.processors import HieraxImageProcessor, HieraxVideoProcessor  # noqa: E402
from hierax.integrations.transformers.registration import register  # noqa: E402
from hierax.integrations.transformers.segmentation import HieraxForSemanticSegmentation  # noqa: E402

__all__ = [
    "HieraxBackbone",
    "HieraxConfig",
    "HieraxForImageClassification",
    "HieraxForPreTraining",
    "HieraxForSemanticSegmentation",
    "HieraxForVideoClassification",
    "HieraxImageProcessor",
    "HieraxModel",
    "HieraxPreTrainedModel",
    "HieraxVideoProcessor",
    "register",
]
