"""Files, bytes, Pillow images and arrays to pixels, as each checkpoint's record says."""

from hierax.processing.auto import AutoImageProcessor
from hierax.processing.batch import BatchFeature
from hierax.processing.decode import DEFAULT_MAX_PIXELS
from hierax.processing.demux import VideoError
from hierax.processing.errors import ImageError
from hierax.processing.image import HieraImageProcessor
from hierax.processing.reading import Picture, load_image
from hierax.processing.record import IMAGENET, KINETICS, Preprocessing
from hierax.processing.resize import Geometry, geometry
from hierax.processing.video import Clip, HieraVideoProcessor

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "IMAGENET",
    "KINETICS",
    "AutoImageProcessor",
    "BatchFeature",
    "Clip",
    "Geometry",
    "HieraImageProcessor",
    "HieraVideoProcessor",
    "ImageError",
    "Picture",
    "Preprocessing",
    "VideoError",
    "geometry",
    "load_image",
]
