"""Checkpoints: the table of published weights; loading, saving and converting, with one file per format.

Names are imported when they are first used, so that the table can be read without importing torch.
"""

from hierax.lazy import lazy_names

_MODULES = {
    "hierax.checkpoint.records": ("CheckpointRecord", "find_record", "list_checkpoints"),
    "hierax.checkpoint.hub": ("HubOptions",),
    "hierax.checkpoint.load": ("LoadingReport",),
    "hierax.checkpoint.preprocessing": ("load_preprocessing",),
    "hierax.checkpoint.save": ("convert", "model_card", "save_model", "to_abs_win"),
}
__all__ = [name for names in _MODULES.values() for name in names]  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
