"""hierax's models in timm's registry, for `timm.create_model` and for packages that build on it (extra `timm`).

`register()` adds `hierax_hiera_tiny_224` and its like, and `hierax_hiera_femto_160`, whose weights come with hierax.
Inputs have any size. `features_only=True` gives what the encoders `tu-hierax_…` of segmentation-models-pytorch need.
"""

from hierax.extras import require

require("an integration with timm", "timm")

from hierax.integrations.timm.registry import Classifier, FeatureMaps, register  # noqa: E402

__all__ = ["Classifier", "FeatureMaps", "register"]
