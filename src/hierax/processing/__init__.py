"""Converts files, bytes, Pillow images and arrays to pixels, according to the preprocessing record of a checkpoint."""

from typing import TYPE_CHECKING

from hierax.lazy import lazy_names

if TYPE_CHECKING:
    from hierax.processing.auto import AutoImageProcessor
    from hierax.processing.batch import BatchFeature
    from hierax.processing.decode import DEFAULT_MAX_PIXELS
    from hierax.processing.demux import VideoError
    from hierax.processing.errors import ImageError
    from hierax.processing.image import HieraImageProcessor
    from hierax.processing.reading import ImageInput, load_image
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
    "ImageInput",
    "Preprocessing",
    "VideoError",
    "geometry",
    "load_image",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "hierax.processing.auto": ("AutoImageProcessor",),
        "hierax.processing.batch": ("BatchFeature",),
        "hierax.processing.decode": ("DEFAULT_MAX_PIXELS",),
        "hierax.processing.demux": ("VideoError",),
        "hierax.processing.errors": ("ImageError",),
        "hierax.processing.image": ("HieraImageProcessor",),
        "hierax.processing.reading": (
            "ImageInput",
            "load_image",
        ),
        "hierax.processing.record": (
            "IMAGENET",
            "KINETICS",
            "Preprocessing",
        ),
        "hierax.processing.resize": (
            "Geometry",
            "geometry",
        ),
        "hierax.processing.video": (
            "Clip",
            "HieraVideoProcessor",
        ),
    },
)
