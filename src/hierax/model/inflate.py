"""Inflation: from a model of images to a model of clips that starts from its weights."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from hierax.model.config import HieraConfig
from hierax.model.encoder import Hiera
from hierax.model.positions import PositionEmbedding
from hierax.model.pretrained import Pretrained
from hierax.model.tasks import HieraForImageClassification, HieraForVideoClassification, HieraModel

if TYPE_CHECKING:
    from hierax.checkpoint.report import LoadingReport

Patch = Literal["center", "mean"]
"""How the patch embedding's weights fill its three frames: all in the middle one, or a third in each."""
_EMBEDDING = "encoder.patch_embed.proj.weight"
_POSITION = "encoder.pos_embed."


def inflate(source: str | os.PathLike[str] | Pretrained, *, frames: int = 16, patch: Patch = "center") -> Pretrained:
    """A model of clips with the weights of a model of images. A classifier gives a classifier with its head; other
    models give a `HieraModel`. The decoder of a masked autoencoder is left out, because clips have other targets;
    `loading_report` of the result lists it under `ignored`.

    The temporal position embedding is 0, so at first the order of frames has no effect. With the patch embedding
    "center", a clip without motion has the pooled features and logits of its image. "mean" (Carreira and Zisserman,
    arXiv 1705.07750) averages over three frames; for the first token, the frame before the clip counts as zeros. Only
    the frames in the preprocessing record change: the weights were trained with its mean and standard deviation.

    Args:
        source: a model of images, or a Hub id, folder or file to load one from.
        frames: number of frames of a clip, a multiple of 2.

    Raises:
        ValueError: the model does not take images, the number of frames is odd, or `patch` is unknown.
    """
    from hierax.checkpoint.load import load

    model = source if isinstance(source, Pretrained) else load(source)
    if model.config.axes != 2:
        raise ValueError(f"{type(model).__name__} takes {model.config.axes} axes; expected an image model")
    if frames < 2 or frames % 2:
        raise ValueError(f"frames is {frames}; expected a multiple of 2, the frames of a token")
    if patch not in get_args(Patch):
        raise ValueError(f"patch is {patch!r}; expected one of {', '.join(map(repr, get_args(Patch)))}")
    config = inflated_config(model.config, frames=frames)
    classifier = isinstance(model, HieraForImageClassification)
    with torch.device("meta"):
        made: Pretrained = (HieraForVideoClassification if classifier else HieraModel)(config)
    state = _inflate_tensors(model, frames=frames, patch=patch)
    wanted = made.state_dict()
    state = {**_fresh_norm(state[_EMBEDDING], model.config.hidden_size), **state}
    made.load_state_dict({name: state[name] for name in wanted}, assign=True)
    record = model.preprocessing
    made.preprocessing = None if record is None else record.with_frames(frames)
    made.loading_report = _report(model, made, source)
    return made.train(model.training)


def _report(model: Pretrained, made: Pretrained, source: object) -> LoadingReport:
    """The report of loading, with what inflation left out or initialized."""
    from hierax.checkpoint.report import LoadingReport

    found = model.loading_report or LoadingReport(
        str(source) if isinstance(source, (str, os.PathLike)) else type(model).__name__, "hierax"
    )
    parts = [list(dict.fromkeys(name.split(".")[0] for name in m.state_dict())) for m in (model, made)]
    before = ["encoder"] if isinstance(model, Hiera) else parts[0]
    return replace(
        found,
        ignored=[*found.ignored, *(part for part in before if part not in parts[1])],
        reinitialized=[*found.reinitialized, *(part for part in parts[1] if part not in before)],
        changed=[*found.changed, f"image_size {model.config.image_size} -> {made.config.image_size}"],
    )


def inflated_config(config: HieraConfig, *, frames: int) -> HieraConfig:
    """The same configuration for clips of `frames` frames (paper, table 1 and section 3).

    Pooling is between the same stages, and mask units have the same height and width.
    """
    along = {"patch_size": 3, "patch_stride": 2, "patch_padding": 1, "query_stride": 1, "masked_unit_size": 1}
    changes = {name: (first, *getattr(config, name)) for name, first in along.items()}
    return config.replace(
        image_size=(frames, *config.image_size),
        **changes,
        position_embedding="separable",
        global_position_size=None,
        target="first_frame",
    )


def _inflate_tensors(model: Pretrained, *, frames: int, patch: Patch) -> dict[str, Tensor]:
    """The tensors of a model of clips, by name."""
    bare = isinstance(model, Hiera)
    encoder, prefix = (model, "encoder.") if bare else (model.get_submodule("encoder"), "")
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    weight = state[_EMBEDDING]
    if patch == "mean":
        inflated = weight[:, :, None].repeat(1, 1, 3, 1, 1) / 3
    else:
        inflated = weight.new_zeros(*weight.shape[:2], 3, *weight.shape[2:])
        inflated[:, :, 1] = weight
    positions = encoder.get_submodule("pos_embed")
    assert isinstance(positions, PositionEmbedding)
    config = model.config
    with torch.no_grad():
        spatial = positions.table(config.token_grid(config.image_size)).flatten(1, 2)
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(_POSITION)}
    return {
        **kept,
        _EMBEDDING: inflated,
        f"{_POSITION}spatial": spatial.clone(),
        f"{_POSITION}temporal": spatial.new_zeros(1, frames // 2, spatial.shape[-1]),
    }


def _fresh_norm(weight: Tensor, width: int) -> dict[str, Tensor]:
    """An untrained norm before the head. A masked autoencoder has none: its own norm is for fused maps."""
    return {"norm.weight": weight.new_ones(width), "norm.bias": weight.new_zeros(width)}
