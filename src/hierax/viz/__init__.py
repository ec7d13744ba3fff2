"""Images of feature maps, attention and reconstructions; sheets and animations."""

from typing import TYPE_CHECKING

from hierax.lazy import lazy_names

if TYPE_CHECKING:
    from hierax.viz.attention import attention_map, heat_image
    from hierax.viz.fonts import drawable, drawable_names
    from hierax.viz.heat import heat_overlay, with_heat_bar
    from hierax.viz.maps import enlarge, pca_image, principal_components, robust_scale, to_image
    from hierax.viz.reconstruction import Statistics, draw_units, hidden_statistics, reconstruct_pixels, statistics_note
    from hierax.viz.segmentation import overlay, paint, palette, with_legend
    from hierax.viz.sheets import Tile, sheet

__all__ = [
    "Statistics",
    "Tile",
    "attention_map",
    "draw_units",
    "drawable",
    "drawable_names",
    "enlarge",
    "heat_image",
    "heat_overlay",
    "hidden_statistics",
    "overlay",
    "paint",
    "palette",
    "pca_image",
    "principal_components",
    "reconstruct_pixels",
    "robust_scale",
    "sheet",
    "statistics_note",
    "to_image",
    "with_heat_bar",
    "with_legend",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "hierax.viz.attention": (
            "attention_map",
            "heat_image",
        ),
        "hierax.viz.fonts": (
            "drawable",
            "drawable_names",
        ),
        "hierax.viz.heat": (
            "heat_overlay",
            "with_heat_bar",
        ),
        "hierax.viz.maps": (
            "enlarge",
            "pca_image",
            "principal_components",
            "robust_scale",
            "to_image",
        ),
        "hierax.viz.reconstruction": (
            "Statistics",
            "draw_units",
            "hidden_statistics",
            "reconstruct_pixels",
            "statistics_note",
        ),
        "hierax.viz.segmentation": (
            "overlay",
            "paint",
            "palette",
            "with_legend",
        ),
        "hierax.viz.sheets": (
            "Tile",
            "sheet",
        ),
    },
)
