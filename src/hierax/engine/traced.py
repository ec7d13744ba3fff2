"""A program written down by `torch.export`: what ".pt2" files hold and what the ONNX exporter reads."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hierax.encoder import Hiera
from hierax.engine.eager import undisturbed
from hierax.engine.fold import fold
from hierax.engine.program import Program, Signature
from hierax.mae import Decoder
from hierax.positions import decoder_grid
from hierax.pretrained import Pretrained
from hierax.tokens import UnitLayout

INPUTS = ("pixel_values", "kept")
"""Names of what a program takes; the second one only where it is `masked`. Files of before say "pixels"."""


class BakedPosition(nn.Module):
    """A position embedding that was computed for one size: a constant, whatever grid is asked for."""

    def __init__(self, value: Tensor, layout: UnitLayout | None = None) -> None:
        super().__init__()
        self.layout = layout
        self.value = nn.Buffer(value.detach().clone())

    def forward(self, grid: tuple[int, ...]) -> Tensor:
        """The embedding of the size it was made for."""
        return self.value


@torch.no_grad()
def baked(model: Pretrained, size: Sequence[int], *, folded: bool = True) -> Pretrained:
    """A copy of `model` for inputs of `size` pixels alone, its position embeddings resized once; `folded` by `fold`."""
    made = fold(model) if folded else copy.deepcopy(model).requires_grad_(False)
    for part in list(made.modules()):
        if isinstance(part, Hiera):
            position: Any = part.pos_embed
            part.register_module("pos_embed", BakedPosition(position(model.config.token_grid(size)), position.layout))
        elif isinstance(part, Decoder):
            table = part.pos_embed(decoder_grid(model.config, size))
            part.register_module("pos_embed", BakedPosition(table))
    return made.eval()


def program_for(model: Pretrained, size: Sequence[int], signature: Signature, *, dtype: torch.dtype) -> Program:
    """The program of `model` at `size` pixels that is traced: folded, baked, computing in `dtype`."""
    return Program(baked(model, size).to(dtype), signature).eval()


def exported_program(program: Program, example: tuple[Tensor, ...], *, dynamic: bool) -> torch.export.ExportedProgram:
    """`program` at the sizes of `example`, for any number of images if `dynamic`, else for the example's."""
    batch = torch.export.Dim("batch", min=1)
    shapes = {name: {0: batch} for name, _ in zip(INPUTS, example, strict=False)} if dynamic else None
    with undisturbed(torch.device("cpu")), quiet():
        traced = torch.export.export(program, example, dynamic_shapes=shapes)
    for node in traced.graph.nodes:  # holds the paths of the source on the machine that exports
        node.meta.pop("stack_trace", None)
    return traced


@contextlib.contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Keeps what exporters, quantizers and readers of files say to their own developers from users."""
    before = {name: logging.getLogger(name).level for name in loggers}
    try:
        for name in loggers:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
