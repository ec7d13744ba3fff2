"""Files, bytes, Pillow images and arrays to pixels, as each checkpoint's record says."""

from hierax.processing.batch import BatchFeature
from hierax.processing.decode import DEFAULT_MAX_PIXELS
from hierax.processing.errors import ImageError
from hierax.processing.image import AutoImageProcessor, HieraImageProcessor
from hierax.processing.reading import Picture, load_image
from hierax.processing.record import IMAGENET, KINETICS, Preprocessing
from hierax.processing.resize import Geometry, geometry

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "IMAGENET",
    "KINETICS",
    "AutoImageProcessor",
    "BatchFeature",
    "Geometry",
    "HieraImageProcessor",
    "ImageError",
    "Picture",
    "Preprocessing",
    "geometry",
    "load_image",
]
