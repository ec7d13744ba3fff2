"""The published implementations to compare with: the same architectures with random weights, built by each package.

They have named architectures ("tiny", …, at 224 pixels). No other part of hierax needs this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import nn

from hierax.extras import PACKAGES, MissingPackage, load
from hierax.model.config import list_models, variant_config


def _transformers(name: str, mae: bool) -> nn.Module:
    import transformers as library

    ours = variant_config(f"hiera_{name}_224")
    fields: dict[str, Any] = {
        "depths": list(ours.depths),
        "embed_dim": ours.embed_dim,
        "num_heads": list(ours.num_heads),
        "num_labels": 1000,
    }
    if not mae:
        return library.HieraForImageClassification(library.HieraConfig(**fields))
    decoder: dict[str, Any] = {"decoder_hidden_size": 512, "decoder_depth": 8, "decoder_num_heads": 16}
    return library.HieraForPreTraining(library.HieraConfig(**fields, **decoder, num_query_pool=2))


def _timm(name: str, mae: bool) -> nn.Module:
    import timm as library  # pyright: ignore[reportMissingImports]

    if mae:
        raise ValueError("timm has no MAE")
    return library.create_model(f"hiera_{name}_224")


def _official(name: str, mae: bool) -> nn.Module:
    import hiera as library  # pyright: ignore[reportMissingImports]

    return getattr(library, f"{'mae_' if mae else ''}hiera_{name}_224")(pretrained=False)


PEERS: dict[str, Callable[[str, bool], nn.Module]] = {
    "transformers": _transformers,
    "timm": _timm,
    "official": _official,
}
"""Functions by name that build an architecture ("tiny"), with or without the MAE's decoder."""

_MODULES = {"transformers": "transformers", "timm": "timm", "official": "hiera"}


def importable(names: Sequence[str]) -> tuple[str, ...]:
    """The named peers, all of which must be installed; "all" stands for the installed ones.

    Raises:
        ValueError: a name is unknown.
        MissingPackage: a named peer cannot be imported; the message names the package to install.
    """
    found = []
    for name in dict.fromkeys(PEERS if "all" in names else names):
        if name not in PEERS:
            raise ValueError(f"against is {name!r}; expected all, {', '.join(PEERS)}")
        try:
            load(f"against {name!r}", _MODULES[name])
        except MissingPackage:
            if name in names:
                raise
            continue
        found.append(name)
    return tuple(found)


def version_of(package: str) -> str:
    """The installed version of a peer, or of a distribution by its name."""
    try:
        return version(PACKAGES[_MODULES[package]].requirement if package in _MODULES else package)
    except PackageNotFoundError:
        return "from its source tree" if package == "hierax" else "(not installed)"


def architecture(model: str, size: Sequence[int]) -> str | None:
    """ "tiny" for "hiera_tiny_224" at 224 pixels: the peers' name, or None if they do not have it."""
    name = model.removeprefix("hiera_").removesuffix("_224")
    known = model in list_models() and model == f"hiera_{name}_224"
    return name if known and tuple(size) == (224, 224) else None
