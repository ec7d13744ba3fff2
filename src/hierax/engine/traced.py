"""Programs of `torch.export`: ".pt2" files hold them, and the ONNX exporter reads them."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hierax.engine.context import inference_modes
from hierax.engine.fold import fold
from hierax.engine.pool import Shape
from hierax.engine.signature import Program, Signature
from hierax.model.encoder import Hiera
from hierax.model.mae import Decoder
from hierax.model.positions import decoder_grid
from hierax.model.pretrained import Pretrained
from hierax.model.tokens import UnitLayout

INPUTS = ("pixel_values", "kept")
"""Names of a program's inputs; the second exists only if it is `masked`. Older files use the name "pixels"."""


class BakedPosition(nn.Module):
    """A position embedding that was computed for one size; a constant that does not depend on the grid."""

    def __init__(self, value: Tensor, layout: UnitLayout | None = None) -> None:
        super().__init__()
        self.layout = layout
        self.value = nn.Buffer(value.detach().clone())

    def forward(self, grid: tuple[int, ...]) -> Tensor:
        """The embedding of the size it was made for."""
        return self.value


@torch.no_grad()
def for_size(model: Pretrained, size: Sequence[int], *, folded: bool = True) -> Pretrained:
    """A copy of `model` for inputs of `size` pixels only, with position embeddings of that size; `folded` by `fold`."""
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
    """The program of `model` at `size` pixels for tracing: folded, with constant position embeddings, computing in
    `dtype`.
    """
    return Program(for_size(model, size).to(dtype), signature).eval()


def exported_program(program: Program, example: tuple[Tensor, ...], *, dynamic: bool) -> torch.export.ExportedProgram:
    """`program` at the sizes of `example`, for any number of images if `dynamic`, else for the example's."""
    batch = torch.export.Dim("batch", min=1)
    shapes = {name: {0: batch} for name, _ in zip(INPUTS, example, strict=False)} if dynamic else None
    with inference_modes(torch.device("cpu")), quiet():
        traced = torch.export.export(program, example, dynamic_shapes=shapes)
    for node in traced.graph.nodes:  # it holds paths of the source code on the exporting machine
        node.meta.pop("stack_trace", None)
    return traced


@contextlib.contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """A context without the warnings and logs that exporters, quantizers and file readers write for their
    developers.
    """
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


def example_inputs(program: Program, shape: Shape, batch: int = 2) -> tuple[Tensor, ...]:
    """Example inputs of a shape to trace a program with."""
    pixels = torch.zeros(batch, program.model.config.num_channels, *shape.size, dtype=torch.float32)
    if shape.kept is None:
        return (pixels,)
    return pixels, torch.arange(shape.kept).repeat(batch, 1)
