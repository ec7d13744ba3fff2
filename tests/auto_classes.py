"""`register(replace=True)` holds for the whole process; what it changes is put back here."""

import contextlib
from collections.abc import Iterator

from transformers import (
    CONFIG_MAPPING,
    AutoBackbone,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForSemanticSegmentation,
)


@contextlib.contextmanager
def put_back() -> Iterator[None]:
    """Leaves transformers' own Hiera behind its model type at the end."""
    tasks = (AutoModelForImageClassification, AutoModelForPreTraining, AutoModelForSemanticSegmentation)
    autos = (AutoModel, *tasks, AutoBackbone)
    before = [dict(auto._model_mapping._extra_content) for auto in autos]
    try:
        yield
    finally:
        for auto, content in zip(autos, before, strict=True):
            auto._model_mapping._extra_content.clear()
            auto._model_mapping._extra_content.update(content)


@contextlib.contextmanager
def unregistered() -> Iterator[None]:
    """Takes hierax's model type away from transformers, which any test before may have registered."""
    known = CONFIG_MAPPING._extra_content
    before = dict(known)
    known.pop("hierax", None)
    try:
        yield
    finally:
        known.clear()
        known.update(before)
