"""Checkpoints: the table of published weights; loading, saving and converting; one file per format.

Names are imported when first used, so that the table can be read without importing torch.
"""

from typing import Any

_HOME = {
    "CheckpointRecord": "records",
    "find_record": "records",
    "list_checkpoints": "records",
    "HubOptions": "hub",
    "LoadingReport": "load",
    "load_preprocessing": "preprocessing",
    "convert": "save",
    "model_card": "save",
    "save_model": "save",
    "to_abs_win": "save",
}
__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
